"""Attacks in a smaller space: the map, what it makes of bounds and balls, and the settings that name it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import zoracle
from zoracle.blackboxes import TorchModule
from zoracle.cli.main import main
from zoracle.errors import InputError
from zoracle.objectives import Attack, Reduced, ThreatModel
from zoracle.optimizers.registry import make
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.tasks import task
from zoracle.tasks.config import task_config
from zoracle.tasks.given import GivenImages, image_set
from zoracle.upsampling import parse

SHAPE, CLASSES, PROBLEMS = (2, 7, 6), 4, 3
DIM = math.prod(SHAPE)
RNG = np.random.default_rng(3)
IMAGES = torch.from_numpy(RNG.uniform(size=(PROBLEMS, *SHAPE)))
MAPS = ["tile:2", "tile:3x2", "tile:7", "bilinear:3", "bilinear:4x2"]
THREATS = [{"norm": "l1"}, {"norm": "linf", "eps": 0.2}, {"norm": "l2", "eps": 0.7}]


class Net(nn.Module):
    """A smooth classifier that counts the images it sees."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(DIM, CLASSES, generator=g, dtype=torch.float64))
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return (2 * x.flatten(1)).sin() @ self.weight.to(x)


LABELS = Net()(IMAGES).argmax(1)
ROWS = torch.arange(60) % PROBLEMS


def attack(threat: dict, model: nn.Module | None = None) -> Attack:
    return Attack(TorchModule(model or Net()), IMAGES, LABELS, ThreatModel(**threat))


def points(reduced: Reduced, size: float = 0.4) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return size * torch.randn(60, reduced.dim, generator=g, dtype=torch.float64)


each_map = pytest.mark.parametrize("reduce", MAPS)
each_threat = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat["norm"])


def test_tiles_are_constant_cells() -> None:
    z = torch.arange(2 * 3 * 2, dtype=torch.float32).view(1, -1)
    image = parse("tile:3x2", SHAPE).up(z).view(SHAPE).numpy()
    expected = z.view(2, 3, 2).numpy()[:, [0, 0, 0, 1, 1, 2, 2]][:, :, [0, 0, 0, 1, 1, 1]]
    assert np.array_equal(image, expected)
    # Cells of two pixels, the last row's smaller, since seven is odd.
    image = parse("tile:2", SHAPE).up(torch.arange(24.0).view(1, -1)).view(SHAPE).numpy()
    assert np.array_equal(image, np.arange(24.0).reshape(2, 4, 3)[:, [0, 0, 1, 1, 2, 2, 3]][:, :, [0, 0, 1, 1, 2, 2]])


def test_bilinear_interpolates_between_the_centres_of_cells() -> None:
    image = parse("bilinear:2", (1, 4, 4)).up(torch.tensor([[0.0, 4.0, 8.0, 12.0]]))
    along = np.array([0.0, 1.0, 3.0, 4.0])
    np.testing.assert_allclose(image.view(4, 4).numpy(), along + 2 * along[:, None])


@each_map
def test_the_map_its_transpose_and_its_norm(reduce: str) -> None:
    made = parse(reduce, SHAPE)
    matrix = made.up(torch.eye(made.dim, dtype=torch.float64)).t()
    image = torch.from_numpy(RNG.normal(size=(5, DIM)))
    torch.testing.assert_close(made.transpose(image), image @ matrix)
    assert made.norm == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)))
    expected = [image[:, matrix[:, j] > 0].amin(1) for j in range(made.dim)]
    assert torch.equal(made.lowest(image), torch.stack(expected, 1))
    torch.testing.assert_close(matrix.sum(1), torch.ones(DIM, dtype=torch.float64))


@each_map
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_alone_is_the_same_image_among_others(reduce: str, dtype: torch.dtype) -> None:
    made = parse(reduce, SHAPE)
    small = torch.from_numpy(RNG.normal(size=(7, made.dim))).to(dtype)
    together = made.up(small)
    for row in range(7):
        assert torch.equal(made.up(small[row : row + 1]), together[row : row + 1])


