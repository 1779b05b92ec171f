"""The call pattern of the paper's public code, made again here, beside ours."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.attack import Q, optimizer, step_seconds
from benchmarks.measure import Options, interleaved, seconds
from benchmarks.report import Report, figure, ratio
from benchmarks.targets import Target, target
from zoracle.keyed import generator
from zoracle.tasks.networks import build

ABOUT = (
    "an attack step and image of the public code's call pattern (2 q + 1 forward passes of one image in float64, and "
    "an LSTM step of d coordinates for each of two networks) over ours, in one run on one thread"
)
NOTE = "the public code itself is not run: its call pattern is made again here, without its logging and data loading"
HIDDEN = 10


class Pattern:
    """One image under attack as the public code goes about it.

    A step is, for each of q directions, f(x + mu u) and f(x) again, then f at the new iterate: 2 q + 1 forward passes
    of batch 1 in float64; then one step of UpdateRNN and one of QueryRNN over the d coordinates. In training the
    gradient of the iterate's loss is had by one more backward pass, and the LSTMs keep their graph over K steps.
    """

    def __init__(self, found: Target) -> None:
        self.d = int(torch.Size(found.shape).numel())
        self.shape = found.shape
        self.network = build(type(found.network)).double()
        self.network.load_state_dict(found.network.state_dict())
        self.network.requires_grad_(False)
        self.update, self.query = _LSTM(1, seed=1), _LSTM(2, seed=2)
        self.image = torch.rand(1, self.d, generator=generator(3), dtype=torch.float64)
        self.label = 3
        self.begin()

    def begin(self) -> None:
        """A fresh perturbation, and LSTMs that remember nothing."""
        self.delta = torch.full((1, self.d), 1e-4, dtype=torch.float64)
        self.sigma = torch.ones(1, self.d, dtype=torch.float64)
        self.update.begin(self.d)
        self.query.begin(self.d)
        self.generator = generator(4)

    def loss(self, delta: Tensor) -> Tensor:
        """The attack's loss of one perturbation (1, d): one forward pass of batch 1."""
        adversarial = (self.image + delta).clamp(0, 1)
        log_p = self.network(((adversarial - 0.1307) / 0.3081).view(1, *self.shape))
        other = log_p[0, torch.arange(log_p.shape[1]) != self.label].max()
        hinge = (log_p[0, self.label] - other).clamp(min=0)
        loss: Tensor = hinge + 0.1 * (adversarial - self.image).abs().sum()
        return loss

    def estimate(self, mu: float = 1e-5) -> Tensor:
        """The gradient by q forward differences, f(x) evaluated again for each."""
        total = torch.zeros_like(self.delta)
        for _ in range(Q):
            u = self.sigma * torch.randn(self.delta.shape, generator=self.generator, dtype=torch.float64)
            with torch.no_grad():  # the values carry no gradient, the direction outside the difference does
                slope = (self.loss(self.delta + mu * u) - self.loss(self.delta)) / mu
            total = total + slope * u
        return total / Q

    def attack_step(self) -> None:
        """A step at test time."""
        with torch.no_grad():
            self._step(self.estimate())
            self.loss(self.delta)

    def train(self, truncation: int, *, query: bool) -> None:
        """Forward and backward of one truncated segment, of UpdateRNN alone or of QueryRNN."""
        parameters = [p for p in (self.query if query else self.update).parameters() if p.requires_grad]
        self.begin()
        terms = []
        for _ in range(truncation):
            gradient = self.estimate()
            self._step(gradient if query else gradient.detach())
            x = self.delta.detach().requires_grad_(True)
            (true,) = torch.autograd.grad(self.loss(x), x)
            terms.append((self.delta * true).sum() + (0.005 * (self.sigma - 1).square().sum() if query else 0.0))
        torch.autograd.grad(torch.stack(terms).sum(), parameters, allow_unused=True)

    def _step(self, gradient: Tensor) -> None:
        step = self.update(gradient.view(-1, 1)).view(1, -1)
        o = self.query(torch.stack((gradient.view(-1), step.view(-1)), dim=1).detach()).view(1, -1)
        self.sigma = ((1 + o) * self.d**0.5 / (1 + o).norm()).abs()
        self.delta = self.delta + step


class _LSTM(nn.Module):
    """torch's own LSTM cell with a linear head, in float64."""

    def __init__(self, inputs: int, *, seed: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.cell = nn.LSTMCell(inputs, HIDDEN, bias=False)
            self.head = nn.Linear(HIDDEN, 1, bias=False)
        self.to_empty(device="cpu").double()
        g = generator(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.05, 0.05, generator=g)

    def begin(self, rows: int) -> None:
        """Forget."""
        self.hidden = (torch.zeros(rows, HIDDEN, dtype=torch.float64), torch.zeros(rows, HIDDEN, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs (N, 1) of inputs (N, .)."""
        self.hidden = self.cell(rows, self.hidden)
        return F.linear(self.hidden[0], self.head.weight)


def run(options: Options) -> Report:
    """Ours at 100 images, its pattern at one, which is all that it does at once."""
    found = target("mnist")
    ids = found.ids[: 2 if options.quick else 100]
    steps = 2 if options.quick else options.steps
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pattern = Pattern(found)
        made = {name: optimizer(name, found.trained_for) for name in ("zo-lstm", "zo-lstm-paper")}
        pattern.attack_step()
        times = interleaved(
            {
                "pattern": lambda: seconds(pattern.attack_step, 0.0 if options.quick else 1.0),
                **{
                    name: lambda one=one: step_seconds(one, found.task, ids, steps) / len(ids)  # type: ignore[misc]
                    for name, one in made.items()
                },
            },
            options.repeats,
        )
    finally:
        torch.set_num_threads(before)
    figures = [figure("public code's pattern, a step and image", "ms", [1e3 * value for value in times["pattern"]])]
    for name in made:
        figures.append(figure(f"{name}, a step and image at B = {len(ids)}", "ms", [1e3 * v for v in times[name]]))
        figures.append(ratio(f"pattern over {name}", times["pattern"], times[name], at_least=10.0))
    settings: dict[str, Any] = {"q": Q, "B": len(ids), "steps": steps, "threads": 1, "weights": found.weights}
    return Report("public-pattern", ABOUT, figures, {**settings, "repeats": options.repeats}, [NOTE])
