"""Fitting fields to points: the published loop, and one that takes a fraction of its time.

Published: 97 batches of 2048 points are an epoch; Adam at a rate that falls when the loss has not
for ten epochs; at an end after 50 epochs without a better one. Ours: the same network and loss;
matrices go by Muon, whose steps are as long in all directions; a rate that falls along a cosine
over some hundred steps; products of matrices in bfloat16 where the processor has it; and gradients
only of points that still have one. Rounds of it follow one another, each twice as long, until
points that are kept for measuring agree well enough. On a card, many fields at once.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ...geometry.threads import thread_count
from ...neural_fields import widened
from .config import FieldConfig
from .field import OccupancyField, encode, evaluate
from .occupancy import Samples
from .weights_vector import flatten, layout, token_sizes, unflatten

Report = Callable[[float, float], None]
"""Told (share of the longest way that is done, loss per point); may raise to stop the fit."""

OCTAVES = 6
"""Of the points of fields that are fitted here; published ones are told four."""

FINER_OCTAVES = 8
"""Of still shapes for which one round is not enough: edges need them. From the first step on they
are learned by heart, where there are few points; wires and sheets come out better still."""

PUBLISHED_BATCH = 2048
PUBLISHED_EPOCHS = 5000
PUBLISHED_RATE = 1e-2
_PUBLISHED_POINTS_OF_A_FRAME = 128  # in a batch of an animated field
_PATIENCE = 50

_SETTLED = 1e-2  # a probability this near to what it should be moves no weight to speak of
_KEPT = (1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
"""Shares of a batch that gradients are taken of: few, since products of every new size are prepared
anew."""

_SLOWER = 0.5  # steps of each octave beyond OCTAVES, as a share of those of the one before
_MOMENTUM = 0.95  # of Muon
_ITERATIONS = 5

_MEASURED_AT_ONCE = 1 << 13
_REPORTED = 64  # steps
_TOGETHER = 64  # fields on a card


@dataclass(frozen=True)
class Effort:
    """How long is fitted, and how exactly.

    steps: of the first round, of a still shape; those of an animation are `moving` times as many.
    rounds: at most so many, each with twice the steps of the one before. enough: no further round
    once the intersection over union of measured points is this. further: rounds more of a still
    shape for which it is below `fair` then: of hard ones, thin or not. rate: at the start of a
    round from random weights; start_rate: from a start vector, and of later rounds. batch: points
    of a step; near: the share of them near the surface, where most is to be learned.
    """

    steps: int = 800
    rounds: int = 3
    enough: float = 0.98
    further: int = 0
    fair: float = 0.98
    rate: float = 3e-2
    start_rate: float = 1.5e-2
    batch: int = 2048
    near: float = 0.75
    moving: int = 4

    def round_steps(self, number: int, frames: int) -> int:
        return self.steps * 2**number * (self.moving if frames > 1 else 1)


EFFORTS = {
    "fast": Effort(steps=400, rounds=1),
    "good": Effort(steps=800, rounds=3, enough=0.98),
    "best": Effort(steps=1600, rounds=4, enough=0.995, further=1),
}


@dataclass(frozen=True, eq=False)
class Fitted:
    """vector: (W,) float32, the weights. loss: mean cross entropy of a point in the last steps (of
    the published loop, in the last epoch). iou: intersection over union of the points for measuring
    (of those anywhere, where there are none), over all frames. steps: of the optimizer. seconds: of
    the processor, in this process; on a card, the share of the time that all took. config: the
    layout of the vector."""

    vector: np.ndarray
    loss: float
    iou: float
    steps: int
    seconds: float
    config: FieldConfig


# -------------------------------------------------------------------------------------- one field


def fit(
    samples: Samples,
    config: FieldConfig | None = None,
    start: np.ndarray | None = None,
    effort: Effort = EFFORTS["good"],
    seed: int = 0,
    report: Report | None = None,
    more: Callable[[int], Samples] | None = None,
    octaves: int = 0,
) -> Fitted:
    """A field of the samples, on one thread of the processor.

    config: by default of as many dimensions as the samples have, and as large as published fields.
    start: the vector (W,) to begin with, by default random weights. more: draws further points
    for a round after the first, by its number from 1. octaves: that points are told in such a
    round at least. The same seed gives the same field on the same machine. Raises ValueError where
    start, config and samples do not belong together.
    """
    config = config or FieldConfig(dimensions=samples.dimensions)
    _check(samples, config, start)
    begun = time.thread_time()
    with one_thread():
        descent = _Descent(config, random_start(config, seed) if start is None else start)
        points, inside = _all_points(samples, config)
        draws = torch.Generator().manual_seed(seed)
        rounds = effort.rounds + (effort.further if samples.frames == 1 else 0)
        planned = [effort.round_steps(number, samples.frames) for number in range(rounds)]
        loss, iou = math.nan, 0.0
        best, layout_of_best = descent.vector.clone(), config
        for number, steps in enumerate(planned):
            if number and more is not None:
                samples = samples.with_more(more(number))
                points, inside = _all_points(samples, config)
            if number and octaves > config.frequencies:
                config, descent = descent.finer(octaves)
            rate = effort.rate if start is None and not number else effort.start_rate
            batches = (_drawn(samples, effort, draws) for _ in range(steps))
            for loss in _descend(descent, points, inside, batches, rate, steps):
                if report is not None:
                    report(descent.steps / sum(planned), loss)
            found = _measured(config, descent.vector.numpy(), samples)
            if found >= iou or samples.thin:
                iou = found
                best, layout_of_best = descent.vector.clone(), config
            if iou >= effort.enough and not samples.thin:
                break
            if number + 1 >= effort.rounds and iou >= effort.fair:
                break
    seconds = time.thread_time() - begun
    return Fitted(best.numpy(), loss, iou, descent.steps, seconds, layout_of_best)


def _descend(
    descent: _Descent,
    points: torch.Tensor,
    inside: torch.Tensor,
    batches: Iterable[torch.Tensor],
    rate: float,
    steps: int,
) -> Iterator[float]:
    """One round: the rate falls from `rate` along half a cosine. Yields the loss per point of the
    last steps now and then."""
    losses = []
    for step, chosen in enumerate(batches):
        falling = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        losses.append(
            descent.step(points.index_select(0, chosen), inside.index_select(0, chosen), falling)
        )
        if len(losses) == _REPORTED or step == steps - 1:
            yield float(torch.stack(losses).mean())
            losses.clear()


def _drawn(samples: Samples, effort: Effort, draws: torch.Generator) -> torch.Tensor:
    """(batch,) numbers of points, of all frames one after another: with replacement."""
    frames, count = samples.points.shape[:2]
    near = round(effort.batch * effort.near)
    if not 0 < samples.near < count:
        near = effort.batch if samples.near else 0
    sizes = ((near, 0, samples.near), (effort.batch - near, samples.near, count))
    parts = [
        torch.randint(begin, end, (size,), generator=draws, device=draws.device)
        for size, begin, end in sizes
        if size
    ]
    within = torch.cat(parts)
    if frames == 1:
        return within
    frame = torch.randint(frames, (effort.batch,), generator=draws, device=draws.device)
    return frame * count + within


class _Descent:
    """Steps on one field, forwards and backwards by hand.

    What automatic differentiation would do besides: keep all of it for every point, though after a
    few hundred steps most points are on their side of the surface for good and change no weight.
    """

    def __init__(self, config: FieldConfig, start: np.ndarray) -> None:
        self.vector = torch.from_numpy(np.array(start, np.float32))
        self.vector.grad = torch.zeros_like(self.vector)
        self.steps = 0
        self._config = config
        self._type = torch.bfloat16 if has_fast_bfloat16() else torch.float32
        self._working = torch.empty_like(self.vector, dtype=self._type)
        self._weights = _views(config, self._working)
        self._first = _views(config, self.vector)[:2]
        self._gradients = _views(config, self.vector.grad)
        self._optimizer = _Optimizer(config, self.vector)

    def step(self, points: torch.Tensor, inside: torch.Tensor, rate: float) -> torch.Tensor:
        """Points (B, D) and 1.0 for those inside (B,) -> loss per point, before the step."""
        layers, logits = self._forwards(points)
        loss = F.binary_cross_entropy_with_logits(logits, inside)
        residuals = logits.sigmoid_().sub_(inside)
        layers, residuals = _unsettled(layers, residuals)
        self._backwards(layers, residuals / len(points))
        self._optimizer.step(rate)
        self.steps += 1
        return loss

    def finer(self, octaves: int) -> tuple[FieldConfig, _Descent]:
        """The same field told so many octaves, and steps on it from here."""
        config, told = self._config, (self._config.frequencies, octaves)
        vector = widened(
            self.vector.numpy(), config.dimensions, told, config.hidden[0], config.period
        )
        config = replace(config, frequencies=octaves)
        other = _Descent(config, vector)
        other.steps = self.steps
        return config, other

    def _forwards(self, points: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The encoded points and what each hidden layer makes of them; logits (B,) float32.

        The first layer stays in float32: in bfloat16, points a thousandth of the domain apart are
        the same.
        """
        self._working.copy_(self.vector)
        layers = [encode(points, self._config.frequencies, self._config.period)]
        weight, bias = self._first
        layers.append(torch.addmm(bias, layers[0], weight.t()).relu_().to(self._type))
        for number in range(2, len(self._weights) - 2, 2):
            weight, bias = self._weights[number : number + 2]
            layers.append(torch.addmm(bias, layers[-1], weight.t()).relu_())
        weight, bias = self._weights[-2:]
        return layers, torch.mm(layers[-1], weight.t())[:, 0].float() + self.vector[-1]

    def _backwards(self, layers: list[torch.Tensor], residuals: torch.Tensor) -> None:
        """Gradients of the weights, from the gradients (K,) of the logits."""
        low = residuals.to(self._type)[None]
        self._gradients[-2].copy_(torch.mm(low, layers[-1]))
        self._gradients[-1].copy_(residuals.sum())
        change = torch.mm(low.t(), self._weights[-2])
        for number in range(len(layers) - 2, -1, -1):
            change = torch.ops.aten.threshold_backward(change, layers[number + 1], 0)
            if not number:
                change = change.float()
            self._gradients[2 * number].copy_(torch.mm(change.t(), layers[number]))
            self._gradients[2 * number + 1].copy_(change.sum(0))
            if number:
                change = torch.mm(change, self._weights[2 * number])


