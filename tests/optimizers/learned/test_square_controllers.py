"""Square Attack's controllers: what they ask for, what they remember, and that their training teaches them."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor

from zoracle.errors import CheckpointError, InputError
from zoracle.metatrain import recipe as trainings
from zoracle.metatrain.controllers import Fit, Prey, imitate
from zoracle.metatrain.controllers_training import CHECKPOINT, ControllersRecipe, parse, train
from zoracle.metatrain.controllers_validation import queries
from zoracle.optimizers.learned.square_controllers import Perceptron, SquareControllers
from zoracle.optimizers.pretrained import CARD, load_optimizer
from zoracle.optimizers.search.square import SquareAttack, halvings
from zoracle.types import Space

SHAPE = (3, 8, 8)
D = 192


def space(b: int, reach: float = 0.1, shape: tuple[int, ...] = SHAPE, radius: float = torch.inf) -> Space:
    d = torch.Size(shape).numel()
    return Space(
        torch.full((b, d), -reach),
        torch.full((b, d), reach),
        torch.full((b,), radius),
        torch.tensor([shape]).repeat(b, 1),
    )


def begin(optimizer: SquareControllers, b: int = 1, **where):
    there = space(b, **where)
    return optimizer.init(torch.zeros_like(there.low), seed=5, horizon=100, space=there)


def at_work(optimizer: SquareControllers, b: int = 1):
    """A state after the stripes, which had a loss of one."""
    state = begin(optimizer, b)
    return optimizer.tell(state, optimizer.ask(state), torch.ones(b, 1))


def test_it_begins_with_stripes_and_goes_on_with_squares() -> None:
    optimizer = SquareControllers()
    state = begin(optimizer, 4)
    first = optimizer.ask(state).points[:, 0].view(4, *SHAPE)
    assert torch.equal(first, first[:, :, :1].expand(-1, -1, 8, -1))
    assert torch.equal(first.abs(), torch.full_like(first, 0.1))
    state = optimizer.tell(state, optimizer.ask(state), torch.ones(4, 1))
    queries = optimizer.ask(state)
    changed = (queries.points[:, 0] != state.x).view(4, *SHAPE)
    for problem, number in zip(range(4), queries.aux.number.tolist(), strict=True):
        assert changed[problem].any(), "every square changes something"
        rows, columns = changed[problem].any(0).any(1).nonzero(), changed[problem].any(0).any(0).nonzero()
        # sigma(-2) of 64 pixels is a square of side 3.
        assert len(rows) <= 3
        assert len(columns) <= 3
        for channel in range(3):
            new = queries.points[problem, 0].view(SHAPE)[channel][changed[problem, channel]]
            assert (new == (0.1 if number >> channel & 1 else -0.1)).all()


def test_the_size_is_what_its_network_says() -> None:
    optimizer = SquareControllers()
    for logit, side in ((-6.0, 1), (0.0, 6), (6.0, 7)):
        optimizer.size.bias2.data.fill_(logit)
        state = at_work(optimizer, 60)
        changed = (optimizer.ask(state).points[:, 0] != state.x).view(-1, *SHAPE).any(1)
        assert int(changed.any(2).sum(1).max()) == side


def test_colours_that_change_nothing_are_not_asked_for() -> None:
    rises = torch.tensor([[True, False, False], [False, False, False]])
    falls = torch.tensor([[False, False, True], [False, False, False]])
    chances = SquareControllers.chances(torch.zeros(2, 8, dtype=torch.float64), rises, falls)
    # Bit 0 up, or bit 2 down.
    expected = torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 1]).double() / 6
    torch.testing.assert_close(chances[0], expected)
    torch.testing.assert_close(chances[1], torch.full((8,), 1 / 8, dtype=torch.float64))


def test_what_was_kept_is_remembered_by_colour() -> None:
    optimizer = SquareControllers(decay=0.9)
    state = at_work(optimizer, 2)
    assert state.accepted.tolist() == [0.5, 0.5], "stripes are not squares"
    queries = optimizer.ask(state)
    told = optimizer.tell(state, queries, torch.tensor([[0.5], [2.0]]))
    torch.testing.assert_close(told.accepted, torch.tensor([0.55, 0.45]).double())
    for problem, expected in enumerate((0.55, 0.45)):
        own = int(queries.aux.number[problem])
        assert float(told.colours[problem, own]) == pytest.approx(expected)
        others = [c for c in range(8) if c != own]
        assert told.colours[problem, others].tolist() == [0.5] * 7
    lost = optimizer.tell(state, queries, torch.full((2, 1), torch.nan))
    assert torch.equal(lost.x, state.x)


def test_where_it_cannot_search() -> None:
    with pytest.raises(InputError, match="use square in an l2 ball"):
        begin(SquareControllers(), reach=1.0, radius=0.5)
    with pytest.raises(InputError, match="images have 9 channels; expected at most 8"):
        begin(SquareControllers(), shape=(9, 2, 2))


class Blue:
    """Logits that only the last channel moves, pixel by pixel: all else is wasted."""

    def __call__(self, images: Tensor) -> Tensor:
        gap = 2.0 - 20 * (images[:, 2] - 0.5).mean((1, 2))
        return torch.stack((gap, torch.zeros_like(gap)), 1)


def test_training_finds_colour_and_size() -> None:
    """Where only blue counts and every pixel alike, squares become large and blue goes up."""
    optimizer = SquareControllers(weight_seed=1)
    g = torch.Generator().manual_seed(0)
    prey = [Prey("blue", Blue(), 0.5 + 0.01 * torch.rand(12, *SHAPE, generator=g), torch.zeros(12).long(), (0.06,))]
    state = at_work(optimizer)
    before = optimizer.size_logit(state)
    fit = Fit(optimizer, prey, updates=25, horizons=(12,), batch=6, pairs=3, lr=0.05, seed=2)
    for _ in range(25):
        fit.step()
    assert not any(p.requires_grad for p in optimizer.parameters())
    assert float(optimizer.size_logit(state) - before) > 0.3
    # What a colour has won so far is what tells it from others.
    told = state._replace(colours=torch.where(torch.arange(8) == 4, 0.9, 0.1).double().unsqueeze(0))
    assert int(optimizer.colour_logits(told).argmax()) == 4


def test_a_perceptron_says_the_same_alone_and_in_a_batch() -> None:
    net = Perceptron(2, 10, 4)
    net.weight2.data.fill_(0.3)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(net(x)[7:8], net(x[7:8]))


RECIPE = """
optimizer = "square-controllers"
images = 10
updates = 2
horizons = [3]
batch = 2
pairs = 1
[start]
steps = 20
[[networks]]
name = "conv-8"
task = "digits"
side = 8
kind = "conv"
epochs = 1
"""


def test_a_recipe_trains_and_says_so(tmp_path) -> None:
    recipe = parse(RECIPE)
    made = train(recipe, tmp_path, lambda _: None)
    loaded = load_optimizer(tmp_path)
    assert isinstance(loaded.optimizer, SquareControllers)
    for name, tensor in made.state_dict().items():
        assert torch.equal(loaded.optimizer.state_dict()[name], tensor)
    assert msgspec.convert(loaded.metadata["training"]["config"], ControllersRecipe) == recipe
    assert "| conv-8 | digits | 8 | conv | no | 25, 51, 76 | 1 |" in (tmp_path / CARD).read_text(encoding="utf-8")
    reports = []
    by_candidates = trainings.training(trainings.parse(RECIPE), tmp_path / "again")
    by_candidates.run(reports.append)
    assert [report.done for report in reports] == [0, 1, 2]
    assert by_candidates.done == by_candidates.total == 2
    again = load_optimizer(tmp_path / "again").optimizer
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in made.state_dict().items())


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path) -> None:
    recipe = parse(RECIPE.replace("updates = 2", "updates = 12"))
    made = train(recipe, tmp_path / "whole", lambda _: None)

    def stop(update: int, share: float) -> None:
        if update == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "parts", lambda _: None, stop)
    again: list[int] = []
    resumed = train(recipe, tmp_path / "parts", lambda _: None, lambda update, share: again.append(update))
    assert again == [8, 9, 10, 11]
    assert all(torch.equal(resumed.state_dict()[name], tensor) for name, tensor in made.state_dict().items())
    with pytest.raises(CheckpointError, match="another recipe"):
        train(parse(RECIPE), tmp_path / "parts", lambda _: None)
    (tmp_path / "parts" / CHECKPOINT).unlink()


def test_the_size_starts_as_the_schedule_of_square_attack() -> None:
    optimizer = SquareControllers()
    assert imitate(optimizer, p_init=0.3, horizon=1000) < 0.7
    state = at_work(optimizer)
    for step in (1, 30, 300):
        size = optimizer.size_logit(state._replace(key=state.key._replace(step=torch.tensor([step]))))
        goal = 0.3 * halvings(torch.tensor([step - 1]), torch.tensor([1000]))
        assert float(size) == pytest.approx(float(goal.logit()), abs=1.0)


def test_validation_counts_as_a_run_does() -> None:
    """The queries to the first success; one more than the budget where there is none."""
    images = torch.full((3, *SHAPE), 0.5)
    prey = Prey("blue", lambda x: Blue()(x) - torch.tensor([1.5, 0.0]), images, torch.zeros(3).long(), (0.06,))
    first = queries(SquareAttack(p_init=0.5), prey, 0.06, 200, 1)
    assert (first <= 200).all()
    assert queries(SquareAttack(), prey, 0.001, 4, 1).tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pairs = 0", "pairs"),
        ("horizons = []", "there are no horizons"),
        ("updates = 0", "updates"),
        ("candidates = 3", "unknown field `candidates`"),
    ],
)
def test_recipes_that_cannot_be(change: str, message: str) -> None:
    name = change.partition(" ")[0]
    lines = [line for line in RECIPE.splitlines() if not line.startswith(f"{name} ")]
    with pytest.raises(InputError, match=message):
        parse("\n".join([change, *lines]))
    with pytest.raises(InputError, match="there are no networks"):
        parse('optimizer = "square-controllers"\nnetworks = []')
