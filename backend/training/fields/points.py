"""Points of all items of a set, in memory: what fields are fitted to together and measured by."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from ...errors import BadInput
from .data import Item

FOLDER = "points"
PER_SEQUENCE = 1 << 16
"""Of each item, all frames together: half near the surface, half anywhere."""
CHECKED = 1 << 15
"""More of those anywhere, for measuring."""

_UNIT = 65000.0  # int16 reaches 0.504


@dataclass(frozen=True, eq=False)
class PointSet:
    """coordinates: (N, F, P, 3) int16, to be divided by 65,000; inside: (N, F, P) bool. checked
    (N, F, K, 3) and checked_inside: those for measuring."""

    coordinates: torch.Tensor
    inside: torch.Tensor
    checked: torch.Tensor
    checked_inside: torch.Tensor

    def __len__(self) -> int:
        return len(self.coordinates)

    @property
    def frames(self) -> int:
        return self.coordinates.shape[1]

    def to(self, device: torch.device) -> PointSet:
        """The same, moved there."""
        return PointSet(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def batch(
        self, chosen: torch.Tensor, count: int, draws: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (B, count, 3 or 4) float32 of the items `chosen` (B,), and whether they are inside
        (B, count) float32."""
        device = self.coordinates.device
        per, frames = self.coordinates.shape[2], self.frames
        place = torch.randint(frames * per, (len(chosen), count), generator=draws, device=device)
        frame = place // per
        rows = chosen[:, None]
        points = self.coordinates[rows, frame, place % per].float() / _UNIT
        if frames > 1:
            points = torch.cat([points, frame[..., None].float()], dim=2)
        return points, self.inside[rows, frame, place % per].float()

    def checks(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All points for measuring of one item: (F K, 3 or 4) float32, inside (F K,) bool."""
        points = self.checked[number].float() / _UNIT
        if self.frames > 1:
            times = torch.arange(self.frames, device=points.device, dtype=torch.float32)
            points = torch.cat([points, times[:, None, None].expand(*points.shape[:2], 1)], dim=2)
        return points.flatten(0, 1), self.checked_inside[number].flatten()


def prepare(items: Sequence[Item], folder: Path, report: Callable[[str, float], None]) -> None:
    """A file in FOLDER/points for every item that has none."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    missing = [item for item in items if not (place / f"{item.key}.npz").exists()]
    for number, item in enumerate(missing):
        report("Points", number / len(missing))
        _make(item, place / f"{item.key}.npz")


def load(items: Sequence[Item], folder: Path) -> PointSet:
    """Raises BadInput where `prepare` was not done."""
    found = [_read(folder / FOLDER / f"{item.key}.npz") for item in items]
    return PointSet(
        *(
            torch.from_numpy(np.stack([one[name] for one in found]))
            for name in ("coordinates", "inside", "checked", "checked_inside")
        )
    )


def _make(item: Item, path: Path) -> None:
    half, checked = PER_SEQUENCE // 2 // item.frames, CHECKED // item.frames
    samples = item.samples(0, half, half, checked)
    partial = path.with_name(path.stem + ".part.npz")
    np.savez(
        partial,
        coordinates=_integers(samples.points),
        inside=np.packbits(samples.inside, axis=-1),
        checked=_integers(samples.check_points),
        checked_inside=np.packbits(samples.check_inside, axis=-1),
    )
    partial.replace(path)


def _integers(points: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(points, -0.504, 0.504) * _UNIT).astype(np.int16)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            found = dict(arrays)
        for name, of in (("inside", "coordinates"), ("checked_inside", "checked")):
            count = found[of].shape[1]
            found[name] = np.unpackbits(found[name], axis=-1, count=count).astype(bool)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise BadInput(
            f"{path} holds no points ({error}).", "Make them with `fields points`."
        ) from None
    return found
