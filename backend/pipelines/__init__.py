"""What the backend can do: one table from task to pipeline, one list of models.

A pipeline is a generator: it yields `Progress` while it works and its result last, and raises a
`FieldforgeError` when it cannot. It asks `context.check_cancelled()` between its steps. Pipelines
are named by "module:function" and imported on first use, so that the server process, which only
lists them, never imports torch.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import weights
from ..errors import BadInput, Cancelled, NotInstalled
from ..models.mvadapter.config import FAR, MVAdapterConfig
from ..models.mvdream.own_cameras import ELEVATION, own_cameras, told_cameras
from ..protocol import (
    FIELDS,
    PANORAMAS,
    POSED_VIEWS,
    TASKS,
    VIEW_DISTANCE,
    VIEW_FIELD,
    Animation,
    DownloadModel,
    FieldToMesh,
    Generation,
    ImageToViews,
    MeshToField,
    PanoramaToDepth,
    PanoramaToSphere,
    PanoramaToStereo,
    PointsToMesh,
    Progress,
    Result,
    Shape,
    Task,
    TextToMesh,
    TextToPanorama,
    TextToViews,
    ViewsTask,
    ViewsToMesh,
    ViewsToScene,
    VoxelsToMesh,
)


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Context:
    """Where a pipeline runs. device: "cpu", "cuda" or "auto"; cancelled: True once unwanted."""

    device: str = "auto"
    cancelled: Callable[[], bool] = field(default=_never)

    def check_cancelled(self) -> None:
        """Raise Cancelled once the person has cancelled the job."""
        if self.cancelled():
            raise Cancelled("The job was cancelled.")


Pipeline = Callable[[Task, Context], Iterator[Progress | Result]]


@dataclass(frozen=True)
class Model:
    """A model as the panel lists it.

    family: which code runs it. samples: results differ by seed, so that "variations" make sense.
    steps, guidance: what its authors found best; 0 and None where there is no such choice.
    views: how many pictures it is given, 0 for one or none; view_kind: "image" or "depth"; cameras:
    from where, in order, numbers of `protocol.VIEW_CAMERAS`; any_views: some of them will do.
    ring: of a model that paints views around a thing: elevation and field of view in degrees, and
    radius, the thing being in a cube of side 2, of cameras where nobody says; view_size: pixels.
    own_views: azimuth and elevation in degrees of each camera, of one that where nothing is asked
    of its ring paints those that it was trained on; turns: they can begin anywhere, together.
    names: words that a model of shapes or animations lets choose from; frames: how many it makes.
    default_for: kinds of tasks for which it is taken when none is chosen; of ready models only.
    ready: it can be used now; else it, and the models that it needs, are to be downloaded first:
    bytes, under which license, and what that allows (license_words).
    """

    id: str
    title: str
    summary: str
    tasks: tuple[str, ...]
    samples: bool
    family: str
    steps: int = 0
    guidance: float | None = None
    views: int = 0
    view_kind: str = ""
    cameras: tuple[int, ...] = ()
    any_views: bool = False
    ring: dict[str, float] | None = None
    view_size: int = 0
    own_views: tuple[tuple[float, float], ...] = ()
    turns: bool = False
    names: tuple[str, ...] = ()
    frames: int = 0
    ready: bool = True
    bytes: int = 0
    license: str = ""
    license_url: str = ""
    license_words: str = ""
    needs: tuple[str, ...] = ()
    default_for: tuple[str, ...] = ()


BUILT_IN: tuple[Model, ...] = (
    Model(
        id="wavelet-fit",
        title="Wavelet fit",
        summary="Solves for the wavelet coefficients of a signed distance field. No weights.",
        tasks=(PointsToMesh.kind, VoxelsToMesh.kind),
        samples=False,
        family="wavelet-fit",
    ),
    Model(
        id="depth-sphere",
        title="Depth sphere",
        summary="Moves a sphere around the eye to the depth of its picture. No weights.",
        tasks=(PanoramaToSphere.kind, PanoramaToStereo.kind),
        samples=False,
        family="depth-sphere",
    ),
    Model(
        id="view-fusion",
        title="View fusion",
        summary="One closed, textured mesh of what views with known cameras show. No weights.",
        tasks=(ViewsToScene.kind,),
        samples=False,
        family="view-fusion",
    ),
    Model(
        id="neural-field",
        title="Neural field",
        summary="Fits a small network to a mesh or an animation, and brings it back. No weights.",
        tasks=(MeshToField.kind, FieldToMesh.kind),
        samples=False,
        family="neural-field",
    ),
)

_SHARED_FIELDS = (
    *("id", "title", "summary", "tasks", "family", "steps", "guidance", "views", "view_kind"),
    *("cameras", "bytes", "license", "needs"),
)
GENERATIONS = tuple(kind for kind, task in TASKS.items() if issubclass(task, Generation))
_GENERATE = "backend.pipelines.generate:generate"
_DOWNLOAD = "backend.pipelines.download_model:download_model"
FAMILIES_WITH_WEIGHTS = (
    *("wala", "mvdream", "ldm3d", "panorama-depth", "viewdiff", "stable-diffusion"),
    *("hyperdiffusion", "mv-adapter"),
)
_OWN_CAMERAS = ("mv-adapter",)
"""Families that paint views from their own cameras and from no others."""
_NEEDLESS = ((TextToViews.kind, "mvdream"),)
"""(task, family) that goes without what the model otherwise needs: painting views takes no model of
shapes."""

PIPELINES: dict[tuple[str, str], str] = {
    (PointsToMesh.kind, "wavelet-fit"): "backend.pipelines.points_to_mesh:points_to_mesh",
    (VoxelsToMesh.kind, "wavelet-fit"): "backend.pipelines.voxels_to_mesh:voxels_to_mesh",
    **{(kind, "wala"): _GENERATE for kind in GENERATIONS},
    (TextToMesh.kind, "mvdream"): "backend.pipelines.text_to_mesh:text_to_mesh",
    (PanoramaToSphere.kind, "depth-sphere"): "backend.pipelines.panorama_to_sphere:to_sphere",
    (PanoramaToStereo.kind, "depth-sphere"): "backend.pipelines.panorama_to_stereo:to_stereo",
    (ViewsToScene.kind, "view-fusion"): "backend.pipelines.views_to_scene:to_scene",
    (PanoramaToDepth.kind, "panorama-depth"): "backend.pipelines.panorama_to_depth:to_depth",
    (TextToPanorama.kind, "ldm3d"): "backend.pipelines.text_to_panorama:text_to_panorama",
    (ImageToViews.kind, "viewdiff"): "backend.pipelines.image_to_views:image_to_views",
    (TextToViews.kind, "viewdiff"): "backend.pipelines.text_to_views:text_to_views",
    (TextToViews.kind, "mvdream"): "backend.pipelines.text_to_views:with_mvdream",
    (ImageToViews.kind, "mv-adapter"): "backend.pipelines.fixed_views:image_to_views",
    (TextToViews.kind, "mv-adapter"): "backend.pipelines.fixed_views:text_to_views",
    (MeshToField.kind, "neural-field"): "backend.pipelines.mesh_to_field:mesh_to_field",
    (FieldToMesh.kind, "neural-field"): "backend.pipelines.field_to_mesh:field_to_mesh",
    (Animation.kind, "hyperdiffusion"): "backend.pipelines.animation:animation",
    (Shape.kind, "hyperdiffusion"): "backend.pipelines.animation:shape",
    **{(DownloadModel.kind, family): _DOWNLOAD for family in FAMILIES_WITH_WEIGHTS},
}
"""(task, family of the model) -> "module:function"."""


def models() -> tuple[Model, ...]:
    """Every model that there is: built in, of the registry (here or not), and others installed."""
    here = weights.installed()
    listed = {model.id: model for model in BUILT_IN}
    for entry in weights.entries().values():
        ready = all(name in here for name in (entry.id, *entry.needs))
        config = here[entry.id].config if entry.id in here else {}
        listed[entry.id] = _listed(entry, ready, config)
    for own in here.values():
        if own.id not in listed:
            listed[own.id] = _listed(own, all(name in here for name in own.needs), own.config)
    defaults: dict[str, list[str]] = {}
    for kind in (*GENERATIONS, *PANORAMAS, *POSED_VIEWS, *FIELDS):
        best = _best(_able(listed, kind), kind, here)
        if best is not None and best.ready:
            defaults.setdefault(best.id, []).append(kind)
    return tuple(
        dataclasses.replace(model, default_for=tuple(defaults.get(model.id, ())))
        for model in listed.values()
    )


def _listed(
    model: weights.Entry | weights.Installed, ready: bool, config: Mapping[str, Any]
) -> Model:
    return Model(
        samples=True,
        ready=ready,
        license_url=getattr(model, "license_url", ""),
        license_words=getattr(model, "license_words", ""),
        any_views=bool(config.get("joint")),
        **(_of_painter(config) if model.family == "viewdiff" else {}),
        **(_of_mvdream(model, config) if model.family == "mvdream" else {}),
        **(_of_adapter(model, config) if model.family == "mv-adapter" else {}),
        **(_of_fields(config) if model.family == "hyperdiffusion" else {}),
        **{name: getattr(model, name) for name in _SHARED_FIELDS},
    )


def _of_painter(config: Mapping[str, Any]) -> dict[str, Any]:
    """From where a model of the ViewDiff family paints, and how large, by a description that
    anybody may have written."""
    denoiser = config.get("denoiser")
    return {
        "ring": _numbers(config, ("elevation", "field", "radius")),
        "view_size": _size(denoiser, "image_size"),
    }


def _of_mvdream(
    model: weights.Entry | weights.Installed, config: Mapping[str, Any]
) -> dict[str, Any]:
    """The same of the MVDream family: by its description once it is here, else by the registry."""
    views, size = told_cameras(config), _size(config, "side")
    if isinstance(model, weights.Entry):
        views, size = views or own_cameras(model), size or _size(model.arguments, "side")
    ring = {"elevation": ELEVATION, "field": math.degrees(VIEW_FIELD), "radius": VIEW_DISTANCE}
    return {"own_views": views, "ring": ring, "view_size": size}


def _of_adapter(
    model: weights.Entry | weights.Installed, config: Mapping[str, Any]
) -> dict[str, Any]:
    """The same of the MV-Adapter family, whose cameras see without perspective: those that stand in
    for them."""
    # By its files or, before these are here, by the registry.
    told = config or getattr(model, "arguments", {})
    try:
        settings = MVAdapterConfig.from_dict(told)
    except (TypeError, ValueError, OverflowError):
        return {}
    field = math.degrees(2 * math.atan(settings.frame / (2 * FAR)))
    return {
        "own_views": tuple((azimuth, 0.0) for azimuth in settings.azimuths),
        "turns": True,
        "ring": {"elevation": 0.0, "field": field, "radius": 2 * FAR},
        "view_size": settings.side,
    }


def _numbers(record: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, float] | None:
    """Of a description that anybody may have written; None unless all are there."""
    found = {name: record.get(name) for name in names}
    if not all(type(value) in (int, float) for value in found.values()):
        return None
    return {name: float(value) for name, value in found.items() if value is not None}


def _of_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What can be asked of a model of fields, by a description that anybody may have written."""
    told = config.get("model")
    told = told if isinstance(told, dict) else {}
    names, frames = told.get("names", []), told.get("frames")
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return {
        "names": tuple(names) if named else (),
        "frames": frames if type(frames) is int and frames > 0 else 0,
    }


