"""Training of the controller: evolution strategies over small networks trained by forward passes, many runs at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from zoracle import __version__, keyed
from zoracle.errors import CheckpointError, InputError
from zoracle.finetune.card import card
from zoracle.finetune.controller import FEATURES, HEAD, HIDDEN, SIZE, begin, decide, described, gain, observe
from zoracle.finetune.controller_file import FORMAT, WEIGHTS, load
from zoracle.finetune.nets import KINDS, TURNS, Net, problem
from zoracle.finetune.signs import partners
from zoracle.settings import convert, read_toml
from zoracle.storage.files import read_tensors, write_tensors, write_text

_LEAST, _MOST = -6.0, 2.0  # of the logarithm of final / initial loss: one run must not outweigh the others
BEFORE = "before"  # folder of the training that comes first
VALIDATED = 12  # number of validation problems


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a controller is trained.

    Attributes:
        updates: number of updates of the controller's weights.
        pairs: number of antithetic pairs of perturbed controllers per update.
        sigma: standard deviation of the perturbations.
        lr: step size of Adam, which falls to a tenth.
        steps: length of the shortest and of the longest run.
        num_directions: q of the runs.
        seed: keys everything.
        validate_every: updates between two validations.
        minutes: time limit.
        balanced: whether directions balance in the rows of a matrix, as those of the method do.
        restarts: numbers of updates after which the step size rises again, each time to half of what it was before.
        kinds: kinds of networks, in turn, see :func:`zoracle.finetune.nets.problem`.
        smoothing: of a running mean of the weights, which is what is validated; 0 is the weights themselves.
        head: whether only the controller's last layer is trained: fewer weights need fewer runs.
        before: a training that comes first: this one continues from its result.
        kernels: whether the result is for networks of convolutions; that of the training before serves the others.
    """

    updates: int = 600
    pairs: int = 8
    sigma: float = 0.08
    lr: float = 0.02
    steps: tuple[int, int] = (60, 400)
    num_directions: int = 4
    seed: int = 0
    validate_every: int = 25
    minutes: float = 30.0
    balanced: bool = True
    restarts: tuple[int, ...] = ()
    kinds: tuple[Annotated[int, msgspec.Meta(ge=0, lt=KINDS)], ...] = tuple(range(TURNS))
    smoothing: float = 0.0
    head: bool = False
    before: Recipe | None = None
    kernels: bool = False

    def __post_init__(self) -> None:
        if self.kernels and self.before is None:
            raise ValueError("kernels is given without a training before, whose result serves other networks")

    def rate(self, done: int) -> float:
        """The step size of the update by number, from 1: it falls to a tenth after each start (SGDR, 2017)."""
        ends = [0, *self.restarts, self.updates]
        part = max(0, sum(end < done for end in ends) - 1)
        share = (done - ends[part]) / (ends[part + 1] - ends[part])
        return self.lr * 0.5**part * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))


