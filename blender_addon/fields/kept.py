"""The field that an object keeps: a few dozen kilobytes in the object itself.

They are the bytes of a .ffield file, written as text in a property of the object, so that they are
saved with the Blender file, go with copies and appended objects, and undo knows them. Not as bytes
in a custom property: Alembic's exporter writes these, too, and ends Blender at the first zero.
"""

from __future__ import annotations

import base64
from functools import lru_cache

import bpy

from ...backend.errors import BadInput, FieldforgeError
from ...backend.field_files import from_bytes, to_bytes
from ...backend.protocol import NeuralField


def keep(item: bpy.types.Object, neural: NeuralField) -> None:
    item.fieldforge_motion.field = _text_of(neural, item.name)


def keep_second(item: bpy.types.Object, neural: NeuralField) -> None:
    """Of a root that goes from one shape to another: the field of the second."""
    item.fieldforge_mix.field = _text_of(neural, item.name)


def has_field(item: bpy.types.Object | None) -> bool:
    return item is not None and bool(item.fieldforge_motion.field)


def size_of(item: bpy.types.Object) -> int:
    """Bytes of the field that an object keeps, as a file; 0 without one."""
    text = item.fieldforge_motion.field
    return 3 * len(text) // 4 - text.count("=", -2)


def kept(item: bpy.types.Object) -> NeuralField:
    """The field of an object. Raises BadInput where it has none that can be read."""
    return _field_of(item.fieldforge_motion.field, item.name)


def file_of(item: bpy.types.Object) -> bytes:
    """The field of an object as a .ffield file, with its name of today. Raises BadInput."""
    return to_bytes(kept(item), item.name)


def second(item: bpy.types.Object) -> NeuralField:
    """What `keep_second` kept. Raises BadInput."""
    return _field_of(item.fieldforge_mix.field, item.name)


def layout_of(item: bpy.types.Object) -> tuple | None:
    """What two fields must share to be mixed; None where there is none."""
    try:
        return kept(item).layout if has_field(item) else None
    except FieldforgeError:
        return None


def same_start(first: bpy.types.Object, second: bpy.types.Object) -> bool:
    """Whether two fields were fitted from the same weights, as far as is known."""
    try:
        starts = {kept(item).start for item in (first, second)}
    except FieldforgeError:
        return False
    return len(starts) == 1 and "" not in starts


def _text_of(neural: NeuralField, name: str) -> str:
    return base64.b64encode(to_bytes(neural, name)).decode("ascii")


@lru_cache(maxsize=8)
def _field_of(text: str, name: str) -> NeuralField:
    """The panel asks for it whenever it is drawn."""
    if not text:
        raise BadInput(f"{name} keeps no neural field.", "Compress an object first.")
    try:
        body = base64.b64decode(text, validate=True)
    except ValueError:
        body = b""
    return from_bytes(body, f"The field of {name}")[0]
