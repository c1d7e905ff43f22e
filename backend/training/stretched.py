"""Pictures of stretched shapes: more proportions than the shapes have, for what learns to see.

A chair made wider, or lower, is a chair. The shape and what of the cube is solid are stretched
alike, so that neither a distance field nor a wavelet tree is needed. The same shape and seed, the
same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image

from ..conditions import depths, images
from ..conditions.framing import SIDE, around, cut
from ..errors import BadInput, FieldforgeError
from ..geometry.voxels import occupancy_of_sdf
from . import renders, trees
from .conditions import _far_enough, _rng
from .metrics import Surface
from .parallel import each

SOLID = 64
"""Cells along a side of what is kept of a shape's solid."""
COUNT = 12
"""Stretched shapes per shape, one camera each."""
_MOST = 1.4


@dataclass(frozen=True, eq=False)
class Stretched:
    """Of one shape; K stretched ones, S pixels along a side.

    solid (64^3 / 8,) uint8: bits, of the shape as it is. factors (K, 3) float32: how it is
    stretched, the longest side staying. shaded (K, S, S, 3), drawings (K, S, S), depths (K, S, S)
    uint8, as in `conditions.Conditions`.
    """

    solid: np.ndarray
    factors: np.ndarray
    shaded: np.ndarray
    drawings: np.ndarray
    depths: np.ndarray

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        partial = path.with_name(path.stem + ".part.npz")
        np.savez_compressed(partial, **vars(self))
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> Stretched:
        """Raises BadInput for a file that is none."""
        names = ("solid", "factors", "shaded", "drawings", "depths")
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                return Stretched(**{name: arrays[name] for name in names})
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise BadInput(
                f"{path.name} holds no pictures ({error}).", "Delete it and train again."
            ) from None


def make(
    shape_id: str,
    shape: Surface,
    field: np.ndarray,
    seed: int = 0,
    count: int = COUNT,
    side: int = 112,
) -> Stretched:
    """shape: its surface in the cube. field: (n, n, n) float32, its TSDF."""
    solid = occupancy_of_sdf(field, SOLID)
    if not solid.any():  # thinner than the cells everywhere
        solid = occupancy_of_sdf(field - np.float32(1 / SOLID), SOLID)
    factors, shaded, drawings, deep = [], [], [], []
    for number in range(count):
        rng = _rng(shape_id, seed, f"stretched {number}")
        factor = _factors(shape[0], rng)
        vertices = shape[0] * factor
        camera = _far_enough(renders.random_camera(rng), vertices)
        view = renders.render(vertices, shape[1], camera, 2 * SIDE)
        picture = images.prepare(renders.shaded(view, rng)).picture
        factors.append(factor)
        shaded.append(_reduced(picture, side))
        drawings.append(_reduced(_drawn(view, rng), side))
        deep.append(_reduced(depths.prepare(view.depth, "metres").picture[..., 0], side))
    return Stretched(
        np.packbits(solid),
        np.array(factors, np.float32),
        np.stack(shaded),
        np.stack(drawings),
        np.stack(deep),
    )


def _factors(vertices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(3,) float32: up to 1.4 times longer against each other; the box stays as long as it was."""
    factors = _MOST ** rng.uniform(-1, 1, 3)
    extents = np.ptp(vertices, axis=0)
    return (factors * extents.max() / (factors * extents).max()).astype(np.float32)


def _drawn(view: renders.View, rng: np.random.Generator) -> np.ndarray:
    """(224, 224) uint8: dark lines on white, framed as sketches are."""
    drawing = renders.line_drawing(view, rng)[..., 0]
    seen = np.isfinite(view.depth)[::2, ::2]
    return cut(drawing, around(seen), ground=255)


def _reduced(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).reduce(SIDE // side))


def solids(bits: torch.Tensor, factors: torch.Tensor, cells: int) -> torch.Tensor:
    """What of each cell is solid, of stretched shapes.

    bits: (B, 64^3 / 8) uint8 of the shapes as they are; factors: (B, 3) float32. Returns
    (B, 1, cells, cells, cells) float32 from 0 to 1; `cells` divides 64.
    """
    flags = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
    grid = ((bits[..., None] & flags) != 0).flatten(1).unflatten(1, (SOLID,) * 3)
    centres = (torch.arange(SOLID) + 0.5) * (2 / SOLID) - 1
    source = centres / factors[..., None]
    index = ((source + 1) * (SOLID / 2)).floor().long()
    within = (index >= 0) & (index < SOLID)
    x, y, z = index.clamp(0, SOLID - 1).unbind(1)
    rows = torch.arange(len(grid))[:, None, None, None]
    taken = grid[rows, x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]]
    held = within[:, 0, :, None, None] & within[:, 1, None, :, None] & within[:, 2, None, None, :]
    share = (taken & held).float()[:, None]
    return torch.nn.functional.avg_pool3d(share, SOLID // cells)


# -------------------------------------------------------------------------------------------- files


def prepare_stretched(
    jobs: Sequence[tuple[str, bytes | int, Path, Path]],
    workers: int,
    report: Callable[[str, float], None],
    seed: int = 0,
) -> None:
    """Files of stretched pictures for all jobs that have none yet. Raises FieldforgeError.

    jobs: id of the shape, what its surface is made of (`prepare.Recipe`), its tree, its file.
    """
    missing = [(*job, seed) for job in jobs if not job[3].exists()]
    for number, failure in enumerate(each(_make_file, missing, workers), 1):
        report("Stretching shapes", number / len(missing))
        if failure:
            raise FieldforgeError(failure, "Delete the tree of this shape and prepare again.")


def _make_file(job: tuple[str, bytes | int, Path, Path, int]) -> str:
    """Returns why it failed, or nothing."""
    from . import prepare

    shape_id, recipe, tree, path, seed = job
    try:
        field = trees.field_of(trees.SparseTree.load(tree).packed()[None])[0].numpy()
        make(shape_id, prepare.surface_of(recipe), field, seed).save(path)
    except (FieldforgeError, ValueError, OSError, BadZipFile) as error:
        return f"{shape_id}: {error}"
    return ""
