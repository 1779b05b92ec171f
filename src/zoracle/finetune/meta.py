"""Training of the controller: evolution strategies over small networks trained by forward passes, many runs at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from zoracle import __version__, keyed
from zoracle.errors import CheckpointError, InputError
from zoracle.finetune.controller import FEATURES, HIDDEN, SIZE, begin, decide, described, gain, observe
from zoracle.finetune.controller_file import FORMAT, WEIGHTS
from zoracle.finetune.nets import Net, problem
from zoracle.finetune.signs import partners
from zoracle.settings import convert, read_toml
from zoracle.storage.files import read_tensors, write_tensors, write_text

_LEAST, _MOST = -6.0, 2.0  # of the logarithm of final / initial loss: one run must not outweigh the others


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
    start = [p.detach() for p in net.module.parameters()]
    names = [name for name, _ in net.module.named_parameters()]
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
    """That of the rule without a controller."""
    updates: int
    seconds: float


def validate(weights: Tensor, recipe: Recipe) -> float:
    """Mean log of final / initial loss over the validation problems."""
    scores = []
    for number in range(8):
        net = problem("valid", number, recipe.seed)
        scores.append(
            runs(
                weights.unsqueeze(0),
                net,
                250,
                recipe.num_directions,
                keyed.mix(recipe.seed, 3, number),
                recipe.balanced,
            )
        )
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
    about = msgspec.to_builtins(recipe, str_keys=True) | {"minutes": None}
    about["steps"] = list(recipe.steps)
    weights = _start(recipe.seed)
    moments, done, spent = torch.zeros(2, SIZE, dtype=torch.float64), 0, 0.0
    best, untrained = weights.clone(), math.nan
    lowest = math.inf
    if path.is_file():
        kept, metadata = read_tensors(path)
        if metadata.get("recipe") != about:
            raise CheckpointError(f"{path} belongs to another recipe; choose another folder")
        weights, moments, best = kept["weights"], kept["moments"], kept["best"]
        done, spent = metadata["done"], metadata["seconds"]
        lowest, untrained = metadata["lowest"], metadata["untrained"]
    else:
        lowest = untrained = validate(weights, recipe)
        tell(f"untrained: {untrained:.4f}")
    while done < recipe.updates and spent < 60 * recipe.minutes:
        began = time.monotonic()
        slope = _slope(weights, recipe, done)
        done += 1
        moments[0].lerp_(slope, 0.1)
        moments[1].lerp_(slope.square(), 0.02)
        lr = recipe.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done / recipe.updates)))
        unbiased = (moments[1] / (1 - 0.98**done)).sqrt().add(1e-8)
        weights = weights - lr * moments[0] / (1 - 0.9**done) / unbiased
        last = done == recipe.updates
        if last or done % recipe.validate_every == 0:
            score = validate(weights, recipe)
            if score < lowest:
                lowest, best = score, weights.clone()
            tell(f"{done}: {score:.4f}, best {lowest:.4f}")
        spent += time.monotonic() - began
        if last or done % recipe.validate_every == 0:
            state = {"weights": weights, "moments": moments, "best": best}
            metadata = {"recipe": about, "done": done, "seconds": spent, "lowest": lowest, "untrained": untrained}
            write_tensors(path, state, metadata)
    trained = Trained(best, lowest, untrained, done, spent)
    write(folder, recipe, trained)
    return trained


def _slope(weights: Tensor, recipe: Recipe, update: int) -> Tensor:
    """The gradient estimate of the mean score from ranked pairs on one problem (Salimans et al., 2017)."""
    g = keyed.generator(recipe.seed, 2, update)
    noise = torch.randn((recipe.pairs, SIZE), generator=g, dtype=torch.float64)
    tried = weights + recipe.sigma * torch.cat((noise, -noise))
    low, high = recipe.steps
    steps = round(low * (high / low) ** float(torch.rand((), generator=g)))
    net, key = problem("train", update, recipe.seed), keyed.mix(recipe.seed, 4, update)
    scores = runs(tried, net, steps, recipe.num_directions, key, recipe.balanced)
    order = scores.argsort().argsort().double()
    ranks = order / (len(scores) - 1) - 0.5
    return (ranks[: recipe.pairs] - ranks[recipe.pairs :]) @ noise / (2 * recipe.pairs * recipe.sigma)


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
    write_tensors(folder / WEIGHTS, {"weights": trained.weights}, metadata)
    write_text(folder / "MODEL_CARD.md", _card(recipe, trained))


def _card(recipe: Recipe, trained: Trained) -> str:
    return f"""# The controller of `ZerothOrder(params, "learned")`

{SIZE} weights, shared by all tensors of a network: from each tensor's size, kind and spread, and from slope, curvature
and noise of the losses, it gives the radius of the tensor's probe and the length of its step.

## Training

- Networks: MLPs of 8 to 48 units with one or two hidden layers and CNNs of 4 to 16 channels on half of the 8x8 digits
  that ship with the package; transformers of one or two blocks, 8 to 32 wide, on sequences drawn at random. Two of
  three were trained with gradients first, and then have three classes renamed.
- Evolution by ranks, {recipe.pairs} pairs, sigma {recipe.sigma:g}; one network an update, {trained.updates} updates;
  runs of {recipe.steps[0]} to {recipe.steps[1]} steps of {recipe.num_directions} directions of
  {"balanced" if recipe.balanced else "independent"} signs; Adam, step size {recipe.lr:g}.
- Took {trained.seconds / 60:.0f} minutes of one core. Seed {recipe.seed}.

Mean log of final / initial loss on 8 validation networks (the other half of the digits, other sequences):
{trained.validated:.3f}; {trained.untrained:.3f} for the same rule with a controller that says nothing. The first number
chose the weights, so it flatters them.
"""


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
