"""zoracle's optimizers as an evasion attack of ART, the Adversarial Robustness Toolbox (extra ``art``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoracle.api import attack as zoracle_attack
from zoracle.api.inputs import whole
from zoracle.api.solutions import AttackResult
from zoracle.errors import InputError, require
from zoracle.interop.images import ImageForm, as_threat
from zoracle.objectives.attack import Outputs
from zoracle.optimizers.base import Optimizer

require("art", "art")

from art.attacks.attack import EvasionAttack  # noqa: E402
from art.config import ART_NUMPY_DTYPE  # noqa: E402
from art.estimators.classification.classifier import ClassifierMixin  # noqa: E402
from art.estimators.estimator import BaseEstimator  # noqa: E402

_NORMS = {1: "l1", 2: "l2", np.inf: "linf", "1": "l1", "2": "l2", "inf": "linf", "l1": "l1", "l2": "l2", "linf": "linf"}


class ZoracleAttack(EvasionAttack):
    """Perturbs images until a classifier is wrong, by calling ``predict`` only.

    Works with every ART classifier that has ``clip_values``, ``BlackBoxClassifier`` included; a result with scores
    for all classes is needed, since labels alone show no slope. With ``eps`` any perturbation of that norm at most
    will do; without it, perturbations are made as small as possible.

    Args:
        estimator: a classifier.
        budget: images that it may be given for each image; never passed.
        norm: of the ball, ``np.inf`` or 2; of a perturbation that is made small, 1 or 2.
        eps: radius of the ball in units of the pixels; None asks for small perturbations instead.
        optimizer: a name, a folder, or an optimizer; see :func:`zoracle.attack`.
        targeted: whether ``y`` are the classes to reach instead of the true ones.
        c: weight of the distance, which is measured with pixels in [0, 1]; without ``eps`` only.
        confidence: by how much the wrong class has to lead, in nats.
        outputs: what ``predict`` returns: "logits", "probabilities" or "log-probabilities"; "auto" tells it from the
            first answer. Which images count as successes is the same in any case; the loss that leads there is not.
        stop_on_success: leave an image at its first success; None does with ``eps`` and does not without.
        seed: keys starting points and directions; the same seed gives the same images.
        batch_size: images in one call of ``predict`` at most.
        settings: settings of the optimizer, and what else :func:`zoracle.attack` takes (``reduce="tile:2"``).

    Attributes:
        queries: (P,) int64, images that the classifier was given by the last ``generate``, for each image.
        result: an :class:`AttackResult`, what it found; its own counts leave out the query for a missing label.

    Raises:
        InputError: what was given cannot be used; BlackBoxError where the classifier failed.
    """

    attack_params: ClassVar[list[str]] = [
        *EvasionAttack.attack_params,
        "budget",
        "norm",
        "eps",
        "optimizer",
        "targeted",
        "c",
        "confidence",
        "outputs",
        "stop_on_success",
        "seed",
        "batch_size",
        "settings",
    ]
    _estimator_requirements = (BaseEstimator, ClassifierMixin)

    def __init__(
        self,
        estimator: Any,
        *,
        budget: int,
        norm: float | str = np.inf,
        eps: float | None = 0.3,
        optimizer: str | Path | Optimizer[Any, Any] = "zo-lstm",
        targeted: bool = False,
        c: float = 0.1,
        confidence: float = 0.0,
        outputs: Outputs = "auto",
        stop_on_success: bool | None = None,
        seed: int = 0,
        batch_size: int = 128,
        **settings: Any,
    ) -> None:
        super().__init__(estimator=estimator)
        self.budget = budget
        self.norm = norm
        self.eps = eps
        self.optimizer = optimizer
        self.targeted = targeted
        self.c = c
        self.confidence = confidence
        self.outputs = outputs
        self.stop_on_success = stop_on_success
        self.seed = seed
        self.batch_size = batch_size
        self.settings = settings
        self.queries = np.zeros(0, dtype=np.int64)
        self.result: AttackResult | None = None
        self._check_params()

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        """Perturbed images: of each the successful one with the lowest loss, or the best failed one.

        Args:
            x: images (P, ...) within the classifier's ``clip_values``.
            y: classes, indices (P,) or one-hot (P, classes): the true ones, or those to reach in a targeted attack.
                None uses what the classifier says of x, for one query per image more.
            kwargs: there are none.

        Returns:
            (P, ...) float32, like x.

        Raises:
            InputError: what was given cannot be used.
        """
        if kwargs:
            raise InputError(f"generate was given {', '.join(kwargs)}; expected x and y only")
        if self.targeted and y is None:
            raise InputError("a targeted attack was given no y; expected the classes to reach")
        form = self._form()
        images = form.take(torch.from_numpy(np.array(x, dtype=ART_NUMPY_DTYPE)))
        labels = self._predicted(x) if y is None else self._classes(y, len(x))

        def classify(batch: Tensor) -> Any:
            return self.estimator.predict(form.give(batch).numpy(), batch_size=self.batch_size)

        norm = _NORMS[self.norm]
        stop = self.eps is not None if self.stop_on_success is None else self.stop_on_success
        self.result = zoracle_attack(
            classify,
            images,
            **as_threat(labels, targeted=self.targeted),
            budget=self.budget,
            optimizer=self.optimizer,
            norm=norm,  # type: ignore[arg-type]
            eps=form.radius(self.eps, norm),
            c=self.c,
            confidence=self.confidence,
            outputs=self.outputs,
            stop_on_success=stop,
            seed=self.seed,
            chunk=self.batch_size,
            framework="torch",
            **self.settings,
        )
        self.queries = self.result.queries.numpy() + (1 if y is None else 0)
        return form.give(self.result.adversarial).numpy()

    def _check_params(self) -> None:
        if self.norm not in _NORMS:
            raise InputError(f"norm is {self.norm!r}; expected np.inf, 1 or 2")
        if not isinstance(self.targeted, bool):
            raise InputError(f"targeted is {self.targeted!r}; expected True or False")
        for name in ("budget", "batch_size"):
            if whole(name, getattr(self, name)) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")

    def _form(self) -> ImageForm:
        limits = self.estimator.clip_values
        if limits is None:
            raise InputError("the classifier has no clip_values; make it with clip_values=(lowest, highest pixel)")
        low, high = (np.unique(limit) for limit in limits)
        if low.size != 1 or high.size != 1:
            raise InputError("the classifier's clip_values differ between pixels; expected one (low, high) for all")
        channels_last = getattr(self.estimator, "channels_first", True) is False
        return ImageForm(float(low[0]), float(high[0]), channels_last=channels_last)

    def _predicted(self, x: np.ndarray) -> Tensor:
        outputs = self.estimator.predict(np.array(x, dtype=ART_NUMPY_DTYPE), batch_size=self.batch_size)
        return torch.from_numpy(np.asarray(outputs).argmax(1))

    def _classes(self, y: np.ndarray, number: int) -> Tensor:
        """Indices (P,) of what ART takes as labels."""
        known = self.estimator.nb_classes
        y = np.asarray(y)
        if y.shape == (number, known) and known > 1:
            return torch.from_numpy(y.argmax(1))
        if y.shape not in ((number,), (number, 1)) or not np.issubdtype(y.dtype, np.integer):
            raise InputError(
                f"y is {y.dtype} of shape {y.shape}; expected {number} integers, or one-hot rows ({number}, {known})"
            )
        y = y.reshape(-1).astype(np.int64)
        if y.size and (y.min() < 0 or y.max() >= known):
            raise InputError(f"y ranges over {y.min()} .. {y.max()}; expected classes 0 .. {known - 1}")
        return torch.from_numpy(y)