@each_map
@each_threat
def test_it_is_the_attack_at_the_upsampled_point(reduce: str, threat: dict) -> None:
    net = Net()
    inner = attack(threat, net)
    reduced = Reduced(inner, reduce)
    z = points(reduced)
    x = reduced.upsampling.up(z)
    result = reduced.evaluate(z, ROWS)
    assert net.seen == 60
    expected = inner.evaluate(x, ROWS)
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.success, expected.success)
    assert torch.equal(reduced.adversarial(z, ROWS), inner.adversarial(x, ROWS))
    assert torch.equal(reduced.predict(z, ROWS), inner.predict(x, ROWS))
    for name, distance in inner.distances(x, ROWS).items():
        assert torch.equal(reduced.distances(z, ROWS)[name], distance)
    with pytest.raises(InputError, match=rf"expected \(N, {reduced.dim}\)"):
        reduced.evaluate(x, ROWS)


@each_map
@each_threat
def test_the_gradient_is_that_of_autograd(reduce: str, threat: dict) -> None:
    reduced = Reduced(attack(threat), reduce)
    z = points(reduced, 0.05).requires_grad_(True)
    loss, gradient = reduced.gradient(z.detach(), ROWS)
    direct = reduced.inner.evaluate(reduced.upsampling.up(z), ROWS).loss
    (expected,) = torch.autograd.grad(direct.sum(), z)
    torch.testing.assert_close(loss, direct.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    assert float(gradient.abs().max()) > 0.01


@each_map
def test_a_point_of_the_space_is_feasible(reduce: str) -> None:
    cube, ball = (Reduced(attack(threat), reduce) for threat in THREATS[1:])
    where = cube.space(ROWS, points(cube))
    assert where.low.shape == (60, cube.dim)
    assert where.shape.tolist() == [list(cube.upsampling.low_shape)] * 60
    assert int(where.shape[0].prod()) == cube.dim
    share = torch.from_numpy(RNG.uniform(size=(60, cube.dim)))
    inside = where.low + share * (where.high - where.low)
    assert float(cube.upsampling.up(inside).abs().max()) <= 0.2 + 1e-12
    where = ball.space(ROWS, points(ball))
    z = points(ball)
    z = z / z.norm(dim=1, keepdim=True) * where.radius.unsqueeze(1)
    lengths = ball.upsampling.up(z).norm(dim=1)
    assert float(lengths.max()) <= 0.7 + 1e-12
    if reduce == "tile:7":  # all cells alike: exact
        torch.testing.assert_close(lengths, torch.full((60,), 0.7, dtype=torch.float64))


@each_map
def test_bringing_a_point_back_into_a_ball(reduce: str) -> None:
    cube, ball, free = (Reduced(attack(THREATS[i]), reduce) for i in (1, 2, 0))
    z = points(cube)
    assert torch.equal(free.project(z, ROWS), z)
    inside = cube.project(z, ROWS)
    assert float(inside.abs().max()) <= 0.2
    assert torch.equal(cube.project(inside, ROWS), inside)
    if reduce.startswith("tile"):  # it was outside where nothing changes: the image is the same
        torch.testing.assert_close(cube.adversarial(inside, ROWS), cube.adversarial(z, ROWS), rtol=0, atol=1e-12)
    inside = ball.project(z, ROWS)
    for _ in range(40):
        inside = ball.project(inside, ROWS)
    assert float((inside - ball.project(inside, ROWS)).abs().max()) < 1e-6
    # What reached beyond the ball reaches to its edge: nothing is given up that there is room for.
    beyond = free.distances(z, ROWS)["l2"] > 0.7
    assert int(beyond.sum()) > 20
    assert float(ball.distances(inside, ROWS)["l2"][beyond].min()) > 0.95 * 0.7
    small = 1e-3 * z
    box = ball.space(ROWS, z)
    assert torch.equal(ball.project(small, ROWS), torch.minimum(torch.maximum(small, box.low), box.high))


@pytest.mark.parametrize("name", ["zo-sgd", "snes", "bandits", "nes"])
def test_any_optimizer_searches_there(name: str) -> None:
    net = Net()
    reduced = Reduced(attack({"norm": "linf", "eps": 0.3}, net), "tile:3x2")
    optimizer = make(name, **({"lr": 0.05} if name == "zo-sgd" else {}))
    state = optimizer.init(
        torch.zeros(PROBLEMS, reduced.dim, dtype=torch.float64),
        space=reduced.space(torch.arange(PROBLEMS), torch.zeros(PROBLEMS, reduced.dim, dtype=torch.float64)),
    )
    oracle = Oracle(reduced, budget=1200)
    state, trajectory = rollout(optimizer, oracle, state, 600, final=None)
    assert net.seen == int(trajectory.total_queries.sum()) <= 3600
    assert (trajectory.first_success > 0).all()
    assert float(state.x.abs().max()) <= 0.3


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("tiles:2", SHAPE, 'expected "tile:N"'),
        ("tile", SHAPE, 'expected "tile:N"'),
        ("tile:-2", SHAPE, 'expected "tile:N"'),
        ("tile:2.5", SHAPE, 'expected "tile:N"'),
        ("bilinear:", SHAPE, 'expected "tile:N"'),
        (3, SHAPE, "reduce is 3"),
        ("tile:0", SHAPE, "expected cells of 1 pixel or more"),
        ("tile:8", SHAPE, "images are 7 by 6"),
        ("tile:8x3", SHAPE, "a grid of 8 by 3 does not fit images of 7 by 6"),
        ("bilinear:7", SHAPE, "a grid of 7 by 7 does not fit"),
        ("bilinear:0", SHAPE, "a grid of 0 by 0"),
        ("tile:2", (10,), "expected images (C, H, W)"),
    ],
)
def test_settings_that_name_no_map(text, shape, message) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, shape)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_attack_in_a_smaller_space() -> None:
    net = Net()
    settings = {"optimizer": "snes", "budget": 630, "norm": "linf", "eps": 0.3}
    result = zoracle.attack(net, IMAGES, LABELS, reduce="tile:3x2", **settings)
    assert result.success.all()
    assert net.seen == int(result.queries.sum())
    assert result.trajectory.best_point.shape == (PROBLEMS, 12)
    moved = result.adversarial - IMAGES
    assert float(moved.abs().max()) <= 0.3 + 1e-12
    # Where the pixel range takes nothing, a cell moves as one.
    free = (result.adversarial > 0) & (result.adversarial < 1)
    cell, kept = moved[:, 0, :3, :3], free[:, 0, :3, :3]
    for one, mask in zip(cell, kept, strict=True):
        assert int(mask.sum()) > 1
        assert float(one[mask].std()) < 1e-12
    torch.testing.assert_close(result.distances["linf"], moved.flatten(1).abs().amax(1))
    with pytest.raises(InputError, match="reduce is 'coarse'"):
        zoracle.attack(net, IMAGES, LABELS, reduce="coarse", **settings)


