"""Limited-memory BFGS on finite differences that follow the noise of the function."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoracle.optimizers.base import Config, Optimizer, Start
from zoracle.optimizers.descent.distance import curved, heard, next_distance, rms, searched
from zoracle.optimizers.descent.quasi_newton import parabola, two_loop, vertex
from zoracle.optimizers.descent.sweep import CENTRAL, DENSE, FORWARD, ZOLBFGSState, begun, measured, norm, sweep_points
from zoracle.optimizers.search.feasible import reflected, unbounded, within
from zoracle.settings import Few
from zoracle.state import parted
from zoracle.types import Queries

_TINY = 1e-37  # a float32 that is not zero
_COARSE = 1e-5  # noise, in units of f, from which on slopes are taken along dense directions
_LOOK = 4  # steps without a line search after which f is measured
_SIGNIFICANT = 4.0  # how many times its noise the energy of a gradient has to be for a line search


class ZOLBFGSConfig(Config, frozen=True, kw_only=True):
    """Settings.

    Attributes:
        num_directions: one less than the points of a step: a sweep over all directions takes several steps.
        mu: distance of forward differences, and of the first dense pairs, per coordinate, in units of x; None follows
            the floating-point type, the scale, and the noise where it is known.
        memory: pairs of steps and gradient changes kept.
    """

    num_directions: int = 20
    mu: float | None = None
    memory: Few = 10


class ZOLBFGS(Optimizer[ZOLBFGSState, ZOLBFGSConfig]):
    r"""L-BFGS whose gradients are swept from finite differences, m points per step.

    A sweep measures the slope along each of d directions, one or two points per direction; then one step tries m
    lengths along the quasi-Newton direction. Without noise slopes are forward differences along coordinates, and
    central ones once these no longer lead down. Under noise directions are dense, the rows of a cosine transform with
    random signs, so that a pair is \mu \sqrt d apart though each coordinate moves by \mu only: the noise of the
    gradient falls by \sqrt d against coordinates. \mu grows until differences stand out from the noise, as long as the
    points probed rise by no more than the run has gained. The line search fits a parabola, and third
    differences of its values tell the noise where the run is now. Once the gradient's energy is mostly noise, steps are
    averaged: x moves by 1 / (k + 1) of the k-th such step.

    Coordinates at a bound where the slope leads out are left out of the direction, and points along it are projected.

    Source: Nocedal (1980); Shi, Xie, Byrd and Nocedal (2022), "A noise-tolerant quasi-Newton algorithm for
    unconstrained optimization"; Bertsekas (1982) for the bounds.
    """

    Config = ZOLBFGSConfig
    fewest = 3
    follows_noise = True

    @property
    def queries_per_step(self) -> int:
        """A part of a sweep, or a line search."""
        return self.config.num_directions + 1

    @property
    def evaluates_iterate(self) -> bool:
        """False."""
        return False

    def _init(self, start: Start) -> ZOLBFGSState:
        x = start.x
        b, d = x.shape
        zero, count, no = x.new_zeros(b), torch.zeros(b, dtype=torch.int64, device=x.device), x.new_zeros(b) > 0
        # Of a few dimensions a step holds pairs for all.
        mode = count + (CENTRAL if 2 * d <= self.queries_per_step else FORWARD)
        given = self.config.mu
        mu = x.new_full((b,), math.sqrt(torch.finfo(x.dtype).eps) * start.scale if given is None else given)
        return ZOLBFGSState(
            x=x,
            key=start.key,
            mu=mu,
            scale=x.new_full((b,), start.scale),
            noise=zero,
            first=zero + torch.nan,
            loss=zero + torch.nan,
            mode=mode,
            searching=no,
            base=count + 1,
            done=count,
            sums=torch.zeros_like(x),
            weights=torch.zeros_like(x),
            odd=zero,
            even=zero,
            pairs=zero,
            bend=zero,
            bent=zero,
            earlier=torch.zeros_like(x),
            heavier=torch.zeros_like(x),
            centre=x.clone(),
            floor=zero,
            ceiling=zero + torch.inf,
            gradient=torch.zeros_like(x),
            origin=x.clone(),
            swept=no,
            steps=x.new_zeros((b, self.config.memory, d)),
            changes=x.new_zeros((b, self.config.memory, d)),
            direction=torch.zeros_like(x),
            length=zero + 1,
            tries=count,
            trust=zero + 1,
            calm=count,
            ended=no,
            space=start.space if start.space is not None else unbounded(x),
        )

    def restarted(self, state: ZOLBFGSState, x: Tensor, loss: Tensor) -> ZOLBFGSState:
        """The state that restarts at x (B, d), where f is loss (B,), with the noise and the distance kept."""
        count, no = torch.zeros_like(state.mode), state.ended & False
        mode = torch.where(state.mode == DENSE, DENSE, CENTRAL if 2 * x.shape[1] <= self.queries_per_step else FORWARD)
        blank = torch.zeros_like(x)
        fresh = begun(
            state._replace(
                x=x,
                loss=loss,
                mode=count + mode,
                origin=x,
                swept=no,
                steps=torch.zeros_like(state.steps),
                changes=torch.zeros_like(state.changes),
                gradient=blank,
                earlier=blank,
                heavier=blank,
                floor=torch.zeros_like(loss),
                ceiling=torch.full_like(loss, torch.inf),
                length=torch.ones_like(loss),
                tries=count,
                trust=torch.ones_like(loss),
                calm=count,
                ended=no,
            )
        )
        # Under noise f is measured first: how long the first step is depends on it.
        noisy = mode == DENSE
        return fresh._replace(searching=noisy, direction=torch.where(noisy.unsqueeze(1), 0.0, state.direction))

    def informed(self, state: ZOLBFGSState, noise: Tensor, mu: Tensor, loss: Tensor) -> ZOLBFGSState:
        """The state that knows the noise, the distance that stands out from it, and f at the start, (B,) each."""
        noisy = noise > _COARSE * loss.abs()
        fine = 2 * torch.sqrt(noise / loss.abs().clamp(min=_TINY)) * state.scale  # as if f bent by itself over a scale
        distance = torch.where(noisy, mu, torch.maximum(state.mu, torch.where(noise > 0, fine, 0.0)))
        return state._replace(
            noise=noise,
            mu=state.mu if self.config.mu is not None else distance,
            mode=torch.where(noisy, DENSE, state.mode),
            first=loss,
            loss=torch.where(noise > 0, torch.nan, loss),
            base=torch.where(noise > 0, 1, loss.isnan().to(torch.int64)),
        )

    def _ask(self, state: ZOLBFGSState) -> Queries:
        points = parted(state.searching, self._line, lambda s: sweep_points(s, self.queries_per_step), state)
        return Queries(points, points[:, :0])

    def _tell(self, state: ZOLBFGSState, queries: Queries, values: Tensor, gradients: Tensor | None) -> ZOLBFGSState:
        values = values.detach().to(state.x.dtype)
        after = parted(state.searching, self._searched, self._measured, state, queries.points, values)
        return after._replace(key=state.key.next())  # type: ignore[no-any-return]

    def _measured(self, state: ZOLBFGSState, points: Tensor, values: Tensor) -> ZOLBFGSState:
        """The sweep with what these points say; a finished one sets out on a line search."""
        after, whole = measured(state, points, values)
        return parted(whole, self._set_out, lambda s: s, after)  # type: ignore[no-any-return]

    def _set_out(self, state: ZOLBFGSState) -> ZOLBFGSState:
        """From a finished sweep to the line search."""
        dense = state.mode == DENSE
        sums, weights = state.earlier + state.sums, state.heavier + state.weights
        part = (state.weights.sum(1) / weights.sum(1).clamp(min=_TINY)).unsqueeze(1)
        # Slopes of a quadratic are linear: their mean over several sweeps is the slope at the mean of these.
        x = torch.where(dense.unsqueeze(1), state.centre + part * (state.x - state.centre), state.x)
        gradient = torch.where(weights > 0, sums / weights.clamp(min=_TINY), 0.0)
        spread = state.noise.unsqueeze(1) / (2 * weights).clamp(min=_TINY).sqrt()
        spread = torch.where((state.mode == FORWARD).unsqueeze(1), 2 * spread, spread)
        step, change = x - state.origin, gradient - state.gradient
        curve = (step * change).sum(1)
        least = 1e-10 * norm(step) * norm(change) + 3 * math.sqrt(2) * rms(spread) * norm(step)
        keep = state.swept & (curve > least) & (norm(step) > 0)
        steps = torch.where(keep[:, None, None], torch.cat((state.steps[:, 1:], step.unsqueeze(1)), 1), state.steps)
        changes = torch.where(
            keep[:, None, None], torch.cat((state.changes[:, 1:], change.unsqueeze(1)), 1), state.changes
        )
        if not self.config.memory:
            steps, changes = state.steps, state.changes
        has = (changes[:, -1].square().sum(1) > 0) if self.config.memory else keep & False
        out = ((x <= state.space.low) & (gradient > 0)) | ((x >= state.space.high) & (gradient < 0))
        slope = torch.where(out, 0.0, gradient)
        mean = state.even / state.pairs.clamp(min=1)
        loss = torch.where(state.loss.isnan(), mean, state.loss)
        length = state.weights.sum(1) / state.pairs.clamp(min=1)
        rise = mean - loss
        # Of a pair u apart the mean is higher by u^T H u / 2: the curvature where no step has told it yet.
        bent = rise > torch.maximum(state.noise * (2 / state.pairs.clamp(min=1)).sqrt(), 1e-9 * loss.abs())
        newton = torch.where(
            dense & bent, length / (2 * rise.clamp(min=_TINY)), 0.1 * state.scale / rms(slope).clamp(min=_TINY)
        )
        along = two_loop(slope, steps, changes, newton, has)
        along = torch.where(out, 0.0, along)
        bad = ~((along * slope).sum(1) > 0) | ~along.isfinite().all(1)
        plain = slope * newton.unsqueeze(1)
        direction = -torch.where(bad.unsqueeze(1), plain, along)
        # Where f is zero to the last bit, curvatures are too, and quotients of them may be anything.
        direction = torch.where(direction.isfinite(), direction, 0.0)
        has = has & ~bad
        gain = -(direction * slope).sum(1)
        eta = direction.square().sum(1) / gain.clamp(min=_TINY)
        error = eta * torch.where(out, 0.0, spread).square().sum(1)
        told = ~dense | (gain > _SIGNIFICANT * error)
        # A gain that single values would not show is taken without looking.
        search = told & (~dense | (gain > 4 * state.noise))
        quiet = ~told
        calm = torch.where(search, 0, state.calm + 1)
        # The share of a step that is not noise, as far as its energy tells (James and Stein).
        share = (1 - error / gain.clamp(min=_TINY) + math.sqrt(2 / x.shape[1])).clamp(0, 1)
        moved = within(state.space, x + share.unsqueeze(1) * direction)
        state = state._replace(loss=loss)
        state = parted(dense & (state.calm == 0), curved, lambda s, *_: s, state, rise, length)
        mu = torch.where(dense, next_distance(state, loss, rise), state.mu)
        row = quiet.unsqueeze(1)
        # Now and then f is measured where the run has come to without line searches.
        look = ~search & (calm % _LOOK == 0)
        after = state._replace(
            x=x,
            gradient=torch.where(row, state.gradient, gradient),
            origin=torch.where(row, state.origin, x),
            swept=state.swept | ~quiet,
            # The pair of a sweep that is not the last of its row is for its own step only.
            steps=torch.where(row.unsqueeze(2), state.steps, torch.where(bad[:, None, None], 0.0, steps)),
            changes=torch.where(row.unsqueeze(2), state.changes, torch.where(bad[:, None, None], 0.0, changes)),
            direction=torch.where(search.unsqueeze(1), direction, 0.0),
            earlier=torch.where(row, sums, 0.0),
            heavier=torch.where(row, weights, 0.0),
            centre=x,
            length=torch.ones_like(loss),
            tries=torch.where(has, 0, 1),
            searching=search | look,
            calm=calm,
            mu=mu,
        )
        after = after._replace(x=torch.where(search.unsqueeze(1), x, moved))
        return parted(after.searching, lambda s: s, begun, after)  # type: ignore[no-any-return]

    # A line search.

    def _line(self, state: ZOLBFGSState) -> Tensor:
        """Points (B, m, d) along the direction."""
        t = self._lengths(state)
        points = torch.addcmul(state.x.unsqueeze(1), t.unsqueeze(2), state.direction.unsqueeze(1))
        low, high = state.space.low.unsqueeze(1), state.space.high.unsqueeze(1)
        return reflected(state.space, torch.minimum(torch.maximum(points, low), high))

    def _lengths(self, state: ZOLBFGSState) -> Tensor:
        m = self.queries_per_step
        a = torch.arange(m, device=state.x.device, dtype=state.x.dtype)
        ratio = torch.where(state.tries == 0, 1.5 if m > 10 else 2.0, 4.0).to(state.x.dtype).unsqueeze(1)
        t = state.length.unsqueeze(1) * ratio ** (a - (m - 1 - m // 4))
        return torch.where((state.mode == DENSE).unsqueeze(1), state.length.unsqueeze(1) * 2 * a / (m - 1), t)

    def _searched(self, state: ZOLBFGSState, points: Tensor, values: Tensor) -> ZOLBFGSState:
        return parted(state.mode == DENSE, self._fitted, self._lowest, state, points, values)  # type: ignore[no-any-return]

    def _lowest(self, state: ZOLBFGSState, points: Tensor, values: Tensor) -> ZOLBFGSState:
        """Without noise: on to the lowest point."""
        m = self.queries_per_step
        value, at = values.nan_to_num(nan=torch.inf).min(1)
        rows = torch.arange(len(at), device=at.device)
        better = value < state.loss - 2 * state.noise
        t = self._lengths(state)
        farther = better & (at == m - 1) & (state.tries == 1)
        inner = better & (at > 0) & (at < m - 1)
        near = (at.clamp(1, m - 2).unsqueeze(1) + torch.arange(-1, 2, device=at.device)).clamp(0, m - 1)
        lowest_at = vertex(t.gather(1, near), values.gather(1, near))
        inner = inner & lowest_at.isfinite()
        x = torch.where(better.unsqueeze(1), points[rows, at], state.x)
        guess = within(state.space, state.x + torch.where(inner, lowest_at, 0.0).unsqueeze(1) * state.direction)
        x = torch.where(inner.unsqueeze(1), guess, x)
        # Between two of its points the parabola's lowest is likely lower still; the next sweep begins by evaluating it.
        loss = torch.where(inner, torch.nan, torch.where(better, value, state.loss))
        # On from the end of the line where that is the lowest point; the same line nearer by where there is none.
        again = ~better & (state.tries <= 1)
        shorter = t[:, 0]
        on = state._replace(
            x=x,
            loss=loss,
            length=torch.where(farther, t[rows, at], torch.where(again, shorter, state.length)),
            tries=torch.where(farther, 3, torch.where(again, 2, state.tries)),
            searching=farther | again,
        )
        stuck = ~better & ~again & (state.tries < 3)
        forward = state.mode == FORWARD
        has = state.changes[:, -1:].square().sum((1, 2)) > 0 if self.config.memory else stuck & False
        # Better slopes first, then none of the past, then there is nothing lower nearby.
        mode = torch.where(stuck & forward, torch.where(state.noise > 0, DENSE, CENTRAL), state.mode)
        forget = stuck & ~forward
        on = on._replace(
            mode=mode,
            ended=state.ended | (forget & ~has),
            mu=torch.where(stuck & (mode == CENTRAL) & forward, self._wider(state), state.mu),
            steps=torch.where(forget[:, None, None], 0.0, state.steps),
            changes=torch.where(forget[:, None, None], 0.0, state.changes),
            swept=state.swept & ~stuck,
        )
        return parted(on.searching, lambda s: s, begun, on)  # type: ignore[no-any-return]

    def _wider(self, state: ZOLBFGSState) -> Tensor:
        eps = torch.finfo(state.x.dtype).eps
        made: Tensor = state.mu * eps ** (1 / 3 - 1 / 2)
        return made

    def _fitted(self, state: ZOLBFGSState, points: Tensor, values: Tensor) -> ZOLBFGSState:
        """Under noise: on to the lowest point of a parabola."""
        state = state._replace(noise=heard(state, values))
        t = self._lengths(state)
        unit = t[:, -1:]
        fit, low, began = parabola(t / unit, values)
        x = within(state.space, state.x + (low * unit.squeeze(1)).unsqueeze(1) * state.direction)
        # A parabola that ends far below all values fits none of them: then the lowest of these, which is luck in part.
        value, at = values.nan_to_num(nan=torch.inf).min(1)
        poor = fit < value - state.noise
        loss = torch.where(poor, value + state.noise, fit)
        x = torch.where(poor.unsqueeze(1), points[torch.arange(len(at), device=at.device), at], x)
        began = torch.where(poor, values[:, 0], began)
        # All points are x where f was to be measured only.
        still = ~(state.direction != 0).any(1) | ~fit.isfinite()
        mean = values.nanmean(1)
        loss = torch.where(still, torch.where(mean.isfinite(), mean, state.loss), loss)
        x = torch.where(still.unsqueeze(1), state.x, x)
        state = searched(state, began - loss, ~still)
        return begun(state._replace(x=x, loss=loss))
