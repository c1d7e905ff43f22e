"""The source of a task -> what a WaLa model is given, and the way back from its cube.

One function per kind of task, in PREPARATIONS. Standing on `backend/conditions`, which knows what
the models saw in training; here are only the choices that a task makes. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..conditions import depths, framing, images, points, sentences, sketches, voxels, words
from ..errors import BadInput
from ..geometry.transforms import apply_to_points, compose, inverse
from ..protocol import (
    DepthToMesh,
    Generation,
    ImageToMesh,
    PointsToMesh,
    Shape,
    SketchToMesh,
    TextToMesh,
    ViewsToMesh,
    VoxelsToMesh,
    check_view_count,
    turned_up,
)
from ..weights import Installed

if TYPE_CHECKING:
    from ..models.wala.config import JointConfig

Source = np.ndarray | Mapping[str, np.ndarray]

JOINT_POINTS = (512, 4096)
"""Fewest and most points of a cloud that models of joint conditions saw in training."""

JOINT_KINDS = {
    PointsToMesh.kind: "points",
    VoxelsToMesh.kind: "voxels",
    ImageToMesh.kind: "image",
    SketchToMesh.kind: "sketch",
    DepthToMesh.kind: "depth",
    ViewsToMesh.kind: "views",
    TextToMesh.kind: "words",
}
"""Kind of a task -> what a model of joint conditions calls its source."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PaintedText(TextToMesh):
    """Words and the views that a text model painted of them, for a model that takes such views.

    pictures: (V, H, W, 3) uint8, in the order of the model's cameras.
    """

    pictures: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A condition before its encoder.

    source: what `Wala.encode` takes, float32 without the batch axis; for a model of joint
    conditions by name; None for no condition.
    to_source: (4, 4) float64, from the model's cube to the frame of the task.
    points: (N, 3) float32, all points of the task in the cube, where there are any.
    notes: what was done to the source, for the person.
    """

    source: Source | None
    to_source: np.ndarray
    points: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def prepare(task: Generation, model: Installed, joint: JointConfig | None = None) -> Prepared:
    """joint: of a model that takes any of several conditions.

    Raises BadInput when the source is not what `model` was made for.
    """
    if joint is None:
        return PREPARATIONS[task.kind](task, model)
    prepared = _prepared_jointly(task, model, joint)
    if not isinstance(prepared.source, np.ndarray):
        return prepared
    return replace(prepared, source={JOINT_KINDS[task.kind]: prepared.source})


def _prepared_jointly(task: Generation, model: Installed, joint: JointConfig) -> Prepared:
    if task.as_published:
        raise BadInput(
            f"There is no published command that {model.title} could follow.",
            f"Leave {_AS_PUBLISHED} out, or choose a published model.",
        )
    if isinstance(task, PointsToMesh):
        least, most = JOINT_POINTS
        return _cloud(task, min(max(len(task.points), least), most))
    if isinstance(task, ViewsToMesh):
        return _joint_views(task, model)
    if isinstance(task, TextToMesh):
        return _said(task, joint)
    return PREPARATIONS[task.kind](task, model)


def _said(task: TextToMesh, joint: JointConfig) -> Prepared:
    """The words that the model knows; where it knows none of them, the whole sentence, for a model
    that was trained on such where what reads them is installed."""
    reads = joint.text == sentences.LENGTH and (sentences.available() or not joint.words)
    if joint.words:
        try:
            said = words.model_words(task.prompt, joint.words)
        except BadInput:
            if not reads:
                raise
        else:
            return Prepared({"words": said.vector}, turned_up(task.up_axis), notes=said.notes)
    source = {"text": sentences.sentence_vectors([task.prompt])[0]}
    return Prepared(source, turned_up(task.up_axis), notes=_WHOLE if joint.words else ())


_WHOLE = ("The model knows none of these words by itself; it goes by what the sentence means.",)


def prepare_points(task: PointsToMesh, model: Installed) -> Prepared:
    """25,000 points in the cube, y up; as published: the points as they are."""
    if task.as_published:
        # The published command takes points as they are: in the cube already, y up, all of them.
        return Prepared(_float32(task.points), np.eye(4), _float32(task.points))
    return _cloud(task, points.COUNT)


def _cloud(task: PointsToMesh, count: int) -> Prepared:
    source, to_source = points.model_points(task.points, task.up_axis, count=count)
    return Prepared(source, to_source, apply_to_points(inverse(to_source), task.points))


def prepare_voxels(task: VoxelsToMesh, model: Installed) -> Prepared:
    """16^3 cells of the cube, y up; as published: a grid of that size as it is."""
    origin, voxel_size = np.array(task.origin, float), np.array(task.voxel_size, float)
    if task.as_published:
        return Prepared(_published_voxels(task), _over_grid(origin, voxel_size))
    cells, to_source = voxels.model_voxels(task.occupancy, origin, voxel_size, task.up_axis)
    return Prepared(cells[None], to_source)


def _published_voxels(task: VoxelsToMesh) -> np.ndarray:
    side = voxels.SIDE
    if task.occupancy.shape != (side,) * 3:
        shape = " x ".join(map(str, task.occupancy.shape))
        raise BadInput(
            f"The published command takes {side} x {side} x {side} voxels; these are {shape}.",
            f"Use such a grid, or leave {_AS_PUBLISHED} out: voxels are then made ready.",
        )
    return _float32(task.occupancy)[None]


def _over_grid(origin: np.ndarray, voxel_size: np.ndarray) -> np.ndarray:
    """From the cube to the frame of a grid that fills it."""
    half = voxels.SIDE / 2 * voxel_size
    to_source = np.diag([*half, 1.0])
    to_source[:3, 3] = origin + half
    return to_source


def prepare_image(task: ImageToMesh, model: Installed) -> Prepared:
    """One picture, (3, 224, 224) float32 in [-1, 1], cut out and framed."""
    if task.as_published:
        return _picture(images.model_image(task.image, as_published=True), task)
    ready = images.prepare(task.image, task.background)
    return _picture(framing.to_model(ready.picture), task, ready.notes)


def prepare_sketch(task: SketchToMesh, model: Installed) -> Prepared:
    """One line drawing, (3, 224, 224) float32 in [-1, 1], dark on white."""
    image = task.image
    if image is None:
        assert task.strokes is not None  # noqa: S101 - the task was validated
        assert task.stroke_lengths is not None  # noqa: S101
        image = sketches.rasterise(task.strokes, task.stroke_lengths)
    if task.as_published:
        return _picture(images.model_image(image, as_published=True), task)
    ready = sketches.prepare(image)
    return _picture(framing.to_model(ready.picture), task, ready.notes)


def prepare_depth(task: DepthToMesh, model: Installed) -> Prepared:
    """One depth picture, (3, 224, 224) float32 in [-1, 1], near bright on black."""
    if task.as_published:
        return _picture(depths.model_depth(task.depth, task.encoding, as_published=True), task)
    ready = depths.prepare(task.depth, task.encoding)
    return _picture(framing.to_model(ready.picture), task, ready.notes)


def prepare_views(task: ViewsToMesh, model: Installed) -> Prepared:
    """Views in the order of the model's cameras, (V, 3, 224, 224) float32 in [-1, 1]."""
    _check_view_kind(task, model)
    check_view_count(len(_views_of(task)), model.views, model.cameras)
    task, _ = _in_order(task, model)
    if not task.as_published:
        return _prepared_views(task)
    if task.images is not None:
        return _picture(images.model_views(task.images, as_published=True), task)
    return _picture(depths.model_views(_views_of(task), task.encoding, True), task)


