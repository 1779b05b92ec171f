"""What authors outside the package write: three examples in one file each pass the batteries and run by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zoracle import testing
from zoracle.blackboxes import PythonFunction
from zoracle.cli.main import main
from zoracle.optimizers.descent.zo_sgd import ZOSGD, ZOSGDState
from zoracle.storage.code import load_named
from zoracle.tasks import task
from zoracle.types import Queries

EXTENSIONS = Path(__file__).resolve()
while not (EXTENSIONS / "examples").is_dir():
    EXTENSIONS = EXTENSIONS.parent
EXTENSIONS = EXTENSIONS / "examples" / "extensions"


def named(file: str) -> str:
    return str(EXTENSIONS / file)


def test_an_optimizer() -> None:
    testing.check_optimizer(load_named(named("momentum.py:Momentum")))
    testing.check_optimizer(partial(load_named(named("momentum.py:Momentum")), difference="central"), ball=True)


def test_a_task() -> None:
    made = task(named("chain.py:Chains"), dim=6)
    testing.check_task(made)
    points = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)
    testing.check_objective(made.objective((1, 2, 3, 4), dtype=torch.float64), points, torch.arange(4))


def test_a_target() -> None:
    with load_named(named("program.py:Program"))() as box:
        testing.check_black_box(box, torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_they_run_by_name(tmp_path: Path) -> None:
    for arguments in (
        ["compare", "--task", named("chain.py:Chains"), "--optimizers", f"{named('momentum.py:Momentum')},zo-sgd"],
        ["attack", "--target", named("program.py:Program"), "--data", "digits", "--optimizers", "zo-sgd"],
    ):
        out = tmp_path / arguments[0]
        main([*arguments, "--problems", "2", "--seeds", "1", "--steps", "3", "--out", str(out)])
        assert (out / "table.md").is_file()
    assert "| Momentum |" in (tmp_path / "compare" / "table.md").read_text()
    assert str(EXTENSIONS) not in (tmp_path / "attack" / "config.json").read_text()


class Forgetful(ZOSGD):
    """Remembers between calls what belongs in the state."""

    shift = 0.0

    def _step(self, state: ZOSGDState, gradient: Tensor) -> ZOSGDState:
        self.shift += 0.01
        return super()._step(state, gradient)._replace(x=state.x - self.shift)


class Wasteful(ZOSGD):
    """Asks for one point more than it declares."""

    def _ask(self, state: ZOSGDState) -> Queries:
        asked = super()._ask(state)
        return asked._replace(points=torch.cat((asked.points, asked.points[:, :1]), 1))


class Mixing(ZOSGD):
    """Steps along the mean of all problems."""

    def _step(self, state: ZOSGDState, gradient: Tensor) -> ZOSGDState:
        return super()._step(state, gradient.mean(0, keepdim=True).expand_as(gradient))


class Careless(ZOSGD):
    """Takes values as they come."""

    def _tell(self, state: ZOSGDState, queries: Queries, values: Tensor, gradients: Tensor | None) -> ZOSGDState:
        return self._step(state, values[:, :1] * torch.ones_like(state.x))


@pytest.mark.parametrize("cls", [Forgetful, Wasteful, Mixing, Careless])
def test_the_battery_finds_what_is_wrong_with_an_optimizer(cls: type[ZOSGD]) -> None:
    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        testing.check_optimizer(cls)


def test_the_batteries_find_what_is_wrong_with_others() -> None:
    class Overwriting(testing.Bowls):
        def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Any:
            found = super()._evaluate(points, problem, step)
            points.detach().zero_()
            return found

    class Steep(testing.Bowls):
        def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
            loss, gradient = super()._gradient(points, problem, step)
            return loss, 2 * gradient

    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    testing.check_objective(testing.Bowls(3, 4), x, torch.arange(3))
    for wrong, message in ((Overwriting, "changed the points"), (Steep, "differences say")):
        with pytest.raises(AssertionError, match=message):
            testing.check_objective(wrong(3, 4), x.clone(), torch.arange(3))

    mixed = PythonFunction(lambda inputs: torch.stack((inputs.sum(1), inputs.mean() + inputs.sum(1)), 1))
    with pytest.raises(AssertionError, match="alone than in a batch"):
        testing.check_black_box(mixed, torch.rand(3, 4, generator=torch.Generator().manual_seed(0)))