@torch.no_grad()
def runs(weights: Tensor, net: Net, steps: int, q: int, seed: int, balanced: bool = True) -> Tensor:
    """Log of final / initial loss of P runs by P controllers, (P,): same start, batches and directions for all.

    Args:
        weights: weights of the controllers, (P, SIZE).
        net: the problem.
        steps: number of steps of each run.
        q: directions per step.
        seed: keys batches and directions.
        balanced: whether directions balance in the rows of a matrix.
    """
    count = weights.shape[0]
    g = keyed.generator(seed, 1)
    moving = {name: p.detach() for name, p in net.module.named_parameters() if p.requires_grad}
    start, names = list(moving.values()), list(moving)
    x = [p.expand(count, *p.shape).clone() for p in start]
    numbers = torch.tensor([p.numel() for p in start], dtype=torch.float64)
    fans = torch.tensor([max(1, p.numel() // p.shape[0]) if p.dim() > 1 else 1 for p in start], dtype=torch.float64)
    tensors, signals = described([p.shape for p in start]), begin(count)

    def one(parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(net.module, parameters, (inputs,)), labels)

    losses = vmap(one, in_dims=(0, None, None))

    def evaluate(points: list[Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return losses(dict(zip(names, points, strict=True)), inputs, labels).double()

    first = evaluate([p.unsqueeze(0) for p in start], *net.whole())[0]
    radius = factor = torch.zeros(0)
    for step in range(steps):
        if step % 10 == 0:
            sizes = torch.stack([p.double().flatten(1).square().mean(1).sqrt() for p in x], 1)
        radius, factor = decide(weights, signals, tensors, sizes, numbers, fans, step / steps)
        batch = net.batch(g)
        z = [torch.randint(2, (q, *p.shape), generator=g).mul_(2).sub_(1).float() for p in start]
        if balanced:
            z = [_balance(signs, g) if signs.dim() > 2 else signs for signs in z]
        probes = []
        for tensor, (p, signs) in enumerate(zip(x, z, strict=True)):
            s = radius[:, tensor].float().view(-1, 1, *[1] * (p.dim() - 1))
            moved = p.unsqueeze(1) + s * signs.unsqueeze(0)
            probes.append(torch.cat((p.unsqueeze(1), moved), 1).flatten(0, 1))
        found = evaluate(probes, *batch).view(count, q + 1).nan_to_num(1e6, 1e6, 1e6)
        here, differences = found[:, 0], found[:, 1:] - found[:, :1]
        signals = observe(signals, here, differences)
        scale = gain(signals, q) / signals.spread.sqrt().clamp(min=1e-30)
        c = (differences - differences.mean(1, keepdim=True)) * scale.unsqueeze(1)
        for tensor, (p, signs) in enumerate(zip(x, z, strict=True)):
            length = (radius[:, tensor] * factor[:, tensor]).unsqueeze(1)
            p.sub_(((length * c).float() @ signs.flatten(1)).view_as(p))
    last = evaluate(x, *net.whole()).nan_to_num(1e6, 1e6, 1e6)
    return (last / first).clamp(min=1e-6).log().clamp(_LEAST, _MOST)


def _balance(signs: Tensor, g: torch.Generator) -> Tensor:
    """Directions (q, rows, ...) of independent signs as ones that balance in rows."""
    flat = signs.flatten(2)
    n = flat.shape[2]
    for direction, shift in zip(flat, torch.randint(n, (len(flat),), generator=g).tolist(), strict=True):
        source, opposite = partners(n, shift)
        direction.copy_(direction[:, source] * torch.where(opposite, -1.0, 1.0))
    return flat.view_as(signs)


class Trained(NamedTuple):
    """The result of a training."""

    weights: Tensor
    validated: float
    """Mean log of final / initial loss on validation problems."""
    untrained: float
    """That of the weights it started from; without a training before, the rule without a controller."""
    updates: int
    seconds: float


def validate(weights: Tensor, recipe: Recipe) -> float:
    """Mean log of final / initial loss over the validation problems."""
    scores = []
    for number in range(VALIDATED):
        kind, key = recipe.kinds[number % len(recipe.kinds)], keyed.mix(recipe.seed, 3, number)
        net = problem("valid", number, recipe.seed, kind)
        scores.append(runs(weights.unsqueeze(0), net, recipe.steps[1], recipe.num_directions, key, recipe.balanced))
    return float(torch.cat(scores).mean())


def train(recipe: Recipe, folder: Path, tell: Callable[[str], None] = lambda line: None) -> Trained:
    """Train a controller, or resume its training: the folder gets a checkpoint after each validation.

    Args:
        recipe: settings of the training.
        folder: folder of the checkpoint and the result.
        tell: called with a line of text after each validation.

    Raises:
        CheckpointError: the folder holds a different training.
    """
    path = folder / "training.safetensors"
    about = msgspec.json.decode(msgspec.json.encode(recipe)) | {"minutes": None}
    weights = _start(recipe.seed)
    if recipe.before:
        weights = _earlier(recipe.before, folder / BEFORE, tell)
    moments, done, spent = torch.zeros(2, SIZE, dtype=torch.float64), 0, 0.0
    mean, best, untrained = weights.clone(), weights.clone(), math.nan
    lowest = math.inf
    if path.is_file():
        kept, metadata = read_tensors(path)
        if metadata.get("recipe") != about:
            raise CheckpointError(f"{path} belongs to another recipe; choose another folder")
        weights, moments, mean, best = (kept[name] for name in ("weights", "moments", "mean", "best"))
        done, spent = metadata["done"], metadata["seconds"]
        lowest, untrained = metadata["lowest"], metadata["untrained"]
    else:
        lowest = untrained = validate(weights, recipe)
        tell(f"start: {untrained:.4f}")
    while done < recipe.updates and spent < 60 * recipe.minutes:
        began = time.monotonic()
        slope = _slope(weights, recipe, done)
        done += 1
        moments[0].lerp_(slope, 0.1)
        moments[1].lerp_(slope.square(), 0.02)
        unbiased = (moments[1] / (1 - 0.98**done)).sqrt().add(1e-8)
        weights = weights - recipe.rate(done) * moments[0] / (1 - 0.9**done) / unbiased
        mean.lerp_(weights, 1 - recipe.smoothing)
        last = done == recipe.updates
        if last or done % recipe.validate_every == 0:
            score = validate(mean, recipe)
            if score < lowest:
                lowest, best = score, mean.clone()
            tell(f"{done}: {score:.4f}, best {lowest:.4f}")
        spent += time.monotonic() - began
        if last or done % recipe.validate_every == 0:
            state = {"weights": weights, "moments": moments, "mean": mean, "best": best}
            metadata = {"recipe": about, "done": done, "seconds": spent, "lowest": lowest, "untrained": untrained}
            write_tensors(path, state, metadata)
    trained = Trained(best, lowest, untrained, done, spent)
    write(folder, recipe, trained)
    return trained


def _slope(weights: Tensor, recipe: Recipe, update: int) -> Tensor:
    """The gradient estimate of the mean score from ranked pairs on one problem (Salimans et al., 2017)."""
    g = keyed.generator(recipe.seed, 2, update)
    noise = torch.randn((recipe.pairs, SIZE), generator=g, dtype=torch.float64)
    if recipe.head:
        noise[:, :-HEAD] = 0
    tried = weights + recipe.sigma * torch.cat((noise, -noise))
    low, high = recipe.steps
    steps = round(low * (high / low) ** float(torch.rand((), generator=g)))
    kind, key = recipe.kinds[update % len(recipe.kinds)], keyed.mix(recipe.seed, 4, update)
    net = problem("train", update, recipe.seed, kind)
    scores = runs(tried, net, steps, recipe.num_directions, key, recipe.balanced)
    order = scores.argsort().argsort().double()
    ranks = order / (len(scores) - 1) - 0.5
    return (ranks[: recipe.pairs] - ranks[recipe.pairs :]) @ noise / (2 * recipe.pairs * recipe.sigma)


def _earlier(recipe: Recipe, folder: Path, tell: Callable[[str], None]) -> Tensor:
    """The result of the training that comes first, which is run where the folder does not hold it."""
    if not (folder / WEIGHTS).is_file():
        train(recipe, folder, tell)
    return load(folder / WEIGHTS).general


def _start(seed: int) -> Tensor:
    """Initial weights, which halve the step and nothing else: the last layer is zero except for one bias."""
    g = keyed.generator(seed, 5)
    first = torch.randn(FEATURES * HIDDEN, generator=g, dtype=torch.float64) * FEATURES**-0.5
    rest = torch.zeros(SIZE - FEATURES * HIDDEN, dtype=torch.float64)
    rest[-1] = -0.5
    return torch.cat((first, rest))


def write(folder: Path, recipe: Recipe, trained: Trained) -> None:
    """Weights and card."""
    metadata: dict[str, Any] = {
        "format": FORMAT, "version": 1, "zoracle": __version__, "torch": torch.__version__,
        "recipe": msgspec.to_builtins(recipe), "updates": trained.updates, "seconds": round(trained.seconds),
        "validated": trained.validated, "untrained": trained.untrained,
    }  # fmt: skip
    tensors, before = {"weights": trained.weights}, None
    if recipe.before:
        earlier, before = read_tensors(folder / BEFORE / WEIGHTS)
        if recipe.kernels:
            tensors = {"weights": earlier["weights"], "kernels": trained.weights}
    write_tensors(folder / WEIGHTS, tensors, metadata)
    write_text(folder / "MODEL_CARD.md", card(metadata, VALIDATED, before))


def recipe(path: Path) -> Recipe:
    """A recipe from a TOML file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return convert(read_toml(path.read_text(encoding="utf-8")), Recipe)
    except (OSError, UnicodeDecodeError, InputError) as error:
        raise InputError(f"{path} is not a recipe: {error}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m zoracle.finetune.meta RECIPE FOLDER``."""
    import sys

    chosen, folder = arguments if arguments is not None else sys.argv[1:]
    train(recipe(Path(chosen)), Path(folder), lambda line: print(line, flush=True))  # noqa: T201


if __name__ == "__main__":
    main()