def _size(record: object, name: str) -> int:
    size = record.get(name) if isinstance(record, Mapping) else 0
    return size if type(size) is int else 0


def model_for(task: Task) -> Model:
    """The model that `task` names, or for "" the best one that is here.

    Raises BadInput when it cannot do that task, NotInstalled when it is to be downloaded first or
    is damaged.
    """
    able = _able({model.id: model for model in models()}, task.kind)
    if task.model:
        model = able.get(task.model)
    else:
        model = _best(_of_view_kind(able, task), task.kind, weights.installed())
    if model is None:
        if task.model in weights.problems():
            weights.require(task.model)  # tells what is wrong with its folder
        raise BadInput(
            f"The model {task.model[:80]!r} cannot do {task.kind}.",
            f"Choose {' or '.join(able)}." if able else "Update the backend.",
        )
    if task.kind != DownloadModel.kind and not model.ready:
        needless = (task.kind, model.family) in _NEEDLESS
        _require(dataclasses.replace(model, needs=()) if needless else model)
    return model


def _can_do(model: Model, kind: str) -> bool:
    tasks = (DownloadModel.kind,) if kind == DownloadModel.kind else model.tasks
    return kind in tasks and (kind, model.family) in PIPELINES


def _able(listed: dict[str, Model], kind: str) -> dict[str, Model]:
    return {name: model for name, model in listed.items() if _can_do(model, kind)}


