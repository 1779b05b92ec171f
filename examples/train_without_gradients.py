"""Train a network by calling it only: mini-batches, a learning-rate schedule, and no backward pass."""

import torch
from torch import nn

from zoracle.interop.torch_optim import ZerothOrder
from zoracle.tasks import task

STEPS, BATCH = 300, 200

digits = task("digits")
train = digits.pictures(digits.ids("train"))
test = digits.pictures(digits.ids("test"))

torch.manual_seed(0)  # for the weights of this model; zoracle itself never uses the global generator
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
optimizer = ZerothOrder(model.parameters(), "zo-adam", lr=0.03, seed=0)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)

order = torch.Generator().manual_seed(0)
for step in range(STEPS):
    # Fetched outside the closure, so that all calls of a step see the same images.
    chosen = torch.randperm(len(train.labels), generator=order)[:BATCH]
    images, labels = train.images[chosen], train.labels[chosen]
    loss = optimizer.step(lambda x=images, y=labels: nn.functional.cross_entropy(model(x), y))
    schedule.step()
    if step % 50 == 0:
        print(f"step {step:3}: loss {loss:.3f} after {optimizer.queries} calls of the loss")

with torch.no_grad():
    accuracy = (model(test.images).argmax(1) == test.labels).float().mean()
print(f"{accuracy:.1%} of {len(test.labels)} test images are right; no gradient was taken")