def test_a_task_in_a_smaller_space() -> None:
    small, whole = task("digits", reduce="tile:2"), task("digits")
    assert (small.dim, whole.dim) == (16, 64)
    assert task_config(small)["reduce"] == "tile:2"
    ids = small.ids("valid")[:3]
    assert small.start(ids).shape == (3, 16)
    objective = small.objective(ids)
    assert (objective.dim, objective.width) == (16, 64)
    with pytest.raises(InputError, match="does not fit images of 8 by 8"):
        task("digits", reduce="bilinear:9")


def test_given_images_in_a_smaller_space() -> None:
    given = GivenImages(
        TorchModule(Net()),
        image_set(IMAGES, LABELS, layout="NCHW"),
        threat=ThreatModel(norm="linf", eps=0.3),
        reduce="tile:3x2",
    )
    assert given.dim == 12
    objective = given.objective((0, 2), dtype=torch.float64)
    assert objective.adversarial(given.start((0, 2), dtype=torch.float64), torch.arange(2)).shape == (2, *SHAPE)


def test_commands_take_it(tmp_path, capsys) -> None:
    arguments = ["--task", "digits", "--reduce", "tile:2", "--threat", "linf", "--problems", "3", "--steps", "4"]
    for command in ("compare", "attack"):
        out = tmp_path / command
        assert main([command, *arguments, "--optimizers", "snes,bandits", "--seeds", "1", "--out", str(out)]) == 0
        config = json.loads((out / "config.json").read_text())
        assert (config["task"]["reduce"], config["task"]["dim"]) == ("tile:2", 16)
    arrays = np.load(tmp_path / "attack" / "adversarial-snes.npz")
    assert arrays["adversarial"].shape == (1, 3, 1, 8, 8)
    capsys.readouterr()
    assert main(["compare", "--task", "quadratic", "--reduce", "tile:2"]) == 2
    assert "which is not an attack on images" in capsys.readouterr().err