def _check_view_kind(task: ViewsToMesh, model: Installed) -> None:
    kind = "image" if task.images is not None else "depth"
    if kind != model.view_kind:
        wanted, given = ("depth pictures", "pictures")[:: -1 if kind == "depth" else 1]
        raise BadInput(
            f"{model.title} takes {wanted}; {given} were given.",
            f"Give {wanted}, or choose a model for {given}.",
        )


def _prepared_views(task: ViewsToMesh) -> Prepared:
    if task.images is not None:
        ready = images.prepare_views(task.images, task.background)
    else:
        assert task.depths is not None  # noqa: S101 - the task was validated
        ready = depths.prepare_views(task.depths, task.encoding)
    views = np.stack([framing.to_model(view.picture) for view in ready])
    # What holds for several views is told once.
    notes = dict.fromkeys(note for view in ready for note in view.notes)
    return _picture(views, task, tuple(notes))


def prepare_painted(task: PaintedText, model: Installed) -> Prepared:
    check_view_count(len(task.pictures), model.views, model.cameras)
    # They are painted as the model wants them: nothing to frame, to stretch or to cut out.
    ready = [framing.to_model(framing.published(picture)) for picture in task.pictures]
    return _picture(np.stack(ready), task)


def _joint_views(task: ViewsToMesh, model: Installed) -> Prepared:
    """Views from any of the model's cameras; where none are named, from the first ones."""
    _check_view_kind(task, model)
    if len(_views_of(task)) > model.views:
        check_view_count(len(_views_of(task)), model.views, model.cameras)
    task, numbers = _in_order(task, model)
    prepared = _prepared_views(task)
    if numbers == list(range(len(numbers))) or not isinstance(prepared.source, np.ndarray):
        return prepared
    source = {"views": prepared.source, "view_numbers": np.array(numbers, np.int64)}
    return replace(prepared, source=source)


