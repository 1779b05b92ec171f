"""The attack on a classifier as an objective: a small perturbation, or any within a ball."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoracle.blackboxes.base import BlackBox, check_outputs
from zoracle.errors import BlackBoxError, InputError
from zoracle.objectives import outputs as answers
from zoracle.objectives.base import Objective
from zoracle.objectives.outputs import Outputs as Outputs
from zoracle.objectives.rounding import check_levels, rounded
from zoracle.objectives.threat import ThreatModel
from zoracle.types import Evaluation, Space

_SMALL = ThreatModel()
#: Numbers that are clipped or projected at once: what is computed of them stays in the processor's cache.
_BLOCK = 2**17


class ImageAttack(Objective):
    r"""The base of attacks on images, whatever space their points lie in.

    Attributes:
        shape: of an image, (C, H, W) or another.
        labels: (P,) int64, the true classes.
        targets: (P,) int64, the target classes; None for an untargeted attack.
        threat: the threat model: allowed perturbations, and what counts as a success.
    """

    shape: tuple[int, ...]
    threat: ThreatModel
    labels: Tensor
    targets: Tensor | None

    @abstractmethod
    def adversarial(self, points: Tensor, problem: Tensor) -> Tensor:
        r"""The images (N, \*shape) that correspond to points (N, d)."""

    @abstractmethod
    def distances(self, points: Tensor, problem: Tensor) -> dict[str, Tensor]:
        """Norms "l1", "l2" and "linf" of those images minus the originals, (N,) each. No query is made."""

    @abstractmethod
    def predict(self, points: Tensor, problem: Tensor) -> Tensor:
        """Predicted classes (N,) of those images; one query per point, for the caller to count."""


class Attack(ImageAttack):
    r"""Find a small perturbation, or one within a ball, that changes the class of an image.

    With x' = clip(x + delta, 0, 1), log-probabilities log p of the black box at x', and a confidence gap k,

    .. math:: f(\delta) = \max(\log p_y - \max_{j \ne y} \log p_j + k, 0) + c\,\|x' - x\|

    and, if a target class t is given, :math:`\max(\max_{j \ne t} \log p_j - \log p_t + k, 0)` as its first term.
    With a radius ``eps`` the distance is not part of the loss. Instead the perturbation stays in the ball of that
    radius in the l2 or linf norm: x' = x + P(delta), where P clips to the pixel range and the linf ball coordinate by
    coordinate; an l2 ball is entered along the straight line to x, which keeps pixels in range.

    Points are flattened perturbations delta. Any point is allowed, since clipping (and the ball) happen inside, and
    the distance is that of the clipped image. With ``threat.bits`` that image is rounded to a picture in the ball, so
    that what succeeds does so as it is saved; the loss has no gradient then. Loss and success come from one call of the
    model.
    A point succeeds where the predicted class is another one than the label (is the target), by the gap at least.

    Args:
        black_box: the classifier, images (N, \*shape) to outputs (N, classes).
        images: (P, \*shape) in [0, 1].
        labels: (P,) integers, the true classes.
        threat: norm, radius, c and k.
        targets: (P,) integers, the classes to reach; None for any other than the label.
        outputs: what the black box returns; "auto" tells it from the first answer (:mod:`zoracle.objectives.outputs`).
        num_classes: number of classes, where it is known before the first call.
        checked: the images are known to be floating-point numbers in [0, 1], and are not looked at again.

    Raises:
        InputError: images out of range, not finite or of an integer type, labels out of range, shapes that disagree.

    References:
        Ruan et al., "Learning to Learn by Zeroth-Order Oracle", ICLR 2020; the hinge is that of Carlini and Wagner,
        2017, over log-probabilities as in Chen et al., "ZOO", 2017.
    """

    def __init__(
        self,
        black_box: BlackBox,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel = _SMALL,
        *,
        targets: Tensor | None = None,
        outputs: Outputs = "logits",
        num_classes: int | None = None,
        checked: bool = False,
    ) -> None:
        if not checked:
            _check_images(images)
        if threat.bits is not None:
            check_levels(images, threat.bits)
        check_outputs(outputs)
        self.black_box = black_box
        self.shape = tuple(images.shape[1:])
        self.dim = math.prod(self.shape)
        self.num_problems = images.shape[0]
        self.differentiable = black_box.differentiable and threat.bits is None
        self.remote = black_box.remote
        self.threat = self.rounding = threat
        self.constrained = self.ends_at_success = threat.ball
        self.outputs = outputs
        self.num_classes: int | None = None
        self.labels = _classes("labels", labels, images)
        self.targets = None if targets is None else _classes("targets", targets, images)
        if self.targets is not None and bool((self.targets == self.labels).any()):
            row = int((self.targets == self.labels).nonzero()[0])
            raise InputError(f"target {int(self.targets[row])} of image {row} is its label; expected another class")
        black_box.check(self.shape)
        self._x = images.detach().flatten(1)
        if num_classes is not None:
            self._learn_classes(num_classes)

    def adversarial(self, points: Tensor, problem: Tensor) -> Tensor:
        r"""The clipped images (N, \*shape) of points (N, d)."""
        self.check(points, problem)
        _, adversarial = self._pair(points, problem)
        return adversarial.view(-1, *self.shape)

    def distances(self, points: Tensor, problem: Tensor) -> dict[str, Tensor]:
        """Norms "l1", "l2" and "linf" of the clipped image minus the original, (N,) each. No query is made."""
        self.check(points, problem)
        x, adversarial = self._pair(points, problem)
        orders = {"l1": 1.0, "l2": 2.0, "linf": math.inf}
        return {name: torch.linalg.vector_norm(adversarial - x, order, dim=1) for name, order in orders.items()}

    def origin(self, problem: Tensor, like: Tensor) -> Tensor:
        """No perturbation: zeros (B, d)."""
        return like.new_zeros((problem.shape[0], self.dim))

    def project(self, points: Tensor, problem: Tensor) -> Tensor:
        """The perturbations (N, d) in the ball that points stand for; the points themselves where there is no ball."""
        return self._blockwise(self._within, points, problem) if self.threat.ball else points

    def space(self, problem: Tensor, like: Tensor) -> Space:
        """The pixel range of each coordinate, and the ball: (B, d) and (B,)."""
        x = self._x[problem.to(self._x.device)].to(like)
        eps, norm = self.threat.eps, self.threat.norm
        reach = eps if eps is not None and norm == "linf" else torch.inf
        radius = eps if eps is not None and norm == "l2" else torch.inf
        channels, height, width = self.shape if len(self.shape) == 3 else (1, 1, self.dim)
        return Space(
            low=(-x).clamp(min=-reach),
            high=(1 - x).clamp(max=reach),
            radius=like.new_full((x.shape[0],), radius),
            shape=torch.tensor([[channels, height, width]]).repeat(x.shape[0], 1),
        )

    @torch.no_grad()
    def predict(self, points: Tensor, problem: Tensor) -> Tensor:
        """Predicted classes (N,) of the clipped images; one query per point, for the caller to count."""
        self.check(points, problem)
        _, adversarial = self._pair(points, problem)
        return self._log_probabilities(adversarial, (points.shape[0],)).argmax(1)

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        return self._evaluate_cells(points, problem, step, (points.shape[0],))

    def _evaluate_cells(self, points: Tensor, problem: Tensor, step: Tensor | None, cells: Sequence[int]) -> Evaluation:
        threat = self.threat
        if threat.ball:
            adversarial = self._blockwise(self._moved, points, problem)
        else:
            x, adversarial = self._pair(points, problem)
        log_p = self._log_probabilities(adversarial, cells)  # all else is done row by row
        gap = self._gap(log_p, problem)
        loss = (gap + threat.confidence if threat.confidence else gap).clamp(min=0)
        if not threat.ball:
            loss = torch.add(loss, self._distance(x, adversarial), alpha=threat.weight)
        return Evaluation(loss, threat.success(gap))

    def own_part(self, points: Tensor, problem: Tensor) -> Tensor | None:
        """The weighted distance; None within a ball, where the loss has none."""
        if self.threat.ball:
            return None
        return self.threat.weight * self._distance(*self._pair(points, problem))

    def _distance(self, x: Tensor, adversarial: Tensor) -> Tensor:
        """Of adversarial images to images, (N,); it overwrites the latter."""
        change = x.sub_(adversarial)
        # vector_norm of order 1 takes four times as long as this.
        return change.abs_().sum(1) if self.threat.norm == "l1" else torch.linalg.vector_norm(change, dim=1)

    def _pair(self, points: Tensor, problem: Tensor) -> tuple[Tensor, Tensor]:
        """Images and clipped adversarial images, (N, d) each; the latter, and without a ball both, in fresh memory."""
        x = self._images(problem, points)
        return x, self._moved(x, points)

    def _moved(self, x: Tensor, points: Tensor) -> Tensor:
        """The clipped adversarial images (N, d) of images x (N, d), in fresh memory."""
        inside = self._within(x, points, clipped=True)
        moved = (x + inside if inside is points else inside.add_(x)).clamp_(0, 1)
        return moved if self.threat.bits is None else rounded(x, moved, self.rounding)

    def _blockwise(self, made_of: Callable[[Tensor, Tensor], Tensor], points: Tensor, problem: Tensor) -> Tensor:
        """What a function makes of images and points (N, d), for a few rows at a time if they are large."""
        number, block = points.shape[0], max(1, _BLOCK // self.dim)
        if number <= block:
            return made_of(self._images(problem, points), points)
        made = torch.empty_like(points)
        for first in range(0, number, block):
            part = slice(first, first + block)
            made[part] = made_of(self._images(problem[part], points), points[part])
        return made

    def _images(self, problem: Tensor, like: Tensor) -> Tensor:
        """The images (N, d) of problems (N,); within a ball, where nobody writes to them, one alone is not copied."""
        if self.threat.ball and problem.shape[0] == 1:
            return self._x.narrow(0, int(problem), 1).to(like)
        return self._x.index_select(0, problem.to(self._x.device)).to(like)

    def _within(self, x: Tensor, points: Tensor, *, clipped: bool = False) -> Tensor:
        """Perturbations (N, d) of images x (N, d) brought into the ball and the pixel range, where there is a ball.

        Args:
            x: images.
            points: perturbations.
            clipped: the caller clips pixels: in an linf ball their range is left to it, which gives the same images to
                the bit with fewer arrays.
        """
        eps, norm = self.threat.eps, self.threat.norm
        if eps is None:
            return points
        if clipped and norm == "linf":
            return points.clamp(-eps, eps)
        if norm == "linf":
            low, high = -x, 1 - x
            if eps < 1:
                low, high = low.clamp_(min=-eps), high.clamp_(max=eps)
            return torch.clamp(points, low, high)
        # Of large images, which come one at a time, what changes nothing is left out: to see that takes less time.
        large = _BLOCK // self.dim < 2 and points.shape[0] == 1 and points.is_cpu and not torch.is_grad_enabled()
        inside = points if large and _in_range(x + points) else torch.clamp(points, -x, 1 - x)
        length = torch.linalg.vector_norm(inside, dim=1, keepdim=True)
        # Towards zero, which lies in the pixel range: what is in range stays there.
        # The smaller of 1 and eps / length, in a form whose gradient is finite at zero.
        share: Tensor = eps / length.clamp(min=eps)
        return inside if large and float(share) == 1 else inside * share

    def _gap(self, log_p: Tensor, problem: Tensor) -> Tensor:
        """How far a point is from success, (N,); negative where it succeeds. NaN outputs give NaN."""
        wanted = self.labels if self.targets is None else self.targets
        index = wanted.to(log_p.device)[problem.to(log_p.device)].unsqueeze(1)
        own = log_p.gather(1, index).squeeze(1)
        others = log_p.scatter(1, index, -torch.inf).amax(1)
        return own - others if self.targets is None else others - own

    def _outputs(self, adversarial: Tensor, cells: Sequence[int]) -> Tensor:
        """Outputs of the model, called for each cell by itself."""
        images = adversarial.view(-1, *self.shape)
        if len(cells) == 1:
            return self.black_box(images).to(adversarial)
        return torch.cat([self.black_box(some) for some in torch.split(images, list(cells))]).to(adversarial)

    def _log_probabilities(self, adversarial: Tensor, cells: Sequence[int]) -> Tensor:
        outputs = self._outputs(adversarial, cells)
        if self.num_classes is None:
            answers.check(outputs, self.outputs)
            self._learn_classes(outputs.shape[1])
        if outputs.shape[1] != self.num_classes:
            raise BlackBoxError(f"the model returned {outputs.shape[1]} classes; expected {self.num_classes}")
        if self.outputs == "auto":
            self.outputs = answers.told_apart(outputs)
        return answers.log_scores(outputs, self.outputs)

    def _learn_classes(self, number: int) -> None:
        if number < 2:
            raise InputError(f"the model has {number} classes; expected at least 2")
        for name, classes in (("label", self.labels), ("target", self.targets)):
            if classes is not None and int(classes.max()) >= number:
                row, worst = int(classes.argmax()), int(classes.max())
                raise InputError(f"{name} {worst} of image {row} is out of range; expected 0 .. {number - 1}")
        self.num_classes = number


def _in_range(pixels: Tensor) -> bool:
    lowest, highest = torch.aminmax(pixels)
    return float(lowest) >= 0 and float(highest) <= 1


def _check_images(images: Tensor) -> None:
    if images.ndim < 2 or images.numel() == 0:
        raise InputError(f"images have shape {tuple(images.shape)}; expected (P, ...) with at least one image")
    if not images.is_floating_point():
        raise InputError(f"images are {images.dtype}; expected floating-point pixels in [0, 1] (divide bytes by 255)")
    bad = ~images.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        raise InputError(f"image {int(bad.nonzero()[0])} holds NaN or infinite pixels; expected numbers in [0, 1]")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise InputError(
            f"pixels range over [{low:g}, {high:g}]; expected [0, 1] (normalisation belongs into the black box)"
        )


def _classes(name: str, values: Tensor, images: Tensor) -> Tensor:
    if values.shape != images.shape[:1]:
        one = "; of one image, give images[None] and a list of one" if values.ndim == 0 else ""
        raise InputError(f"{name} have shape {tuple(values.shape)}; expected ({images.shape[0]},), one per image{one}")
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"{name} are {values.dtype}; expected integers")
    values = values.detach().to("cpu", torch.int64)
    if int(values.min()) < 0:
        row = int(values.argmin())
        raise InputError(f"{name[:-1]} {int(values[row])} of image {row} is out of range; expected 0 or more")
    return values
