"""What is solid in rendered scenes, and of which colour: coarse volumes, carved out of their views.

FOLDER/SIDE-64-00000.npz    share (N, 32, 32, 32) uint8 of each voxel that is solid, and
                            colours (N, 32, 32, 32, 3) uint8 sRGB; both in the order z, y, x

A place is empty where a view looks past or through it. What no view sees is solid, as in fusion.
Voxels that nobody sees have the colour of the nearest one that somebody does.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numba
import numpy as np
from scipy import ndimage

from ...errors import BadInput
from ...geometry.threads import in_chunks
from ...geometry.view_fusion import projections
from ...posed_images import PosedImages
from ..parallel import each
from . import renderings
from .networks import HALF_BOX

SIDE = 32
_FINE = 2
"""Places along a side of a voxel that are looked at."""
_NEAR = 1.5
"""Fine steps: how far from what a view shows a place may lie and have its colour."""


def volume_of(posed: PosedImages, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Share (S, S, S) and colours (S, S, S, 3), float32 from 0 to 1, in the order z, y, x, of the
    cube of half side HALF_BOX around the origin. Raises ValueError for views without depth."""
    if posed.depths is None:
        raise ValueError("volumes are carved by depth")
    fine = _FINE * side
    solid = np.zeros((fine,) * 3, np.uint8)
    paint = np.zeros((fine,) * 3 + (4,), np.float32)
    matrices = projections(posed.poses.astype(np.float64), posed.intrinsics.astype(np.float64))
    in_chunks(
        _carve,
        fine,
        np.ascontiguousarray(matrices),
        np.ascontiguousarray(posed.depths, np.float32),
        np.ascontiguousarray(posed.images[..., :3]),
        HALF_BOX,
        solid,
        paint,
    )
    blocks = (side, _FINE) * 3
    share = solid.reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32)
    sums = paint.reshape(*blocks, 4).sum(axis=(1, 3, 5))
    seen = sums[..., 3] > 0
    colours = sums[..., :3] / np.maximum(sums[..., 3:], 1e-6) / np.float32(255)
    if seen.any():
        nearest = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
        colours = colours[tuple(nearest)]
    return share, colours.astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _carve(begin, end, matrices, depths, pictures, half, solid, paint):
    """Planes begin to end of `solid`, 1 or 0, and `paint`: sums of colours, and of how many."""
    fine = solid.shape[0]
    height, width = depths.shape[1:]
    step = 2 * half / fine
    for k in range(begin, end):
        z = (k + 0.5) * step - half
        for j in range(fine):
            y = (j + 0.5) * step - half
            for i in range(fine):
                x = (i + 0.5) * step - half
                solid[k, j, i] = 1
                for view in range(len(matrices)):
                    m = matrices[view]
                    away = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
                    if away <= 0:
                        continue
                    column = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / away
                    row = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / away
                    if not (-0.5 < column < width - 0.5 and -0.5 < row < height - 0.5):
                        continue
                    at, across = int(row + 0.5), int(column + 0.5)
                    depth = depths[view, at, across]
                    if depth == 0 or away < depth - step:
                        solid[k, j, i] = 0
                        break
                    if away < depth + _NEAR * step:
                        for channel in range(3):
                            paint[k, j, i, channel] += pictures[view, at, across, channel]
                        paint[k, j, i, 3] += 1
                if not solid[k, j, i]:
                    paint[k, j, i] = 0


# ------------------------------------------------------------------------------------------- files


def make(
    views: Path,
    folder: Path,
    side: str,
    size: int,
    workers: int,
    report: Callable[[str, float], None],
) -> None:
    """Of all scenes that are rendered in `views`, into `folder`, as far as they are not there.

    Raises BadInput where nothing is rendered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = renderings.load(views, side, size)
    jobs = [
        (views, folder, side, size, shard)
        for shard in range(len(found.starts))
        if not _path(folder, side, size, shard).exists()
    ]
    for done, _ in enumerate(each(_make_shard, jobs, workers), 1):
        report("Carving volumes", done / len(jobs))


def _make_shard(job: tuple[Path, Path, str, int, int]) -> int:
    views, folder, side, size, shard = job
    found = renderings.load(views, side, size)
    last = [*found.starts[1:], len(found)][shard]
    made = [volume_of(found.scene(number)) for number in range(found.starts[shard], last)]
    arrays = {
        name: np.rint(255 * np.stack([pair[which] for pair in made])).astype(np.uint8)
        for which, name in enumerate(("share", "colours"))
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    path = _path(folder, side, size, shard)
    partial = path.with_suffix(".part")
    partial.write_bytes(packed.getvalue())
    partial.replace(path)
    return shard


def load(folder: Path, side: str, size: int, shards: int) -> tuple[np.ndarray, np.ndarray]:
    """share (N, S, S, S) and colours (N, S, S, S, 3) uint8. Raises BadInput for missing ones."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for shard in range(shards):
        path = _path(folder, side, size, shard)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                parts.append((arrays["share"], arrays["colours"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise BadInput(
                f"{path} holds no volumes ({error}).", "Make them: views volumes."
            ) from None
    share, colours = zip(*parts, strict=True)
    return np.concatenate(share), np.concatenate(colours)


def _path(folder: Path, side: str, size: int, shard: int) -> Path:
    return folder / f"{side}-{size}-{shard:05d}.npz"
