"""Optimizers without settings on random compositions, which the rules of ``portfolio`` for few queries were chosen on.

    python -m benchmarks.compositions --dims 40,160 --per-dim 10 --seeds 2 --optimizers portfolio,zo-lbfgs,ma-es

Twelve kinds: quadratics and powers of them, curved chains, ripples of several amplitudes, two basins, kinks, steps, few
active directions, logarithms, random networks, plateaus. Conditioning is 1 to 1e6, some are rotated; none is a function
of COCO. Starts are uniform in [-4, 4]. Printed are mean ranks, and the mean of log10 of the value reached over the
lowest one reached (at most 1, and values below 1e-12 count as that).

With ``--noise share:.01`` values are f times the exponential of a normal number with this standard deviation, with
``additive:.001`` normal numbers are added, in units of f at the start, with ``outliers:.001`` a Cauchy number to one
value in five. Then what counts is f without noise at the point returned.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import zoracle

Points = np.ndarray[Any, Any]
KINDS = (
    "bowl", "power", "chain", "ripples", "basins", "kink", "steps", "active", "log", "net", "plateau", "waves",
)  # fmt: skip


class Composition:
    """One of a kind, keyed by (kind, dim, seed); its lowest value is 0 or close to it."""

    def __init__(self, kind: str, dim: int, seed: int) -> None:
        rng = np.random.default_rng([seed, dim, KINDS.index(kind)])
        self.kind, self.dim = kind, dim
        self.optimum = rng.uniform(-3, 3, dim) * (1 if rng.random() < 0.7 else 0.3)
        self.start = rng.uniform(-4, 4, dim)
        mirrors = rng.standard_normal((3, dim))
        self.mirrors = mirrors / np.linalg.norm(mirrors, axis=1, keepdims=True) if rng.random() < 0.6 else mirrors[:0]
        condition = 10 ** rng.uniform(0, 6)
        self.weights = (1e6 if kind == "power" else condition) ** rng.uniform(0, 1, dim)
        self.power = 1.0 if kind == "power" else rng.uniform(0.6, 1.6)
        self.wave, self.height = 2 * np.pi * rng.uniform(0.5, 1.5), rng.uniform(0.3, 1.5)
        self.other = self.optimum + rng.uniform(2, 4) * np.sign(rng.standard_normal(dim)) * (rng.random(dim) < 0.5)
        self.net = rng.standard_normal((dim, dim)) / np.sqrt(dim) if kind == "net" else np.zeros((0, 0))
        self.bias = rng.standard_normal(dim)

    def __call__(self, x: Points) -> Points:
        """Values (n,) of points (n, d)."""
        value: Points = _FORMS[self.kind](self, self._turned(x - self.optimum), x)
        return value

    def _turned(self, z: Points) -> Points:
        for mirror in self.mirrors:  # reflections are rotations as good as any, and cost d
            z = z - 2 * (z @ mirror)[:, None] * mirror
        return z

    def _share(self, most: float = np.inf) -> Points:
        limited = np.minimum(self.weights, most)
        share: Points = limited / limited.mean()
        return share

    def _ripples(self, y: Points, x: Points) -> Points:
        triangle = np.abs((y * self.wave / np.pi + 1) % 2 - 1)
        value: Points = (self._share(100) * y**2).sum(1) + 4 * self.height * triangle.sum(1)
        return value

    def _basins(self, y: Points, x: Points) -> Points:
        first, second = (y**2).mean(1), 0.3 + 0.5 * (self._turned(x - self.other) ** 2).mean(1)
        ripples = self.height * (np.sin(3 * y) ** 2 * np.abs(y)).sum(1)
        value: Points = -0.05 * np.logaddexp(-first / 0.05, -second / 0.05) * self.dim + ripples
        return value

    def _net(self, y: Points, x: Points) -> Points:
        out = np.tanh((x - self.optimum) @ self.net + self.bias) - np.tanh(self.bias)
        value: Points = (out**2).sum(1) + 0.01 * (y**2).sum(1)
        return value

    def _active(self, y: Points, x: Points) -> Points:
        k = max(2, self.dim // 8)
        value: Points = (self.weights[:k] * y[:, :k] ** 2).sum(1) / self.weights[:k].mean() + 1e-4 * (y**2).sum(1)
        return value


_FORMS: dict[str, Callable[[Composition, Points, Points], Points]] = {
    "bowl": lambda f, y, x: (f._share() * y**2).sum(1) ** f.power,
    "power": lambda f, y, x: (f._share() * y**2).sum(1),
    "chain": lambda f, y, x: (
        20 * ((y[:, 1:] / 2 - np.tanh(0.75 * y[:, :-1]) ** 2) ** 2).sum(1) + 0.0125 * (y**2).sum(1)
    ),
    "ripples": Composition._ripples,
    "basins": Composition._basins,
    "kink": lambda f, y, x: (f.weights**0.25 * np.abs(y)).sum(1) + 0.1 * f.dim * np.abs(y).max(1),
    "steps": lambda f, y, x: (f._share(1e3) * np.floor(2 * np.abs(y) + 0.5) ** 2).sum(1) + 1e-3 * (y**2).sum(1),
    "active": Composition._active,
    "log": lambda f, y, x: f.dim * np.log1p((f._share() * np.abs(y) ** f.power).sum(1)),
    "net": Composition._net,
    "plateau": lambda f, y, x: f.dim * (1 - np.exp(-(f._share() * y**2).sum(1) / (8 * f.dim))) + 1e-3 * (y**2).sum(1),
    "waves": lambda f, y, x: (
        0.2 * (y**2).sum(1) + 2 * f.height * ((np.cos(f.wave * y) - 1) ** 2 * np.minimum(1, np.abs(y))).sum(1)
    ),
}


def noisy(f: Composition, noise: str, seed: int) -> Callable[[Points], Points]:
    """The function with noise of a kind and size, "share:.01"; itself if there is none."""
    if not noise:
        return f
    kind, size = noise.split(":")
    rng, unit = np.random.default_rng([seed, f.dim]), float(size) * float(f(f.start[None])[0])

    def value(x: Points) -> Points:
        normal, rare = rng.standard_normal(len(x)), rng.random(len(x)) < 0.2
        if kind == "share":
            return f(x) * np.exp(float(size) * normal)
        return f(x) + unit * (normal if kind == "additive" else np.where(rare, rng.standard_cauchy(len(x)), 0.0))

    return value


def reached(optimizer: str, kind: str, dim: int, seed: int, per_dim: int, noise: str) -> float:
    """The value that an optimizer reaches with so many evaluations a dimension."""
    f = Composition(kind, dim, seed)
    found: Any = zoracle.minimize(noisy(f, noise, seed), f.start, budget=dim * per_dim, optimizer=optimizer)
    return max(float(f(np.asarray(found.x)[None])[0]), 1e-12)


def main() -> None:
    """Print what the module says."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--dims", default="40,160")
    parser.add_argument("--per-dim", type=int, default=10, help="evaluations a dimension")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--optimizers", default="portfolio,zo-lbfgs,ma-es,zo-lstm-universal")
    parser.add_argument("--noise", default="", help="share:SIZE, additive:SIZE or outliers:SIZE")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    names = args.optimizers.split(",")
    print("    d  " + " ".join(f"{name:>18}" for name in names) + "   mean rank, mean excess")
    for dim in map(int, args.dims.split(",")):
        cases = [(kind, seed) for kind in KINDS for seed in range(args.seeds)]
        values = np.array(
            [[reached(name, kind, dim, seed, args.per_dim, args.noise) for name in names] for kind, seed in cases]
        )
        ranks = 1 + (values[:, None, :] < values[:, :, None]).sum(2)
        ranks = ranks + ((values[:, None, :] == values[:, :, None]).sum(2) - 1) / 2
        excess = np.clip(np.log10(values / values.min(1, keepdims=True)), 0, 1)
        told = (f"{rank:10.2f}{over:8.3f}" for rank, over in zip(ranks.mean(0), excess.mean(0), strict=True))
        print(f"{dim:5}  " + " ".join(told), flush=True)


if __name__ == "__main__":
    main()
