"""Neural fields: fitting beside the published loop, and surfaces beside evaluating every node.

`python3 -m backend bench --only fields` takes shapes of examples/; `python3 -m backend.bench.fields
FILE.ffs` the test side of a data set. Seconds are the processor's, of one thread, with drawing the
points. The published loop has the published layout and as many points, as they are published; ours
draws more later. It is looked at after every few epochs, and said is what it took until its
intersection over union was ours (looking is not counted), or that it had not come so far. IoU is
that of 128^3 nodes.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bench_tables import table
from ..models.hyperdiffusion import fitting, occupancy, surface
from ..models.hyperdiffusion.config import FieldConfig
from ..models.hyperdiffusion.occupancy import Frame, Samples
from .reconstruction import SHAPES

Row = dict[str, Any]

CHOSEN = ("chair", "couch", "lantern")
"""Of the examples: thin legs, closed and large, round."""


@dataclass(frozen=True)
class Size:
    """What is measured. points: near the surface, and as many anywhere. side: of the grid that the
    IoU is counted on; mesh_side: of surfaces. epochs: of the published loop at most; look: it is
    looked at after so many. config, published: of our fields, by default as the product has them,
    and of the published loop's."""

    points: int = occupancy.POINTS
    check: int = 100_000
    side: int = 128
    mesh_side: int = 256
    epochs: int = 40
    look: int = 8
    efforts: tuple[str, ...] = ("fast", "good")
    config: FieldConfig | None = None
    published: FieldConfig = field(default_factory=FieldConfig)


def rows(
    shapes: Iterable[tuple[str, Frame]] | None = None, size: Size | None = None
) -> Iterator[Row]:
    """A row per shape and effort, then one of a surface, as they are measured."""
    size = size or Size()
    with fitting.one_thread():
        yield from _rows(shapes or examples(), size)


def _rows(shapes: Iterable[tuple[str, Frame]], size: Size) -> Iterator[Row]:
    last = None
    for name, frame in shapes:
        framed = occupancy.framed([frame])
        drawn = partial(occupancy.sample, framed.frames, 0, size.points, size.points, size.check)
        samples, drawing = _timed(drawn)
        theirs, their_drawing = _timed(partial(drawn, noise=(occupancy.NOISE,)))
        truth = occupancy.grid_inside(framed.frames, size.side)[0]
        found = []
        for effort in size.efforts:
            ours = _fitted(size, framed.frames, samples, effort)
            iou = _iou(ours.config, size.side, ours.vector, truth)
            found.append((effort, replace(ours, seconds=drawing + ours.seconds), iou))
        last = found[-1][1]
        enough = max(iou for *_, iou in found)
        published = list(_published(size, theirs, truth, enough, their_drawing))
        for effort, ours, iou in found:
            yield _row(name, effort, ours, iou, published)
    if last is not None:
        yield _surface_row(size, last)


def _timed(drawn: Callable[[], Samples]) -> tuple[Samples, float]:
    """What it gives, and the seconds of the processor that this took."""
    begun = time.process_time()
    samples = drawn()
    return samples, time.process_time() - begun


def examples() -> Iterator[tuple[str, Frame]]:
    with np.load(SHAPES) as arrays:
        for name in CHOSEN:
            yield name, (arrays[f"{name}_vertices"].astype(np.float64), arrays[f"{name}_faces"])


def measured_side(path: Path, names: Iterable[str] = ()) -> Iterator[tuple[str, Frame]]:
    """Shapes of the test side of a packed data set; names: only those, by the end of their id."""
    from ..training import packed

    wanted = set(names)
    for shape, content in packed.read(path):
        short = shape.id.rpartition("#")[2]
        if shape.split == "test" and (not wanted or short in wanted):
            yield short, packed.decode(content)


# ---------------------------------------------------------------------------------------- fitting


