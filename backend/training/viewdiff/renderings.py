"""Renderings of scenes on disk: made a shard at a time, so that a run that stops goes on.

FOLDER/SIDE-64-00000.rgba.npy     (N, 24, S, S, 4) uint8 sRGB, straight alpha
FOLDER/SIDE-64-00000.depth.npy    (N, 24, S, S) uint16, DEPTH_LEVELS per unit of the world; 0 none
FOLDER/SIDE-64-00000.cameras.npy  (N, 24, 20) float32: poses row by row, then intrinsics
FOLDER/SIDE-64-00000.json         what they are of; written last: without it, it is not there
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import BadInput
from ...posed_images import PosedImages
from ..parallel import each
from . import scenes
from .scenes import Catalogue, Record

SHARD = 32
DEPTH_LEVELS = 8192

_Job = tuple[Path, Path, int, str, int, int, int]
_PARTS = ("rgba", "depth", "cameras")


@dataclass(frozen=True, eq=False)
class Renderings:
    """The scenes of a side that are rendered so far, in order; nothing is read before it is asked.

    names: as `scenes.Record` has them; captions, attributions: of their shapes.
    """

    size: int
    names: list[str]
    captions: list[str]
    attributions: list[str]
    starts: list[int]
    pictures: Sequence[np.ndarray]
    depths: Sequence[np.ndarray]
    cameras: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.names)

    def views(self, number: int) -> int:
        return scenes.VIEWS

    def poses(self, number: int) -> np.ndarray:
        shard, place = self._place(number)
        return np.asarray(self.cameras[shard][place][:, :16]).reshape(-1, 4, 4)

    def _place(self, number: int) -> tuple[int, int]:
        """Shard, and which of its scenes."""
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        return shard, number - self.starts[shard]

    @property
    def has_depth(self) -> bool:
        return True

    def caption(self, number: int) -> str:
        return self.captions[number]

    def scene(self, number: int, views: Sequence[int] | None = None) -> PosedImages:
        """Scene `number`, those of its views only, in that order."""
        shard, place = self._place(number)
        chosen = list(range(scenes.VIEWS) if views is None else views)
        cameras = self.cameras[shard][place][chosen]
        return PosedImages(
            self.pictures[shard][place][chosen],
            cameras[:, :16].reshape(-1, 4, 4),
            cameras[:, 16:],
            tuple(f"{view:02d}" for view in chosen),
            self.depths[shard][place][chosen].astype(np.float32) / np.float32(DEPTH_LEVELS),
        )


def load(folder: Path, side: str, size: int, most: int | None = None) -> Renderings:
    """What has been rendered of a side so far. Raises BadInput where there is nothing."""
    descriptions: list[list[dict[str, str]]] = []
    while (path := _stem(folder, side, size, len(descriptions)).with_suffix(".json")).exists():
        descriptions.append(json.loads(path.read_text("utf-8")))
    if not descriptions:
        raise BadInput(
            f"{folder} holds no {side} views of {size} pixels.", "Make them: views render."
        )
    entries = [entry for description in descriptions for entry in description][:most]
    stems = [_stem(folder, side, size, number) for number in range(len(descriptions))]
    arrays = {
        part: [np.load(f"{stem}.{part}.npy", mmap_mode="r") for stem in stems] for part in _PARTS
    }
    return Renderings(
        size,
        [entry["name"] for entry in entries],
        [entry["caption"] for entry in entries],
        [entry["attribution"] for entry in entries],
        [0, *np.cumsum([len(description) for description in descriptions])[:-1].tolist()],
        arrays["rgba"],
        arrays["depth"],
        arrays["cameras"],
    )


def _stem(folder: Path, side: str, size: int, shard: int) -> Path:
    return folder / f"{side}-{size}-{shard:05d}"


def make(
    shapes: Path,
    painted: Path,
    folder: Path,
    side: str,
    size: int,
    workers: int,
    report: Callable[[str, float], None],
    *,
    variants: int = 3,
    generated_shapes: int = 1200,
) -> None:
    """Render the scenes of a side, as far as they are not there; the same, the same bytes.

    Raises BadInput, also where what is there is of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder, side, size, variants, generated_shapes)
    count = len(Catalogue(shapes, painted, generated_shapes).records(side, variants))
    jobs: list[_Job] = [
        (shapes, painted, generated_shapes, side, variants, size, shard)
        for shard in range(-(-count // SHARD))
        if not _stem(folder, side, size, shard).with_suffix(".json").exists()
    ]
    work = [(folder, job) for job in jobs]
    for done, _ in enumerate(each(_make_shard, work, workers), 1):
        report(f"Rendering {side} scenes", done / len(work))


def _check_settings(folder: Path, side: str, size: int, variants: int, made: int) -> None:
    """Shards of other settings would be of other scenes."""
    note = folder / f"{side}-{size}.settings"
    text = json.dumps({"variants": variants, "generated": made})
    if note.exists() and note.read_text("utf-8") != text:
        raise BadInput(
            f"The views in {folder} were made with {note.read_text('utf-8')}.",
            "Give the same settings to go on, or another folder.",
        )
    note.write_text(text, "utf-8")


_known: dict[tuple[Path, Path, int, str, int], tuple[Catalogue, list[Record]]] = {}


def _make_shard(work: tuple[Path, _Job]) -> int:
    folder, (shapes, painted, made, side, variants, size, shard) = work
    key = (shapes, painted, made, side, variants)
    if key not in _known:
        catalogue = Catalogue(shapes, painted, made)
        _known[key] = catalogue, catalogue.records(side, variants)
    catalogue, records = _known[key]
    mine = records[shard * SHARD : (shard + 1) * SHARD]
    seen = [posed(catalogue, record, size) for record in mine]
    depths = np.stack([scene.depths for scene in seen if scene.depths is not None])
    arrays = {
        "rgba": np.stack([scene.images for scene in seen]),
        "depth": np.rint(np.minimum(depths * DEPTH_LEVELS, 65535)).astype(np.uint16),
        "cameras": np.stack([_rows(scene) for scene in seen]),
    }
    stem = _stem(folder, side, size, shard)
    for part, values in arrays.items():
        partial = folder / f"{stem.name}.{part}.part.npy"
        np.save(partial, values)
        partial.replace(folder / f"{stem.name}.{part}.npy")
    entries = [
        {
            "name": record.name,
            "caption": record.shape.caption,
            "attribution": record.shape.attribution,
        }
        for record in mine
    ]
    partial = stem.with_suffix(".part")
    partial.write_text(json.dumps(entries, ensure_ascii=False), "utf-8")
    partial.replace(stem.with_suffix(".json"))
    return shard


def _rows(scene: PosedImages) -> np.ndarray:
    """(V, 20) float32."""
    return np.concatenate([scene.poses.reshape(-1, 16), scene.intrinsics], axis=1)


def posed(catalogue: Catalogue, record: Record, size: int) -> PosedImages:
    """All views of one scene, with depth."""
    scene = catalogue.scene(record)
    reach = float(np.linalg.norm(scene.vertices, axis=1).max())
    poses, intrinsics = scenes.cameras(scenes.generator_of(record.name, "cameras"), reach, size)
    seen = [
        scenes.rendered(scene, pose, lens, size)
        for pose, lens in zip(poses, intrinsics, strict=True)
    ]
    return PosedImages(
        np.stack([view.picture for view in seen]),
        poses,
        intrinsics,
        tuple(f"{view:02d}" for view in range(len(seen))),
        np.stack([view.depth for view in seen]),
    )
