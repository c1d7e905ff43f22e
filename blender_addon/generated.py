"""What a generated object remembers: how it was made, so that a part of it can be made anew.

It lies in the object, goes with its copies and into the file, and undo knows it.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

import bpy
import numpy as np
from bpy.props import BoolProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from ..backend.protocol import LATENT_SIDE, is_latent
from .arrival import landmarks, transform_between


class FieldforgeResult(bpy.types.PropertyGroup):
    """latent: base85 of float32 bytes; to_local: JSON, as a property would be rounded; landmarks:
    JSON, where some vertices were then; region: the name of the box over the object; is_region: the
    object is such a box."""

    job_id: StringProperty()
    name: StringProperty()
    kind: StringProperty()
    model: StringProperty()
    seed: IntProperty()
    steps: IntProperty(description="0: what the model's authors found best")
    guidance: FloatProperty(default=-1, description="-1: what the model's authors found best")
    latent: StringProperty()
    to_local: StringProperty()
    landmarks: StringProperty()
    region: StringProperty()
    is_region: BoolProperty()


@dataclass(frozen=True, eq=False)
class Making:
    """How an object was made. to_local: (4, 4) float64, from the frame in which the backend
    answered to the object's own space; latent: (C, 12, 12, 12) float32, or None."""

    job_id: str
    name: str
    kind: str
    model: str
    seed: int
    steps: int | None
    guidance: float | None
    to_local: np.ndarray
    latent: np.ndarray | None = None


def remember(item: bpy.types.Object, making: Making) -> None:
    """Write down how `item` was made."""
    kept = item.fieldforge
    for name in ("job_id", "name", "kind", "model", "seed"):
        setattr(kept, name, getattr(making, name))
    kept.steps = making.steps or 0
    kept.guidance = -1 if making.guidance is None else making.guidance
    kept.latent = _text_of(making.latent) if is_latent(making.latent) else ""
    kept.to_local = json.dumps(making.to_local.tolist())
    vertices = _vertices(item)
    chosen = landmarks(vertices)
    places = vertices[chosen].astype(float).tolist()
    kept.landmarks = json.dumps([len(vertices), chosen.tolist(), places])


def making_of(item: bpy.types.Object) -> Making | None:
    """How `item` was made; None when it was not generated here."""
    kept = item.fieldforge
    if not kept.job_id:
        return None
    try:
        to_local = np.array(json.loads(kept.to_local), np.float64).reshape(4, 4)
        latent = _array_of(kept.latent) if kept.latent else None
    except ValueError:
        return None
    return Making(
        job_id=kept.job_id,
        name=kept.name,
        kind=kept.kind,
        model=kept.model,
        seed=kept.seed,
        steps=kept.steps or None,
        guidance=None if kept.guidance < 0 else kept.guidance,
        to_local=to_local,
        latent=latent,
    )


def present_frame(item: bpy.types.Object, making: Making) -> np.ndarray:
    """`making.to_local`, also after a transform was applied to the mesh (Ctrl A).

    What no transform explains, such as sculpting, leaves it as it was.
    """
    try:
        count, chosen, places = json.loads(item.fieldforge.landmarks)
        vertices = _vertices(item)
        if len(vertices) != count:
            return making.to_local
        moved = transform_between(np.array(places), vertices[chosen])
    except (ValueError, TypeError, IndexError):
        return making.to_local
    return making.to_local if moved is None else moved @ making.to_local


def _vertices(item: bpy.types.Object) -> np.ndarray:
    """(N, 3) float32 in the object's own space."""
    data = item.data.attributes["position"].data
    values = np.zeros(3 * len(data), np.float32)
    data.foreach_get("vector", values)
    return values.reshape(-1, 3)


def is_region_box(item: bpy.types.Object) -> bool:
    """True for a box over a generated object, its parent."""
    return item.type == "EMPTY" and item.fieldforge.is_region and item.parent is not None


def _text_of(latent: np.ndarray) -> str:
    return base64.b85encode(np.ascontiguousarray(latent, "<f4").tobytes()).decode("ascii")


def _array_of(text: str) -> np.ndarray:
    """(C, 12, 12, 12) float32. Raises ValueError for a text that is none."""
    latent = np.frombuffer(base64.b85decode(text), "<f4").reshape(-1, *[LATENT_SIDE] * 3)
    if not is_latent(latent):
        raise ValueError(f"a latent of {len(latent)} channels")
    return latent


def register() -> None:
    bpy.types.Object.fieldforge = PointerProperty(type=FieldforgeResult)


def unregister() -> None:
    del bpy.types.Object.fieldforge