def _views_of(task: ViewsToMesh) -> np.ndarray:
    views = task.images if task.images is not None else task.depths
    assert views is not None  # noqa: S101 - the task was validated
    return views


def _in_order(task: ViewsToMesh, model: Installed) -> tuple[ViewsToMesh, list[int]]:
    """The task with its views in the order of the model's cameras, and their places there."""
    views = _views_of(task)
    if task.cameras is None:
        return task, list(range(len(views)))
    unknown = [number for number in task.cameras if number not in model.cameras]
    if unknown:
        raise BadInput(
            f"{model.title} takes no view from camera {', '.join(map(str, unknown))}.",
            f"Its cameras are {', '.join(map(str, model.cameras))}.",
        )
    places = np.array([model.cameras.index(number) for number in task.cameras])
    order = np.argsort(places)
    if task.images is not None:
        task = replace(task, images=views[order], cameras=None)
    else:
        task = replace(task, depths=views[order], cameras=None)
    return task, places[order].tolist()


def prepare_nothing(task: Generation, model: Installed) -> Prepared:
    return Prepared(None, turned_up(task.up_axis))


def _picture(source: np.ndarray, task: Generation, notes: tuple[str, ...] = ()) -> Prepared:
    return Prepared(source, turned_up(task.up_axis), notes=notes)


def _float32(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)


def voxels_in_cube(
    task: VoxelsToMesh, to_source: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The grid of the task as the model's cube sees it: occupancy, its lowest corner, voxel size.

    The axes of the result are the cube's, so the grid is turned as `to_source` turns the cube.
    """
    to_grid = np.diag([*task.voxel_size, 1.0])
    to_grid[:3, 3] = task.origin
    # From voxel indices to the cube: a permutation of axes, scaled and shifted.
    to_cube = compose(inverse(to_source), to_grid)
    order = np.abs(to_cube[:3, :3]).argmax(axis=1)
    occupancy = task.occupancy.astype(bool).transpose(order)
    steps = to_cube[np.arange(3), order]
    low = to_cube[:3, 3].copy()
    for axis in range(3):
        if steps[axis] < 0:
            occupancy = np.flip(occupancy, axis)
            low[axis] += steps[axis] * occupancy.shape[axis]
    return np.ascontiguousarray(occupancy), low, np.abs(steps)


_AS_PUBLISHED = "--as-published"

PREPARATIONS: dict[str, Callable[..., Prepared]] = {
    PointsToMesh.kind: prepare_points,
    VoxelsToMesh.kind: prepare_voxels,
    ImageToMesh.kind: prepare_image,
    SketchToMesh.kind: prepare_sketch,
    DepthToMesh.kind: prepare_depth,
    ViewsToMesh.kind: prepare_views,
    TextToMesh.kind: prepare_painted,
    Shape.kind: prepare_nothing,
}
