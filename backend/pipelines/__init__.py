"""What the backend can do: one table from task to pipeline, one table of models.

A pipeline is a generator: it yields `Progress` while it works and its result last, and raises a
`FieldforgeError` when it cannot. It asks `context.check_cancelled()` between its steps. Pipelines
are named by "module:function" and imported on first use, so that the server process, which only
lists them, never imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..errors import BadInput, Cancelled
from ..protocol import PointsToMesh, Progress, Result, Task, VoxelsToMesh


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

    samples: results differ by seed, so that "variations" makes sense.
    weights: names in weights/registry.toml, empty when the model has none.
    """

    id: str
    title: str
    summary: str
    tasks: tuple[str, ...]
    samples: bool
    weights: tuple[str, ...] = ()


MODELS: tuple[Model, ...] = (
    Model(
        id="wavelet-fit",
        title="Wavelet fit",
        summary="Solves for the wavelet coefficients of a signed distance field. No weights.",
        tasks=(PointsToMesh.kind, VoxelsToMesh.kind),
        samples=False,
    ),
)

PIPELINES: dict[tuple[str, str], str] = {
    (PointsToMesh.kind, "wavelet-fit"): "backend.pipelines.points_to_mesh:points_to_mesh",
    (VoxelsToMesh.kind, "wavelet-fit"): "backend.pipelines.voxels_to_mesh:voxels_to_mesh",
}


def run(task: Task, context: Context | None = None) -> Iterator[Progress | Result]:
    """Work on `task`: yields Progress, and the result last. Raises FieldforgeError."""
    task.validate()
    yield from _pipeline_of(task)(task, context or Context())


def _pipeline_of(task: Task) -> Pipeline:
    entry = PIPELINES.get((task.kind, task.model))
    if entry is None:
        able = [model.id for model in MODELS if task.kind in model.tasks]
        raise BadInput(
            f"The model {task.model!r} cannot do {task.kind}.",
            f"Choose {' or '.join(able)}." if able else "Update the backend.",
        )
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
