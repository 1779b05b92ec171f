"""Train a small classifier, then break it by calling it only."""

import torch
from torch import nn

import zoracle
from zoracle.tasks import task

# Images and labels of the 8x8 digits that come with zoracle; your own model and images do as well.
digits = task("digits")
train = digits.pictures(digits.ids("train"))
test = digits.pictures(digits.ids("test")[:10])

torch.manual_seed(0)  # for the weights of this model; zoracle itself never uses the global generator
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
adam = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(100):
    adam.zero_grad()
    nn.functional.cross_entropy(model(train.images), train.labels).backward()
    adam.step()

result = zoracle.attack(model, test.images, test.labels, budget=2100, optimizer="zo-lstm")

predicted = model(result.adversarial).argmax(1)
for i, label in enumerate(test.labels.tolist()):
    if result.misclassified[i]:
        said = "was misclassified from the start"
    elif result.success[i]:
        said = f"is read as {predicted[i]} after {result.queries_to_success[i]} queries"
    else:
        said = "withstood"
    print(f"a {label} {said}; l1 distance {result.distances['l1'][i]:.2f}")
