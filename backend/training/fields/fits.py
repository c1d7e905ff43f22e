"""Fields fitted one by one, as HyperDiffusion does: all but the first from the first one's weights.

A file per shape, so that what is done is not done again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ...errors import BadInput
from ...models.hyperdiffusion import fitting
from ...models.hyperdiffusion.config import FieldConfig
from ...models.hyperdiffusion.fitting import EFFORTS, Effort, Fitted
from ...models.hyperdiffusion.occupancy import POINTS, Samples
from ...models.hyperdiffusion.weights_vector import token_sizes
from .data import Item

FOLDER = "fits"
_START = "start"
_CHECKED = 65_536
_NEAR, _ANYWHERE = POINTS, POINTS


def fit_all(
    items: Sequence[Item],
    folder: Path,
    config: FieldConfig,
    report: Callable[[str, float], None],
    effort: Effort = EFFORTS["good"],
    seed: int = 0,
    device: str = "cpu",
    processes: int = 1,
) -> None:
    """FOLDER/fits/KEY.npz for every item that has none, the overlap of each told as it is done."""
    if not items:
        raise BadInput("There is nothing to fit fields to.", "Give the shapes.")
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    start = _start(items[0], place, config, seed, report)
    missing = [item for item in items if not _path(place, item).exists()]
    done = fitting.fit_many(_samples(missing, seed), config, start, effort, seed, device, processes)
    for number, (item, fitted) in enumerate(zip(missing, done, strict=True), 1):
        save(_path(place, item), fitted)
        words = f"{item.shape.caption}: overlap {fitted.iou:.3f} in {fitted.seconds:.0f} s"
        report(words, number / len(missing))


def load(items: Sequence[Item], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, W) float32 and overlaps (N,). Raises BadInput where one is missing."""
    found = [_read(_path(folder / FOLDER, item)) for item in items]
    return np.stack([one["vector"] for one in found]), np.array(
        [float(one["iou"]) for one in found]
    )


def done(items: Sequence[Item], folder: Path) -> list[Item]:
    """Those that have been fitted."""
    return [item for item in items if _path(folder / FOLDER, item).exists()]


def save(path: Path, fitted: Fitted) -> None:
    """Written whole or not at all; arrays alone: the layout is that of the start beside it."""
    partial = path.with_name(path.stem + ".part.npz")
    numbers = {name: getattr(fitted, name) for name in ("loss", "iou", "steps", "seconds")}
    np.savez(partial, vector=fitted.vector, **numbers)
    partial.replace(path)


def _path(place: Path, item: Item) -> Path:
    return place / f"{item.key}.npz"


def _samples(items: Sequence[Item], seed: int) -> Iterator[Samples]:
    for item in items:
        yield item.samples(seed, _NEAR, _ANYWHERE, _CHECKED // item.frames)


def _start(
    first: Item,
    place: Path,
    config: FieldConfig,
    seed: int,
    report: Callable[[str, float], None],
) -> np.ndarray:
    """What all begin with: the field of the first, longer fitted, from random weights."""
    path = place / f"{_START}.npz"
    if not path.exists():
        report(f"{first.shape.caption}: what all others begin with", 0.0)
        (samples,) = _samples([first], seed)
        random = fitting.random_start(config, seed)
        save(path, fitting.fit(samples, config, random, EFFORTS["best"], seed))
    found: np.ndarray = _read(path)["vector"]
    if len(found) != sum(token_sizes(config)):
        raise BadInput(
            f"The fields in {place} are told their points otherwise.",
            "Give the --frequencies, and --cycle or not, that they were fitted with, or another"
            " folder.",
        )
    return found


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return {"vector": arrays["vector"], "iou": arrays["iou"]}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise BadInput(f"{path} holds no field ({error}).", "Make it with `fields fit`.") from None