def _iou(config: FieldConfig, side: int, vector: np.ndarray, truth: np.ndarray) -> float:
    """Of all nodes of the grid; those far from the surface are not evaluated, and are the same."""
    logits = surface.field_function(config, torch.from_numpy(vector))
    inside = surface.sample_near_surface(logits, side).logits > 0
    return float((inside & truth).sum() / max(int((inside | truth).sum()), 1))


def _fitted(size: Size, frames: Sequence[Frame], samples: Samples, effort: str) -> fitting.Fitted:
    """As the product fits; with the seconds of the processor of drawing more points, too."""
    begun = time.process_time()
    ours = fitting.fit(
        samples,
        size.config or fitting.layout_for(1, loop=False, thin=samples.thin),
        None,
        fitting.EFFORTS[effort],
        more=partial(occupancy.sample_more, frames, 0),
        octaves=fitting.FINER_OCTAVES,
    )
    return replace(ours, seconds=time.process_time() - begun)


def _published(
    size: Size, samples: Samples, truth: np.ndarray, enough: float, spent: float = 0.0
) -> Iterator[tuple[int, float, float]]:
    """(epochs, seconds, IoU) of the published loop at each look, until it is as good or at its end.
    spent: seconds before it. While it is looked at, the clock stands still."""
    begun = time.thread_time()
    loop = fitting.PublishedLoop(samples, size.published, None, 0, gradient_of_points=True)
    for epoch in itertools.count(1):
        loop.epoch()
        if epoch % size.look and epoch < size.epochs:
            continue
        spent += time.thread_time() - begun
        iou = _iou(size.published, size.side, loop.vector(), truth)
        yield epoch, spent, iou
        if iou >= enough or epoch >= size.epochs or loop.stopped:
            return
        begun = time.thread_time()


def _row(
    name: str,
    effort: str,
    ours: fitting.Fitted,
    iou: float,
    published: list[tuple[int, float, float]],
) -> Row:
    reached = next((look for look in published if look[2] >= iou), None)
    epochs, seconds, theirs = reached or published[-1]
    return {
        "shape": name,
        "effort": effort,
        "IoU": round(iou, 4),
        "s": round(ours.seconds, 2),
        "published epochs": epochs,
        "their IoU": round(theirs, 4),
        "their s": round(seconds, 2),
        "times faster": f"{'' if reached else '> '}{seconds / ours.seconds:.1f}",
        "s of an epoch": round(seconds / epochs, 2),
    }


# ---------------------------------------------------------------------------------------- surfaces


def _surface_row(size: Size, fitted: fitting.Fitted) -> Row:
    """A surface, sparingly and from every node."""
    logits = surface.field_function(fitted.config, torch.from_numpy(fitted.vector))
    logits(np.zeros((1, 3), np.float32))
    begun = time.thread_time()
    sparing = surface.sample_near_surface(logits, size.mesh_side)
    middle = time.thread_time()
    whole = surface.sample_everywhere(logits, size.mesh_side)
    end = time.thread_time()
    same = all(
        np.array_equal(*both)
        for both in zip(surface.surface(sparing), surface.surface(whole), strict=True)
    )
    return {
        "surface": f"{size.mesh_side}^3 nodes",
        "s": round(middle - begun, 2),
        "every node, s": round(end - middle, 2),
        "times faster": f"{(end - middle) / (middle - begun):.1f}",
        "nodes evaluated": f"{sparing.known.mean():.1%}",
        "same mesh": same,
    }


# ------------------------------------------------------------------------------------ command line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--epochs", type=int, default=Size.epochs)
    parser.add_argument("--effort", action="append", choices=list(fitting.EFFORTS))
    options = parser.parse_args()
    size = Size(epochs=options.epochs, efforts=tuple(options.effort or Size.efforts))
    found = []
    for row in rows(measured_side(options.dataset, options.names), size):
        print(row, flush=True)
        found.append(row)
    print(table([row for row in found if "shape" in row]))


if __name__ == "__main__":
    main()
