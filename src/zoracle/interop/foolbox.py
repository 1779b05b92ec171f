"""zoracle's optimizers as Foolbox attacks (extra ``foolbox``), with counts of the queries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoracle.api import attack as zoracle_attack
from zoracle.api.solutions import AttackResult
from zoracle.errors import InputError, require
from zoracle.interop.images import ImageForm, as_threat
from zoracle.objectives.attack import Outputs
from zoracle.optimizers.base import Optimizer

require("foolbox", "foolbox")

import eagerpy as ep  # noqa: E402
from foolbox.attacks.base import (  # noqa: E402
    FixedEpsilonAttack,
    FlexibleDistanceMinimizationAttack,
    get_criterion,
    raise_if_kwargs,
)
from foolbox.criteria import Misclassification, TargetedMisclassification  # noqa: E402
from foolbox.distances import Distance, LpDistance, l2, linf  # noqa: E402
from foolbox.models import Model  # noqa: E402


class _ZoracleAttack:
    """What the attacks share: settings in the constructor, data in the call, results kept until the next call.

    Attributes:
        results: an :class:`AttackResult` for each epsilon of the last call, in order; a minimisation has one.
    """

    def __init__(
        self,
        *,
        budget: int,
        optimizer: str | Path | Optimizer[Any, Any],
        confidence: float,
        outputs: Outputs,
        seed: int,
        chunk: int | None,
        settings: dict[str, Any],
    ) -> None:
        self.budget = budget
        self.optimizer = optimizer
        self.confidence = confidence
        self.outputs = outputs
        self.seed = seed
        self.chunk = chunk
        self.settings = settings
        self.results: list[AttackResult] = []
        self._single = True

    @property
    def queries(self) -> Tensor:
        """Images that the model was given by the last call, for each image: (P,), or (K, P) for K epsilons.

        Foolbox itself calls the model once more for each image and epsilon, to verify; that is not in it.
        """
        counts = [result.queries for result in self.results]
        if not counts:
            raise InputError("the attack has not been called yet; call it with a model, images and a criterion")
        return counts[0] if self._single else torch.stack(counts)

    def __call__(self, model: Model, inputs: Any, criterion: Any, *, epsilons: Any, **kwargs: Any) -> Any:
        """Attack as Foolbox does: adversarial images, the same clipped to each epsilon, and where they succeed."""
        self.results = []
        self._single = not (isinstance(epsilons, Iterable) and isinstance(self, FixedEpsilonAttack))
        return super().__call__(model, inputs, criterion, epsilons=epsilons, **kwargs)  # type: ignore[misc]

    def repeat(self, times: int) -> Any:
        """Refused: an attack is keyed by its seed, so that repeating it would give the same images again.

        Raises:
            InputError: always.
        """
        raise InputError(
            "repeating an attack with the same seed gives the same result; create one per seed (seed=1 ...)"
        )

    def __repr__(self) -> str:
        settings = (f"{k.strip('_')}={v}" for k, v in vars(self).items() if k not in ("results", "_single"))
        return f"{type(self).__name__}({', '.join(settings)})"

    def _attack(self, model: Model, inputs: Any, criterion: Any, eps: float | None, **threat: Any) -> Any:
        x, restore = ep.astensor_(inputs)
        layout = getattr(model, "data_format", None)
        form = ImageForm(*model.bounds, channels_last=layout == "channels_last")
        raw = x.raw
        native = isinstance(raw, Tensor)

        def classify(images: Tensor) -> Any:
            images = form.give(images)
            # Copied, since arrays of eagerpy are read-only.
            return model(images) if native else np.array(model(ep.from_numpy(x, images.numpy())).numpy())

        images = raw.detach() if native else torch.from_numpy(np.array(x.numpy()))
        result = zoracle_attack(
            classify,
            form.take(images),
            **_classes(criterion),
            **threat,
            eps=form.radius(eps, threat["norm"]),
            budget=self.budget,
            optimizer=self.optimizer,
            confidence=self.confidence,
            outputs=self.outputs,
            seed=self.seed,
            chunk=self.chunk,
            framework="torch",
            **self.settings,
        )
        self.results.append(result)
        adversarial = form.give(result.adversarial)
        return restore(ep.astensor(adversarial.to(raw.device)) if native else ep.from_numpy(x, adversarial.numpy()))


class _WithinBall(_ZoracleAttack, FixedEpsilonAttack):
    def __init__(
        self,
        *,
        budget: int,
        optimizer: str | Path | Optimizer[Any, Any] = "zo-lstm",
        stop_on_success: bool = True,
        confidence: float = 0.0,
        outputs: Outputs = "auto",
        seed: int = 0,
        chunk: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            budget=budget,
            optimizer=optimizer,
            confidence=confidence,
            outputs=outputs,
            seed=seed,
            chunk=chunk,
            settings=settings,
        )
        self.stop_on_success = stop_on_success

    def run(self, model: Model, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """Perturbed images within epsilon, in units of the model's pixels: a success where there was one."""
        raise_if_kwargs(kwargs)
        norm = {l2: "l2", linf: "linf"}[self.distance]
        return self._attack(model, inputs, criterion, epsilon, norm=norm, stop_on_success=self.stop_on_success)


