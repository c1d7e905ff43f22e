"""Moving shapes for the tests: boxes whose corners say their frame, their seed and their amount;
their fields are small, and the first weight is the seed."""

from __future__ import annotations

import numpy as np
from fieldforge.backend import moving_meshes, protocol
from fieldforge.backend.protocol import (
    Animation,
    AnimationResult,
    AnimationSet,
    FieldResult,
    FieldToMesh,
    MeshResult,
    MeshToField,
    NeuralField,
    Shape,
)

HIDDEN = (8,)
FRAMES = 5
FPS = 12.0
MODELS = [
    {
        "id": "creatures",
        "title": "Creatures",
        "summary": "",
        "tasks": ["animation", "shape"],
        "samples": True,
        "ready": True,
        "steps": 50,
        "names": ["fish", "walker"],
        "frames": FRAMES,
    },
    {
        "id": "neural-field",
        "title": "Neural field",
        "summary": "",
        "tasks": ["mesh-to-field", "field-to-mesh"],
        "samples": False,
        "ready": True,
    },
]
CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
FACES = np.array([(a, *pair) for a, b, c, d in QUADS for pair in ((b, c), (c, d))], np.int32)


def corners(frame: float, seed: int = 0, amount: float = 0.0) -> np.ndarray:
    """(8, 3) float32 of a box: as high as the frame says, as wide as the seed says, as deep as the
    amount says."""
    size = np.array([1 + seed / 100, 1 + amount, 1 + frame / 4])
    return ((CORNERS - 0.5) * size).astype(np.float32)


def neural(seed: int = 0, frames: int = FRAMES, **changes) -> NeuralField:
    dimensions = 4 if frames > 1 else 3
    inputs = dimensions * (1 + 2 * 1)
    count = 8 * (inputs + 1) + 8 + 1
    changes = {"start": "a start", "fps": FPS, "loop": True} | changes
    return NeuralField(
        weights=np.arange(count, dtype=np.float32) / 7 + seed,
        dimensions=dimensions,
        frequencies=1,
        hidden=HIDDEN,
        frame_count=frames,
        **changes,
    )


def animation(meshes: list[tuple[np.ndarray, np.ndarray]], one: bool, **fields) -> AnimationResult:
    """A result of these meshes, as one topology or one by one."""
    if one:
        vertices = np.stack([own for own, _ in meshes])
        return AnimationResult(vertices=vertices, faces=meshes[0][1], **fields)
    return AnimationResult(**moving_meshes.joined(meshes), **fields)


def boxes(seed: int, frames: int = FRAMES, amount: float = 0.0) -> list:
    return [(corners(frame, seed, amount), FACES) for frame in range(frames)]


def result_of(task: protocol.Task) -> protocol.Result | None:
    match task:
        case Animation():
            return _animations(task)
        case MeshToField():
            return _field(task)
        case FieldToMesh():
            return _meshes(task)
        case Shape(model="creatures"):
            told = {"model": task.model, "seed": task.seed, "nearest": "A", "nearest_distance": 1}
            still = neural(task.seed, frames=1)
            own = corners(0, task.seed)
            return MeshResult(vertices=own, faces=FACES, neural=still, report=told)
    return None


def _animations(task: Animation) -> protocol.Result:
    told = {"model": task.model, "steps": task.steps or 50}
    made = tuple(
        animation(
            boxes(seed, task.frames or FRAMES),
            task.topology == "one",
            name=task.name,
            fps=FPS,
            loop=True,
            neural=neural(seed, task.frames or FRAMES),
            report={**told, "seed": seed, "nearest": "walker 3", "nearest_distance": 0.25},
        )
        for seed in range(task.seed, task.seed + task.variations)
    )
    return made[0] if len(made) == 1 else AnimationSet(animations=made, report=told)


def _field(task: MeshToField) -> FieldResult:
    """The meshes come back as they were sent; where the field stands is told with them."""
    frames = moving_meshes.split(task.vertices, task.faces, task.vertex_counts, task.face_counts)
    same = all(np.array_equal(faces, frames[0][1]) for _, faces in frames)
    place = np.diag([2.0, 2.0, 2.0, 1.0])
    place[:3, 3] = 0.25
    field = neural(3, len(frames), fps=task.fps, loop=task.loop, to_source=place)
    return FieldResult(
        name=task.name,
        neural=field,
        animation=animation(frames, same and task.topology == "one", fps=task.fps, loop=task.loop),
        report={"bytes": 1234, "source_bytes": 456_789, "iou": 0.9876, "notes": ["It was open."]},
    )


def _meshes(task: FieldToMesh) -> AnimationResult:
    """Boxes whose seed is the first weight of the field, as it is mixed, in the place of the first
    field; as high as the resolution."""
    first = task.weights[:, 0].astype(float)
    place = task.to_source
    meshes = []
    for amount in task.amounts.astype(float):
        seed = float((1 - amount) * first[0] + amount * first[-1])
        for frame in range(task.frame_count):
            own = corners(frame, seed, amount) @ place[:3, :3].T + place[:3, 3]
            own[:, 2] *= task.resolution / 64
            meshes.append((own.astype(np.float32), FACES))
    several = len(task.amounts) > 1
    return animation(
        meshes,
        task.topology == "one",
        amounts=task.amounts if several else None,
        fps=task.fps,
        loop=task.loop,
        neural=None if several else task.fields()[0],
    )
