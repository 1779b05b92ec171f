"""The report: one file, nothing from elsewhere, nothing unescaped, and the pictures it says it shows."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from valleys import FakeTask, sgd
from zoracle.blackboxes import TorchModule
from zoracle.comparison.compare import Output, compare
from zoracle.evaluation.spec import RunSpec
from zoracle.optimizers.registry import make
from zoracle.reporting.figures import styles
from zoracle.reporting.lines import Line, legend, panels_figure
from zoracle.reporting.pictures import grey_png, signed_png, signed_words
from zoracle.tasks.digits import DigitsAttack

EVIL = '<script>alert("x")</script> & $x^{_'


def pixels(uri):
    return imread(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The page of a small comparison on digits, with what was found and how many points the model saw."""
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        inner = TorchModule.__call__
        patch.setattr(TorchModule, "__call__", lambda self, x: (seen.append(len(x)), inner(self, x))[1])
        task = DigitsAttack()
        optimizers = [(EVIL, make("zo-sgd", lr=0.05)), ("zo-sgd-2", make("zo-sgd", lr=0.01, difference="central"))]
        settings = {"seeds": 2, "steps": 12, "num_directions": 6, "ids": task.ids("valid")[:9]}
        out = tmp_path_factory.mktemp("report")
        found = compare(task, optimizers, RunSpec(**settings), out=out)
        counted = sum(seen)
        compare(task, optimizers, RunSpec(**settings), out=out)
        again = sum(seen) - counted
    return found, found.paths["report"].read_text(), counted, again


def test_it_loads_nothing_and_runs_nothing(digits):
    _, page, *_ = digits
    assert set(re.findall(r"https?://[^\s\"'<>)]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"<(script|link|iframe|object|embed)\b|@import|\bon\w+=", page)
    assert all(src.startswith("data:image/png;base64,") for src in re.findall(r'src="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r'(?:xlink:)?href="([^"]*)"', page))


def test_names_are_escaped(digits):
    _, page, *_ = digits
    assert "<script>" not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; $x^{_" in page


def test_ids_are_unique_and_referenced_ones_exist(digits):
    _, page, *_ = digits
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'xlink:href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used
    assert used <= set(ids)


def test_it_shows_what_it_says(digits):
    found, page, *_ = digits
    assert page.count("<svg xmlns") == 3
    assert page.count('alt="original image') == 8
    assert page.count('alt="adversarial image') == 8
    assert page.count('alt="change of image') == 8
    for word in ("queries to first success", "95 % interval", "Reproduction"):
        assert word in page
    best = found.rows[0]
    assert f"{best.ratio:.4f}" in page
    assert "2 repeats" in page


def test_the_predictions_in_pictures_are_counted_and_kept(digits):
    found, _, counted, again = digits
    spent = sum(int((r.spent + r.monitored).sum()) for r in found.results.values())
    assert counted == spent + 8 * 3
    assert again == 0


def test_one_single_run_has_a_report_too(tmp_path):
    task = DigitsAttack()
    found = compare(
        task,
        [("zo-sgd", sgd())],
        RunSpec(seeds=1, steps=2, ids=task.ids("valid")[:1]),
        out=Output(tmp_path, title="Attack"),
    )
    page = found.paths["report"].read_text()
    assert "<h1>Attack</h1>" in page
    assert 'class="best"' not in page
    assert "paired differences" not in page
    assert page.count('alt="original image') == 1


def test_a_task_that_is_no_attack_has_no_pictures(tmp_path):
    page = compare(FakeTask(knows=False), [("a", sgd()), ("b", sgd(lr=0.2))], out=tmp_path).paths["report"].read_text()
    assert page.count("<svg xmlns") == 2
    assert "<h2>Pictures</h2>" not in page


@pytest.mark.filterwarnings("ignore::zoracle.errors.NonFiniteWarning")
def test_failures_and_negative_losses_are_drawn_without_a_warning(tmp_path):
    task = FakeTask(nan_after={20: 0, 21: 7, 22: 3})
    page = compare(task, [("a", sgd()), ("c", sgd(difference="central"))], out=tmp_path).paths["report"].read_text()
    assert "were NaN or infinite; " in page
    assert "only the ratios exclude them" in page


def test_pictures_are_what_they_are():
    image = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]])
    assert pixels(grey_png(image))[..., 0] == pytest.approx(image[0].numpy(), abs=0.01)
    change = pixels(signed_png(torch.tensor([[[-0.2, 0.0], [0.2, 0.1]]]), 0.2))
    assert change[0, 0, 2] > change[0, 0, 0], "darker is blue"
    assert change[1, 0, 0] > change[1, 0, 2], "brighter is red"
    assert change[0, 1, :3].min() > 0.95, "no change is white"
    assert "white unchanged" in signed_words(1)
    unchanged = pixels(signed_png(torch.zeros(3, 2, 2), 0.2))
    assert unchanged[..., :3] == pytest.approx(0.5, abs=0.01)
    assert "grey is unchanged" in signed_words(3)
    colour = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(1))
    assert pixels(grey_png(colour))[..., :3] == pytest.approx(colour.permute(1, 2, 0).numpy(), abs=0.01)


def test_no_two_of_many_optimizers_are_drawn_alike():
    labels = [f"optimizer {i}" for i in range(64)]
    found = styles(labels)
    assert list(found) == labels
    assert len(set(found.values())) == 64


def test_an_attack_says_what_when_and_of_which_class_and_no_table_is_wider_than_the_page(tmp_path):
    task = DigitsAttack()
    out = Output(tmp_path, attack=True, weights={"a": "of-a-kind"})
    optimizers = [("a", sgd()), ("b", sgd(lr=0.02))]
    spec = RunSpec(seeds=1, steps=2, ids=task.ids("valid")[:2], check_start=True)
    page = compare(task, optimizers, spec, out=out).paths["report"].read_text()
    assert "the classifier of digits" in page
    assert re.search(r"<dt>begun</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d UTC</dd>", page)
    assert "weights: of-a-kind" in page
    labels = task.pictures(spec.ids).labels.tolist()
    assert re.findall(r"label (\d)<br>predicted", page) == [str(label) for label in labels]
    assert "broken when verified" in page
    heads = [re.findall("<th[ >]", head) for head in re.findall("<thead>(.*?)</thead>", page)]
    assert max(map(len, heads)) <= 12
    for name in ("ratio", "l2", "robust accuracy", "success ever", "queries to success, mean"):
        assert page.count(f'<th scope="col">{name}</th>') == 1, name


@pytest.mark.parametrize("letters", [6, 30])
def test_legends_stay_within_their_figure(letters):
    figure = Figure(figsize=(6.8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for number in range(8):
        axes.plot([0, 1], [0, 1], label=f"{number}" + "x" * (letters - 1))
    legend(figure, axes)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


@pytest.mark.parametrize("panels", [1, 2, 6])
def test_the_legend_of_a_few_small_panels_leaves_them_their_height(panels):
    x = np.linspace(0, 1, 5)
    lines = {f"an optimizer, number {n}": Line(x, x, x, x) for n in range(10)}
    made = panels_figure("name", "title", "caption", {str(n): lines for n in range(panels)}, x="x", y="y", log_y=False)
    figure = Figure(figsize=made.size, layout="constrained")
    made.draw(figure)
    figure.canvas.draw()
    assert all(axes.get_window_extent().height > 0.9 * figure.dpi for axes in figure.axes if axes.get_visible())
