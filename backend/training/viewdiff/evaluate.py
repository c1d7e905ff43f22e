"""What a multi-view model makes of one picture of a shape it never saw, beside the truth."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ...errors import BadInput
from ...geometry import view_fusion
from ...geometry.tsdf import closing_sdf
from ...models.viewdiff import sampling
from ...models.viewdiff.cameras import Cameras
from ...models.viewdiff.first_guess import latents_of
from ...models.viewdiff.painter import PainterConfig, ViewPainter, cameras_of
from ...posed_images import PosedImages
from . import scenes
from .scenes import Catalogue, Record, Scene

RING = 8
"""Views around a shape; two more look from above and from below."""
START = 30.0
"""Degrees: the given picture shows a shape at a slant, as pictures do."""
_VOXELS = 64
_VISIBLE = 0.02
"""How much farther than what a view shows a place may lie and be what it shows, of the world."""


@dataclass(frozen=True, eq=False)
class Test:
    """A shape with its true views: the given one, the others around it, from above, from below."""

    record: Record
    scene: Scene
    truth: PosedImages


def tests(catalogue: Catalogue, records: Sequence[Record], config: PainterConfig) -> list[Test]:
    """Of these shapes, seen from where `config` says that things are seen from."""
    made = []
    for record in records:
        scene = catalogue.scene(record)
        reach = float(np.linalg.norm(scene.vertices, axis=1).max())
        made.append(Test(record, scene, true_views(scene, *_cameras(config, reach), config.side)))
    return made


def _cameras(config: PainterConfig, reach: float) -> tuple[np.ndarray, np.ndarray]:
    field = math.radians(config.field)
    distance = max(config.radius, 1.03 * reach / math.sin(field / 2))
    angles = [(START + 360 * k / RING, config.elevation) for k in range(RING)]
    angles += [(START, 60.0), (START, -60.0)]
    poses = np.stack([scenes.looking_in(azimuth, up, distance) for azimuth, up in angles])
    focal, middle = config.side / 2 / math.tan(field / 2), (config.side - 1) / 2
    lens = np.array([focal, focal, middle, middle], np.float32)
    return poses, np.tile(lens, (len(poses), 1))


def true_views(scene: Scene, poses: np.ndarray, intrinsics: np.ndarray, side: int) -> PosedImages:
    """What these cameras see of a scene, with depth."""
    seen = [
        scenes.rendered(scene, pose, lens, side)
        for pose, lens in zip(poses, intrinsics, strict=True)
    ]
    return PosedImages(
        np.stack([view.picture for view in seen]),
        poses,
        intrinsics,
        tuple(str(number) for number in range(len(seen))),
        np.stack([view.depth for view in seen]),
    )


@torch.no_grad()
def painted(
    painter: ViewPainter, truth: PosedImages, steps: int, seed: int, given: int = 1
) -> PosedImages:
    """The views that the model makes of the first `given` pictures, and these as they are.

    steps: of sampling; 0: nothing is sampled, views are the first guess. Raises BadInput where the
    model makes none.
    """
    config, side = painter.config, painter.config.side
    cameras = cameras_of(truth.poses, truth.intrinsics, config, side, painter.device)
    known = painter.latents(truth.images[:given])
    guess = painter.guessed(known, cameras)
    if steps:
        latents = _sampled(painter, cameras, known, guess, steps, seed)
    elif guess is not None and config.pixels is not None:
        latents = torch.cat([known, latents_of(guess[None, given:], config.pixels)[0]])
    else:
        raise BadInput("This model has nothing to show without sampling.", "Give --steps.")
    distances = torch.from_numpy(np.linalg.norm(truth.poses[:, :3, 3], axis=1))
    images, depths = painter.pictures(latents, distances)
    if images.shape[-1] == 4:
        images[:given] = truth.images[:given]
    if depths is not None:
        depths[:given] = 0
    return PosedImages(images, truth.poses, truth.intrinsics, truth.names, depths)


def _sampled(
    painter: ViewPainter,
    cameras: Cameras,
    known: torch.Tensor,
    guess: torch.Tensor | None,
    steps: int,
    seed: int,
) -> torch.Tensor:
    """(V, C, h, w): the known latents, then those of the other cameras."""
    config = painter.config
    noise = painter.first_noise(cameras.views - len(known), config.side, seed)
    begun = painter.begun(noise, None if guess is None else guess[len(known) :])
    settings = sampling.Settings(config.denoiser.noising, steps, guidance=1.0)
    *_, last = sampling.sample(painter.denoiser(cameras, "", guess), begun, known, settings)
    return last.sample


def apart(painter: ViewPainter) -> ViewPainter:
    """The same, with the same weights, whose views do not agree in space."""
    network = copy.copy(painter.network)
    network.config = dataclasses.replace(network.config, agreement=0.0)
    config = dataclasses.replace(painter.config, denoiser=network.config)
    return dataclasses.replace(painter, config=config, network=network)


# ----------------------------------------------------------------------------------------- measures


def on_white(images: np.ndarray) -> np.ndarray:
    """(..., H, W, 3 or 4) uint8 -> (..., H, W, 3) float32, 0 to 1."""
    values = images.astype(np.float32) / 255
    if values.shape[-1] == 3:
        return values
    return values[..., :3] * values[..., 3:] + 1 - values[..., 3:]


def psnr(found: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """Decibels of pictures 0 to 1, over all pixels, or those of a mask."""
    error = np.square(found - truth)
    mean = float(error.mean() if where is None else error[where].mean())
    return -10 * math.log10(max(mean, 1e-10))


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks, or solids; 1 where both are empty."""
    union = float((found | truth).sum())
    return float((found & truth).sum()) / union if union else 1.0


