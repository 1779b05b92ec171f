"""Classes and functions of the user's own, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoracle
from zoracle.blackboxes import BlackBox
from zoracle.comparison.named import named_optimizers
from zoracle.errors import InputError
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.descent.zo_sgd import ZOSGD
from zoracle.optimizers.pretrained import Use
from zoracle.storage.code import is_named, load_named, load_subclass, place_of, source_of
from zoracle.storage.fingerprint import optimizer_config
from zoracle.tasks import Task, task
from zoracle.tasks.config import task_config
from zoracle.tasks.quadratic import QuadraticTask

OPTIMIZER = """
from __future__ import annotations

from zoracle.optimizers.base import Config
from zoracle.optimizers.descent.zo_sgd import ZOSGD, ZOSGDConfig


class MineConfig(ZOSGDConfig, frozen=True, kw_only=True):
    extra: int = 3


class Mine(ZOSGD):
    Config = MineConfig


number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "my optimizer.py"
    path.write_text(OPTIMIZER)
    return path


def test_the_forms_of_a_name() -> None:
    for name in ("a.py:B", "some dir/a.py:B", "a:b", "a.b:C.d", "/x/a.py:B"):
        assert is_named(name), name
    for name in ("a.py", "B", "a b:c", "a.py:", ":b", "a.py:b c", "zo-sgd", "http://host:80/x", ""):
        assert not is_named(name), name


def test_an_optimizer_in_a_file(mine: Path) -> None:
    name = f"{mine}:Mine"
    optimizer = zoracle.load(name, extra=5)
    assert type(optimizer).__name__ == "Mine"
    assert optimizer.config.extra == 5
    assert type(zoracle.load(name)) is type(optimizer), "read once"
    assert load_named(place_of(type(optimizer))) is type(optimizer)
    ((label, found),) = named_optimizers(name, Use())
    assert (label, type(found)) == ("Mine", type(optimizer))
    with pytest.raises(InputError, match="extra"):
        zoracle.load(name, extra="five")


def test_a_changed_file_is_another_optimizer(mine: Path) -> None:
    before = optimizer_config(zoracle.load(f"{mine}:Mine"))
    mine.write_text(OPTIMIZER + "# changed\n")
    after = optimizer_config(zoracle.load(f"{mine}:Mine"))
    assert before["source_sha256"] != after["source_sha256"]
    assert before == {**after, "source_sha256": before["source_sha256"]}
    assert source_of(ZOSGD) is None
    assert "source_sha256" not in optimizer_config(ZOSGD())


def test_a_task_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "from zoracle.tasks.quadratic import QuadraticTask\n\n\nclass Bowls(QuadraticTask):\n    name = 'bowls'\n"
    )
    made = task(f"{path}:Bowls", dim=7)
    assert (made.name, made.dim) == ("bowls", 7)
    assert task_config(made)["source_sha256"] == source_of(type(made))
    assert "source_sha256" not in task_config(QuadraticTask())
    with pytest.raises(InputError, match="has no setting 'colour'"):
        task(f"{path}:Bowls", colour=1)


@pytest.mark.parametrize(
    ("name", "base", "message"),
    [
        ("{}:Other", Optimizer, "my optimizer.py has no Other; expected a name that it defines"),
        ("{}:number", Optimizer, "is a int; expected a subclass of zoracle.optimizers.base.Optimizer"),
        ("{}:Mine", Task, "is Mine; expected a subclass of zoracle.tasks.base.Task"),
        ("{}x.py:Mine", Optimizer, "cannot be read: No such file or directory; expected a Python file"),
        ("broken.py:Mine", BlackBox, "running broken.py raised SyntaxError"),
        ("zoracle.nothing:Mine", BlackBox, "there is no module zoracle.nothing"),
        ("zoracle", BlackBox, "expected my_file.py:Name or package.module:name"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    mine: Path, monkeypatch: pytest.MonkeyPatch, name: str, base: type, message: str
) -> None:
    monkeypatch.chdir(mine.parent)
    Path("broken.py").write_text("def f(:\n")
    with pytest.raises(InputError) as caught:
        load_subclass(name.format(mine), base)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_in_a_function_has_no_place() -> None:
    class Hidden:
        pass

    with pytest.raises(InputError, match="cannot be imported by another process"):
        place_of(Hidden)