def _of_view_kind(able: dict[str, Model], task: Task) -> dict[str, Model]:
    """Of models for views, those that take what was given: pictures or depth pictures, cameras."""
    if isinstance(task, ViewsTask) and (task.poses is not None or task.elevation):
        return {name: one for name, one in able.items() if one.family not in _OWN_CAMERAS} or able
    if not isinstance(task, ViewsToMesh):
        return able
    kind = "image" if task.images is not None else "depth"
    return {name: model for name, model in able.items() if model.view_kind == kind} or able


def _best(able: dict[str, Model], kind: str, here: Mapping[str, weights.Installed]) -> Model | None:
    """A bundled model that is meant for it, then what solves instead of sampling, then others."""
    ranked = [model for model in weights.ranked(kind, here) if model.id in able]
    if ranked and ranked[0].is_default(kind):
        return able[ranked[0].id]
    solved = [model for model in able.values() if model.ready and not model.samples]
    best = [able[model.id] for model in ranked]
    return next(iter((*solved, *best, *able.values())), None)


def _require(model: Model) -> None:
    """Raise NotInstalled, naming all that is missing."""
    here = weights.installed()
    missing = [name for name in (model.id, *model.needs) if name not in here]
    if not missing:
        return
    if len(missing) == 1:
        weights.require(missing[0])
    commands = "; ".join(f"python3 -m backend models download {name}" for name in missing)
    raise NotInstalled(
        f"{model.title} needs models that are not on this computer: {', '.join(missing)}.",
        f"Download them: Preferences > Models, or {commands}",
    )


def run(task: Task, context: Context | None = None) -> Iterator[Progress | Result]:
    """Work on `task`: yields Progress, and the result last. Raises FieldforgeError."""
    task.validate()
    model = model_for(task)
    task = dataclasses.replace(task, model=model.id)
    yield from _imported(PIPELINES[task.kind, model.family])(task, context or Context())


def _imported(entry: str) -> Pipeline:
    module, _, function = entry.partition(":")
    # The extension is a package of its own inside Blender; the entry is relative to `backend`.
    package = __name__.removesuffix("pipelines")
    return getattr(importlib.import_module(package + module.removeprefix("backend.")), function)


def warm_up() -> None:
    """Mesh a small ball: the first real job then finds its modules loaded and compiled."""
    turns = 2.399963 * np.arange(600)  # the golden angle spreads points over a sphere
    heights = np.linspace(-1, 1, len(turns))
    across = np.sqrt(1 - heights**2)
    points = np.stack([across * np.cos(turns), across * np.sin(turns), heights], axis=1)
    for _ in run(PointsToMesh(points=points.astype(np.float32), resolution=128)):
        pass