_Paces = torch.Tensor | None


class _Optimizer:
    """Muon for the matrices of hidden layers, Adam for the rest.

    Muon (Jordan et al. 2024) takes of the running mean of a matrix's gradients the orthogonal part
    of its polar form: a step as long in every direction of the layer. Adam goes quickly along the
    few that its points have in common and hardly moves the others, which thin parts need.
    """

    def __init__(self, config: FieldConfig, vector: torch.Tensor) -> None:
        """vector (..., W), of one field or of many, with a gradient."""
        assert vector.grad is not None  # noqa: S101 - who calls makes it
        self._matrices: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, _Paces]] = []
        others = []
        gradients = _views(config, vector.grad)
        for weight, gradient in zip(_views(config, vector.detach()), gradients, strict=True):
            if weight.dim() > vector.dim() and min(weight.shape[-2:]) > 1:
                paces = None if self._matrices else _paces(config, vector.device)
                self._matrices.append((weight, gradient, torch.zeros_like(gradient), paces))
            else:
                weight.grad = gradient
                others.append(weight)
        # The fused one takes pieces of many vectors, which have gaps, for whole ones.
        self._adam = torch.optim.Adam(others, fused=vector.dim() == 1)

    def step(self, rate: float) -> None:
        for weight, gradient, mean, paces in self._matrices:
            if paces is not None:
                gradient.mul_(paces)
            mean.lerp_(gradient, 1 - _MOMENTUM)
            longer = max(1.0, weight.shape[-2] / weight.shape[-1]) ** 0.5
            change = _orthogonal(gradient.lerp(mean, _MOMENTUM))
            weight.sub_(change if paces is None else change * paces, alpha=rate * longer)
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()