def reprojection(pictures: np.ndarray, truth: PosedImages) -> float:
    """How well neighbouring views of a ring agree, in decibels: what one shows of a place, beside
    what the other does. Places come from true depth; pictures: (V, H, W, 3), 0 to 1, of the ring.
    """
    errors = []
    for one in range(len(pictures)):
        other = (one + 1) % len(pictures)
        row, column, there = matches(truth, one, other)
        errors.append(np.square(pictures[one][row, column] - _at(pictures[other], there)))
    joined = np.concatenate(errors)
    return -10 * math.log10(max(float(joined.mean()), 1e-10)) if joined.size else math.nan


def matches(truth: PosedImages, one: int, other: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns (N,) of `one` whose places `other` shows, too; and where it does, (N, 2) as
    column and row. Raises ValueError for views without depth."""
    if truth.depths is None:
        raise ValueError("places come from depth")
    row, column = np.nonzero(truth.depths[one] > 0)
    depth = truth.depths[one][row, column].astype(np.float64)
    places = view_fusion.unprojected(
        truth.poses[one].astype(np.float64),
        truth.intrinsics[one],
        np.stack([column, row, depth], axis=1),
    )
    chosen = slice(other, other + 1)
    matrix = view_fusion.projections(truth.poses[chosen], truth.intrinsics[chosen])[0]
    x, y, away = matrix[:, :3] @ places.T + matrix[:, 3:]
    there = np.stack([x / away, y / away], axis=1)
    height, width = truth.depths.shape[1:]
    near = np.rint(there).astype(int)
    within = (near >= 0).all(axis=1) & (near[:, 0] < width) & (near[:, 1] < height) & (away > 0)
    near = np.clip(near, 0, [width - 1, height - 1])
    shown = truth.depths[other][near[:, 1], near[:, 0]]
    seen = within & (shown > 0) & (np.abs(away - shown) < _VISIBLE * 2)
    return row[seen], column[seen], there[seen]


def _at(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(N, C) of (H, W, C), linearly between pixels; places (N, 2) as column and row."""
    height, width = picture.shape[:2]
    x = np.clip(places[:, 0], 0, width - 1)
    y = np.clip(places[:, 1], 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    u, v = (x - left)[:, None], (y - top)[:, None]
    above = picture[top, left] * (1 - u) + picture[top, left + 1] * u
    below = picture[top + 1, left] * (1 - u) + picture[top + 1, left + 1] * u
    blended: np.ndarray = above * (1 - v) + below * v
    return blended


def solid_of_views(posed: PosedImages, depth: bool) -> np.ndarray:
    """(64, 64, 64) bool: what the views leave over of the cube [-1, 1]^3."""
    alpha = posed.images[..., 3].astype(np.float32) / 255
    depths = posed.depths if depth else None
    chosen = np.array([one.max() >= 0.5 for one in alpha])
    if not chosen.any():
        return np.zeros((_VOXELS,) * 3, bool)
    views = view_fusion.PosedViews(
        alpha, depths, posed.poses.astype(np.float64), posed.intrinsics.astype(np.float64)
    ).only(chosen)
    try:
        fused = view_fusion.fuse(views, view_fusion.Cube((0.0, 0.0, 0.0), 2.0), _VOXELS)
    except BadInput:
        return np.zeros((_VOXELS,) * 3, bool)
    found: np.ndarray = fused.field < 0
    return found


def solid_of_shape(scene: Scene) -> np.ndarray:
    """Likewise, of its surface, as the project's other measures close it."""
    found: np.ndarray = closing_sdf(scene.vertices, scene.faces, _VOXELS) < 0
    return found


def measured(test: Test, found: PosedImages) -> dict[str, float]:
    """Of views whose first one was given. Ring: PSNR of the new ones over the picture, and where
    either shows the shape; overlap of outlines; reprojection beside that of the true views; error
    of depth; solids of all views beside the shape."""
    truth = test.truth
    ring = slice(1, RING)
    made, real = on_white(found.images), on_white(truth.images)
    row = {"psnr": psnr(made[ring], real[ring])}
    if found.images.shape[-1] == 4:
        mask, mask_real = found.images[..., 3] >= 128, truth.images[..., 3] >= 128
        row["psnr of the thing"] = psnr(made[ring], real[ring], (mask | mask_real)[ring])
        row["outline overlap"] = float(
            np.mean([overlap(mask[k], mask_real[k]) for k in range(1, RING)])
        )
    row["reprojection"] = reprojection(made[:RING], truth)
    row["reprojection of the truth"] = reprojection(real[:RING], truth)
    if found.images.shape[-1] == 4:
        solid = solid_of_shape(test.scene)
        row["solid of outlines"] = overlap(solid_of_views(found, False), solid)
        if found.depths is not None and truth.depths is not None:
            row["solid of depth"] = overlap(solid_of_views(found, True), solid)
            both = (found.depths > 0) & (truth.depths > 0)
            if both.any():
                row["depth error"] = float(np.abs(found.depths - truth.depths)[both].mean())
        row["solid of true views"] = overlap(solid_of_views(truth, True), solid)
    return row


def evaluate(
    painter: ViewPainter, made: Sequence[Test], steps: int, seed: int,
    report: Callable[[str, float], None],
) -> tuple[dict[str, float], list[PosedImages]]:  # fmt: skip
    """Means over tests, and the views that were made for each."""
    rows, views = [], []
    for number, test in enumerate(made):
        report(f"Views of {test.record.shape.caption}", number / len(made))
        found = painted(painter, test.truth, steps, seed + number)
        views.append(found)
        rows.append(measured(test, found))
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: float(np.nanmean([row[name] for row in rows if name in row])) for name in names}
    return {**means, "shapes": float(len(rows))}, views


# -------------------------------------------------------------------------------------------- sheet


def sheet(
    made: Sequence[Test],
    views: Sequence[PosedImages],
    path: Path,
    scale: int = 1,
    depth: bool = True,
) -> None:
    """A PNG: for each test its caption, the true views, the made ones (the first was given), and
    their depth, near being bright."""
    side = made[0].truth.images.shape[1] * scale
    line = 14
    count = len(made[0].truth)
    rows = 2 + int(depth and all(one.depths is not None for one in views))
    page = Image.new("RGB", (count * side, len(made) * (rows * side + line)), "white")
    draw = ImageDraw.Draw(page)
    for number, (test, found) in enumerate(zip(made, views, strict=True)):
        top = number * (rows * side + line)
        draw.text((2, top + 1), f"{test.record.shape.caption}: truth, made", fill="black")
        strips = [on_white(test.truth.images), on_white(found.images)]
        if found.depths is not None and rows == 3:
            strips.append(_near_bright(found, found.depths))
        for place, strip in enumerate(strips):
            for view, picture in enumerate(strip):
                tile = Image.fromarray(np.rint(255 * picture).astype(np.uint8))
                tile = tile.resize((side, side), Image.Resampling.NEAREST)
                page.paste(tile, (view * side, top + line + place * side))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


def _near_bright(posed: PosedImages, depths: np.ndarray) -> np.ndarray:
    """(V, H, W, 3) float32, 0 to 1."""
    away = np.linalg.norm(posed.poses[:, :3, 3], axis=1)[:, None, None]
    grey = np.where(depths > 0, np.clip(0.55 - (depths - away) / 2.4, 0.1, 1), 0)
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