class LinfZoracleAttack(_WithinBall):
    """Looks for any perturbation of each image whose largest pixel is at most epsilon, by calling the model only.

    Works with every Foolbox model, whatever its bounds, and with the criteria ``Misclassification`` (or labels) and
    ``TargetedMisclassification``. ``queries`` and ``results`` say what the last call cost and found.

    Args:
        budget: images that the model may be given for each image and epsilon; never passed.
        optimizer: a name, a folder, or an optimizer; see :func:`zoracle.attack`.
        stop_on_success: leave an image at its first success.
        confidence: by how much the wrong class has to lead, in nats.
        outputs: what the model returns: "logits", "probabilities" or "log-probabilities"; "auto" tells it from the
            first answer.
        seed: keys starting points and directions; the same seed gives the same images.
        chunk: images in one call of the model at most.
        settings: settings of the optimizer, and what else :func:`zoracle.attack` takes (``reduce="tile:2"``).

    Raises:
        InputError: what was given cannot be used; BlackBoxError where the model failed.
    """

    distance = linf


class L2ZoracleAttack(_WithinBall):
    """Looks for any perturbation of each image whose Euclidean length is at most epsilon.

    Takes what :class:`LinfZoracleAttack` takes.
    """

    distance = l2


class ZoracleMinimizationAttack(_ZoracleAttack, FlexibleDistanceMinimizationAttack):
    """Looks for a perturbation of each image that is as small as possible, by calling the model only.

    Args:
        distance: ``foolbox.distances.l1`` or ``l2``.
        budget: images that the model may be given for each image; never passed.
        c: weight of the distance, which is measured with pixels in [0, 1], against the loss.
        optimizer: as for the others, and so are the arguments that follow.
        confidence: by how much the wrong class has to lead, in nats.
        outputs: what the model returns: "logits", "probabilities" or "log-probabilities"; "auto" tells it from the
            first answer.
        seed: keys starting points and directions.
        chunk: images in one call of the model at most.
        settings: settings of the optimizer, and what else :func:`zoracle.attack` takes (``reduce="tile:2"``).

    Raises:
        InputError: what was given cannot be used; BlackBoxError where the model failed.
    """

    def __init__(
        self,
        *,
        distance: Distance,
        budget: int,
        c: float = 0.1,
        optimizer: str | Path | Optimizer[Any, Any] = "zo-lstm",
        confidence: float = 0.0,
        outputs: Outputs = "auto",
        seed: int = 0,
        chunk: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            budget=budget,
            optimizer=optimizer,
            confidence=confidence,
            outputs=outputs,
            seed=seed,
            chunk=chunk,
            settings=settings,
        )
        if not (isinstance(distance, LpDistance) and distance.p in (1, 2)):
            raise InputError(f"distance is {distance}; expected foolbox.distances.l1 or l2")
        self._distance = distance
        self.c = c

    def run(self, model: Model, inputs: Any, criterion: Any, *, early_stop: float | None = None, **kwargs: Any) -> Any:
        """The successful image with the lowest loss, the best failed one where there is none.

        ``early_stop`` changes nothing: the whole budget goes into making perturbations smaller.
        """
        raise_if_kwargs(kwargs)
        norm = "l1" if self._distance.p == 1 else "l2"
        return self._attack(model, inputs, criterion, None, norm=norm, c=self.c)


def _classes(criterion: Any) -> dict[str, Any]:
    wanted = get_criterion(criterion)
    if isinstance(wanted, Misclassification):
        return as_threat(_integers(wanted.labels), targeted=False)
    if isinstance(wanted, TargetedMisclassification):
        return as_threat(_integers(wanted.target_classes), targeted=True)
    raise InputError(f"criterion is {wanted!r}; expected labels, Misclassification or TargetedMisclassification")


def _integers(labels: Any) -> Tensor:
    return torch.from_numpy(np.array(labels.numpy()))