def _paces(config: FieldConfig, device: torch.device) -> _Paces:
    """(E,) how long steps of the first layer's columns are; None where all are 1. It is as if fine
    octaves were told more softly: they are learned by heart otherwise."""
    if config.frequencies <= OCTAVES:
        return None
    axes = config.dimensions - bool(config.period)
    paces = torch.ones(config.encoded, device=device)
    for octave in range(OCTAVES, config.frequencies):
        begin = axes * (1 + 2 * octave)
        paces[begin : begin + 2 * axes] = _SLOWER ** (octave + 1 - OCTAVES)
    return paces


def _orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Of matrices (..., A, B) those whose singular values are all near 1: a Newton-Schulz iteration
    with the coefficients of Jordan et al., after which they lie between 0.7 and 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    turned = matrices.shape[-2] > matrices.shape[-1]
    found = matrices.mT if turned else matrices
    found = found / (found.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = found @ found.mT
        found = a * found + (b * square + c * (square @ square)) @ found
    return found.mT if turned else found


def _unsettled(
    layers: list[torch.Tensor], residuals: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Only points whose residuals (B,) are worth a gradient, rounded up to a share of _KEPT."""
    size = residuals.abs()
    count, needed = len(size), int((size > _SETTLED).sum())
    kept = next(int(count * share) for share in _KEPT if int(count * share) >= needed)
    if kept == count:
        return layers, residuals
    chosen = size.topk(kept, sorted=False).indices
    return [layer.index_select(0, chosen) for layer in layers], residuals.index_select(0, chosen)


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; emulated, it is slower than float32."""
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


# -------------------------------------------------------------------------------------- published


def fit_published(
    samples: Samples,
    config: FieldConfig | None = None,
    start: np.ndarray | None = None,
    seed: int = 0,
    epochs: int = PUBLISHED_EPOCHS,
    report: Report | None = None,
    *,
    gradient_of_points: bool = False,
) -> Fitted:
    """As published; start: the first shape's weights, for the first one None.

    gradient_of_points: also computed as published, though nothing is made of it.
    """
    config = config or FieldConfig(dimensions=samples.dimensions)
    begun = time.thread_time()
    with one_thread():
        loop = PublishedLoop(samples, config, start, seed, gradient_of_points=gradient_of_points)
        while loop.epochs < epochs and not loop.stopped:
            loop.epoch()
            if report is not None:
                report(loop.epochs / epochs, loop.loss)
        vector = loop.vector()
        iou = _measured(config, vector, samples)
    seconds = time.thread_time() - begun
    return Fitted(vector, loop.loss, iou, loop.epochs * loop.batches, seconds, config)


class PublishedLoop:
    """The published loop, epoch by epoch. A batch of an animated field has 16 frames, and the same
    points' numbers in each. loss: per point, in the last epoch."""

    def __init__(
        self,
        samples: Samples,
        config: FieldConfig,
        start: np.ndarray | None = None,
        seed: int = 0,
        *,
        gradient_of_points: bool = False,
    ) -> None:
        _check(samples, config, start)
        self.batches = max(1, samples.points.shape[1] // PUBLISHED_BATCH)
        self.epochs, self.loss = 0, math.nan
        self._samples = samples
        self._gradient_of_points = gradient_of_points
        self._field = OccupancyField(config)
        first = random_start(config, seed) if start is None else np.array(start, np.float32)
        self._field.load_state_dict(unflatten(config, torch.from_numpy(first)))
        self._points, self._inside = _all_points(samples, config)
        self._adam = torch.optim.Adam(self._field.parameters(), lr=PUBLISHED_RATE)
        self._plateau = Plateau(self._adam)
        self._draws = torch.Generator().manual_seed(seed)

    @property
    def stopped(self) -> bool:
        return self._plateau.stopped

    def epoch(self) -> None:
        total = 0.0
        for _ in range(self.batches):
            chosen = _published_draws(self._samples, self._draws)
            points = self._points[chosen].requires_grad_(self._gradient_of_points)
            total += published_step(self._field, self._adam, points, self._inside[chosen])
        self.epochs += 1
        self.loss = total / self.batches / PUBLISHED_BATCH
        self._plateau.after_epoch(total / self.batches)

    def vector(self) -> np.ndarray:
        """(W,) float32."""
        return flatten(self._field.config, self._field.state_dict()).numpy().copy()


def published_step(
    field: OccupancyField, adam: torch.optim.Optimizer, points: torch.Tensor, inside: torch.Tensor
) -> float:
    """One step on points (B, D), inside (B,); the cross entropy of all of them together, before."""
    logits = field(points)[:, 0]
    # The published targets are doubles, and so is the sum.
    loss = F.binary_cross_entropy_with_logits(logits.double(), inside.double(), reduction="sum")
    adam.zero_grad()
    loss.backward()
    adam.step()
    return float(loss.detach())


class Plateau:
    """The published rate and end: 0.8 of the rate, not below 1e-5, when ten epochs have had no loss
    below the best one; an end after 50."""

    def __init__(self, adam: torch.optim.Optimizer) -> None:
        self._adam = adam
        self._rates = ReduceLROnPlateau(
            adam, mode="min", factor=0.8, patience=10, threshold=0, min_lr=1e-5
        )
        self._best = math.inf
        self._waited = 0

    @property
    def rate(self) -> float:
        return float(self._adam.param_groups[0]["lr"])

    @property
    def stopped(self) -> bool:
        return self._waited >= _PATIENCE

    def after_epoch(self, loss: float) -> None:
        self._rates.step(loss)
        self._waited = 0 if loss < self._best else self._waited + 1
        self._best = min(self._best, loss)


def _published_draws(samples: Samples, draws: torch.Generator) -> torch.Tensor:
    """Numbers of points, of all frames one after another: with replacement."""
    frames, count = samples.points.shape[:2]
    if frames == 1:
        return torch.randint(count, (PUBLISHED_BATCH,), generator=draws)
    per_frame = _PUBLISHED_POINTS_OF_A_FRAME
    chosen = torch.randint(frames, (PUBLISHED_BATCH // per_frame, 1), generator=draws)
    return (chosen * count + torch.randint(count, (1, per_frame), generator=draws)).flatten()


# ------------------------------------------------------------------------------------------- many


def fit_many(
    samples: Iterable[Samples],
    config: FieldConfig | None = None,
    start: np.ndarray | None = None,
    effort: Effort = EFFORTS["good"],
    seed: int = 0,
    device: str = "cpu",
    processes: int | None = None,
) -> Iterator[Fitted]:
    """Fields of many samples from one start, in order, as they are done: on the processor one
    process per core, each what `fit` gives; on a card many at once, for all rounds' steps in one.

    samples: taken one by one, not long before they are needed.
    """
    if device != "cpu":
        yield from _fit_on_card(samples, config, start, effort, seed, device)
        return
    processes = processes or thread_count()
    if processes == 1:
        for one in samples:
            yield fit(one, config, start, effort, seed)
        return
    context = multiprocessing.get_context("spawn")  # threads of this process do not survive a fork
    with ProcessPoolExecutor(processes, context) as pool:
        waiting: deque[Future[Fitted]] = deque()
        for one in samples:
            waiting.append(pool.submit(fit, one, config, start, effort, seed))
            if len(waiting) > processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _fit_on_card(
    samples: Iterable[Samples],
    config: FieldConfig | None,
    start: np.ndarray | None,
    effort: Effort,
    seed: int,
    device: str,
) -> Iterator[Fitted]:
    remaining = iter(samples)
    for first in remaining:
        group = [first, *islice(remaining, _TOGETHER - 1)]
        yield from fit_together(
            group, config or FieldConfig(dimensions=first.dimensions), start, effort, seed, device
        )


def fit_together(
    group: list[Samples],
    config: FieldConfig,
    start: np.ndarray | None,
    effort: Effort,
    seed: int,
    device: str,
) -> list[Fitted]:
    """Fields of samples of one size, each layer of all of them in one product: for a card, which
    one field alone does not fill. All rounds' steps, in one round."""
    for samples in group:
        _check(samples, config, start)
    begun = time.perf_counter()
    first = random_start(config, seed) if start is None else np.array(start, np.float32)
    vectors = torch.from_numpy(first).to(device).repeat(len(group), 1).requires_grad_()
    points = torch.stack([_all_points(samples, config)[0] for samples in group]).to(device)
    inside = torch.stack([_all_points(samples, config)[1] for samples in group]).to(device)
    vectors.grad = torch.zeros_like(vectors)
    optimizer = _Optimizer(config, vectors)
    draws = torch.Generator(device).manual_seed(seed)
    frames = group[0].frames
    steps = sum(effort.round_steps(number, frames) for number in range(effort.rounds))
    rate = effort.rate if start is None else effort.start_rate
    low = device != "cpu" or has_fast_bfloat16()
    losses = torch.zeros(len(group), device=device)
    for step in range(steps):
        chosen = _drawn(group[0], effort, draws)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=low):
            logits = evaluate(config, vectors, points[:, chosen])
        each = F.binary_cross_entropy_with_logits(
            logits.float(), inside[:, chosen], reduction="none"
        ).mean(dim=1)
        vectors.grad.zero_()
        each.sum().backward()  # fields do not touch one another
        optimizer.step(rate * 0.5 * (1 + math.cos(math.pi * step / steps)))
        losses = each.detach() if not step else losses.lerp(each.detach(), 0.02)
    found = vectors.detach().cpu().numpy()
    means = losses.cpu().tolist()
    seconds = (time.perf_counter() - begun) / len(group)
    return [
        Fitted(vector, loss, _measured(config, vector, samples), steps, seconds, config)
        for vector, loss, samples in zip(found, means, group, strict=True)
    ]


# ------------------------------------------------------------------------------- starts, measures


def random_start(config: FieldConfig, seed: int = 0) -> np.ndarray:
    """(W,) float32: weights as a network of torch's linear layers begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return flatten(config, OccupancyField(config).state_dict()).numpy()


def layout_for(frames: int, loop: bool, thin: bool = False) -> FieldConfig:
    """The layout that fits of what a person has begin with, which models in the box share unless it
    is thin or one round is not enough (`fit`): more octaves than the published one, for edges and
    thin parts, and the phase of what repeats.

    loop: whether the last frame leads to the first. thin: see Samples.
    """
    if frames == 1:
        return FieldConfig(3, FINER_OCTAVES if thin else OCTAVES)
    return FieldConfig(4, OCTAVES, period=frames if loop and frames > 2 else 0)


def intersection_over_union(
    config: FieldConfig,
    vector: np.ndarray,
    points: np.ndarray,
    inside: np.ndarray,
    level: float = 0.0,
) -> float:
    """Of the field above `level` and of what is inside, over points (F, P, 3) of F frames,
    inside (F, P); 1 where both are empty."""
    vectors = torch.from_numpy(np.ascontiguousarray(vector, np.float32))[None]
    both = either = 0
    with torch.inference_mode():
        for frame, (places, truth) in enumerate(zip(points, inside, strict=True)):
            for begin in range(0, len(places), _MEASURED_AT_ONCE):
                part = slice(begin, begin + _MEASURED_AT_ONCE)
                here = torch.from_numpy(_with_frame(places[part], frame, config))
                found = evaluate(config, vectors, here)[0].numpy() > level
                both += int((found & truth[part]).sum())
                either += int((found | truth[part]).sum())
    return both / either if either else 1.0


def _measured(config: FieldConfig, vector: np.ndarray, samples: Samples) -> float:
    points, inside = samples.check_points, samples.check_inside
    if not points.shape[1]:
        points, inside = samples.points[:, samples.near :], samples.inside[:, samples.near :]
    return intersection_over_union(config, vector, points, inside)


def _with_frame(points: np.ndarray, frame: int, config: FieldConfig) -> np.ndarray:
    """(P, D): with the number of the frame as a fourth coordinate where the field has four."""
    points = np.ascontiguousarray(points, np.float32)
    if config.dimensions == 3:
        return points
    return np.concatenate([points, np.full((len(points), 1), frame, np.float32)], axis=1)


def _all_points(samples: Samples, config: FieldConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (F P, D) and 1.0 for those inside (F P,), frame after frame."""
    framed = [_with_frame(points, frame, config) for frame, points in enumerate(samples.points)]
    inside = samples.inside.reshape(-1).astype(np.float32)
    return torch.from_numpy(np.concatenate(framed)), torch.from_numpy(inside)


def _views(config: FieldConfig, vector: torch.Tensor) -> list[torch.Tensor]:
    """The weights and biases that vectors (..., W) hold, in their order."""
    pieces = vector.split(token_sizes(config), dim=-1)
    return [
        piece.unflatten(-1, shape) for piece, (_, shape) in zip(pieces, layout(config), strict=True)
    ]


def _check(samples: Samples, config: FieldConfig, start: np.ndarray | None) -> None:
    if config.dimensions == 3 and samples.frames != 1:
        raise ValueError(f"{samples.frames} frames for a field over 3 dimensions")
    if not samples.points.shape[1]:
        raise ValueError("no points to fit a field to")
    if start is not None and np.shape(start) != (sum(token_sizes(config)),):
        raise ValueError(f"a start of shape {np.shape(start)}: the field has other weights")


@contextmanager
def one_thread() -> Iterator[None]:
    """Products this small are slower on two threads, and much slower where another job runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
