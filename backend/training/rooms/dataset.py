"""Rooms on disk: made a shard at a time, so that a run that stops goes on; read without a copy.

FOLDER/SIDE-00000.rgb.npy    (32, H, 2 H, 3) uint8 sRGB
FOLDER/SIDE-00000.near.npy   (32, H, 2 H) uint16: 65535 NEAREST / metres, 0 for the sky
FOLDER/SIDE-00000.json       captions; written last: a shard without it is not there
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BadInput
from ..parallel import each
from . import furnishings, scenes

SHARD = 32
"""Rooms in a file."""

NEAREST = 0.25
"""Metres; nothing is nearer to an eye."""

_LEVELS = 65535
Job = tuple[Path, Path, str, int, int, int]


def inverse_levels(distance: np.ndarray) -> np.ndarray:
    """Metres, inf for the sky -> uint16 in proportion to 1 / metres, 0 for the sky."""
    return np.rint(_LEVELS * np.minimum(NEAREST / distance, 1.0)).astype(np.uint16)


def metres(levels: np.ndarray) -> np.ndarray:
    """The inverse of `inverse_levels`, float32; off by 0.2 mm at 2 m, 1.5 mm at 5 m."""
    with np.errstate(divide="ignore"):
        return (np.float32(NEAREST * _LEVELS) / levels.astype(np.float32)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Rooms:
    """The rooms of one side, in order. Pictures stay on disk until they are asked for."""

    captions: list[str]
    pictures: Sequence[np.ndarray]
    near: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.captions)

    def rgb(self, number: int) -> np.ndarray:
        """(H, 2 H, 3) uint8."""
        return np.asarray(self.pictures[number // SHARD][number % SHARD])

    def levels(self, number: int) -> np.ndarray:
        """(H, 2 H) uint16, in proportion to 1 / metres."""
        return np.asarray(self.near[number // SHARD][number % SHARD])


def load(folder: Path, side: str, most: int | None = None) -> Rooms:
    """What has been made of a side so far. Raises BadInput when there is nothing."""
    descriptions: list[dict[str, Any]] = []
    while (path := folder / f"{side}-{len(descriptions):05d}.json").exists():
        descriptions.append(json.loads(path.read_text("utf-8")))
    if not descriptions:
        raise BadInput(f"{folder} holds no {side} rooms.", "Make them with `rooms paint`.")
    stems = [folder / f"{side}-{number:05d}" for number in range(len(descriptions))]
    return Rooms(
        [text for one in descriptions for text in one["captions"]][:most],
        [np.load(f"{stem}.rgb.npy", mmap_mode="r") for stem in stems],
        [np.load(f"{stem}.near.npy", mmap_mode="r") for stem in stems],
    )


def make(
    furniture: Path,
    folder: Path,
    side: str,
    count: int,
    height: int,
    workers: int,
    report: Callable[[str, float], None],
) -> None:
    """Paint `count` rooms of a side, as far as they are not there. Whole shards only, and the rest
    of the last one is made, too. Raises BadInput."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-count // SHARD)
    jobs = [
        (furniture, folder, side, number, SHARD, height)
        for number in range(shards)
        if not (folder / f"{side}-{number:05d}.json").exists()
    ]
    for done, _ in enumerate(each(_make_shard, jobs, workers), 1):
        report(f"Painting {side} rooms", done / len(jobs))


_stores: dict[tuple[Path, str], scenes.Store] = {}


def _make_shard(job: Job) -> int:
    furniture, folder, side, number, count, height = job
    if (furniture, side) not in _stores:
        _stores[furniture, side] = scenes.Store(furnishings.read(furniture, side))
    store = _stores[furniture, side]
    rgb = np.empty((count, height, 2 * height, 3), np.uint8)
    near = np.empty((count, height, 2 * height), np.uint16)
    entries: list[dict[str, Any]] = []
    for place in range(count):
        room = scenes.room(store, side, number * count + place)
        seen = scenes.panorama(room, height)
        rgb[place], near[place] = seen.colours, inverse_levels(seen.distance)
        entries.append({"caption": seen.caption, "models": sorted(set(room.models))})
    stem = f"{side}-{number:05d}"
    for name, values in (("rgb", rgb), ("near", near)):
        partial = folder / f"{stem}.{name}.part.npy"
        np.save(partial, values)
        partial.replace(folder / f"{stem}.{name}.npy")
    description = {
        "captions": [entry["caption"] for entry in entries],
        "models": [entry["models"] for entry in entries],
    }
    partial = folder / f"{stem}.part"
    partial.write_text(json.dumps(description, ensure_ascii=False), "utf-8")
    partial.replace(folder / f"{stem}.json")
    return number
