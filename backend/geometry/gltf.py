"""Binary glTF 2.0: the positions, normals, colours and triangles of a scene.

glTF is Y-up and its vertex colours are linear; the rest of Fieldforge is Z-up with sRGB colours.
Both are converted here. Materials, textures, skins and animation are passed over when reading;
the texture of a mesh is written, as PNG inside the file, and so are meshes that move.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import BadInput
from .mesh import Mesh, check_count, checked

_MAGIC = b"glTF"
_JSON, _BINARY = 0x4E4F534A, 0x004E4942
_MAX_NODES = 100_000
_COMPONENTS: dict[int, np.dtype[Any]] = {
    5120: np.dtype("<i1"),
    5121: np.dtype("<u1"),
    5122: np.dtype("<i2"),
    5123: np.dtype("<u2"),
    5125: np.dtype("<u4"),
    5126: np.dtype("<f4"),
}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_POINTS, _TRIANGLES, _STRIP, _FAN = 0, 4, 5, 6

# (x, y, z) Y-up -> (x, -z, y) Z-up
_TO_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


# ----------------------------------------------------------------------------------------- reading


def read_glb(path: Path) -> Mesh:
    """All meshes of the scene in one, Z-up. Raises BadInput when `path` is no whole .glb file."""
    document, binary = _chunks(path)
    compressed = [
        name
        for name in document.get("extensionsRequired", [])
        if "draco" in name or "meshopt" in name
    ]
    if compressed:
        raise BadInput(
            f"{path.name} is compressed ({', '.join(compressed)}).",
            "Export it again without compression.",
        )
    reader = _Scene(path, document, binary)
    for node, matrix in reader.placed_nodes():
        for primitive in document["meshes"][node["mesh"]]["primitives"]:
            reader.add(primitive, matrix)
    return checked(reader.mesh())


def _chunks(path: Path) -> tuple[dict[str, Any], memoryview]:
    body = memoryview(path.read_bytes())
    if len(body) < 20 or body[:4] != _MAGIC:
        raise BadInput(f"{path.name} is not a binary glTF file.", "Export it as .glb.")
    version, length = struct.unpack_from("<II", body, 4)
    if version != 2:
        raise BadInput(f"{path.name} is glTF version {version}.", "Export it as glTF 2.0.")
    if length > len(body):
        raise _truncated(path)
    document, binary, at = None, memoryview(b""), 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<II", body, at)
        if at + 8 + size > length:
            raise _truncated(path)
        content = body[at + 8 : at + 8 + size]
        if kind == _JSON and document is None:
            document = json.loads(bytes(content))
        elif kind == _BINARY and not binary:
            binary = content
        at += 8 + size
    if not isinstance(document, dict):
        raise _truncated(path)
    return document, binary


def _truncated(path: Path) -> BadInput:
    return BadInput(f"{path.name} is cut off.", "Copy or export the file again.")


class _Scene:
    """Collects the primitives of a document."""

    def __init__(self, path: Path, document: dict[str, Any], binary: memoryview) -> None:
        self.path, self.document, self.binary = path, document, binary
        self.count = 0
        self.points: list[np.ndarray] = []
        self.faces: list[np.ndarray] = []
        self.normals: list[np.ndarray | None] = []
        self.colors: list[np.ndarray | None] = []

    def placed_nodes(self) -> list[tuple[dict[str, Any], np.ndarray]]:
        """The nodes with a mesh, each with its transform to the world."""
        nodes = self.document.get("nodes", [])
        scenes = self.document.get("scenes")
        if scenes:
            roots = scenes[self.document.get("scene", 0)].get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", [])}
            roots = [at for at in range(len(nodes)) if at not in children]
        pending = [(root, _TO_Z_UP) for root in roots]
        placed, seen = [], 0
        while pending:
            seen += 1
            if seen > _MAX_NODES:
                raise self._odd("its nodes have no end")
            at, parent = pending.pop()
            node = nodes[at]
            matrix = parent @ _matrix_of(node)
            pending += [(child, matrix) for child in node.get("children", [])]
            # What has no size is not to be seen, as frames of an animation that are not the first.
            if "mesh" in node and matrix[:3, :3].any():
                placed.append((node, matrix))
        return placed

    def add(self, primitive: dict[str, Any], matrix: np.ndarray) -> None:
        attributes = primitive["attributes"]
        points = self._values(attributes["POSITION"], 3)
        count = len(points)
        check_count(self.count + count)
        linear = matrix[:3, :3]
        moved = points.astype(np.float64) @ linear.T + matrix[:3, 3]
        normals = colors = None
        if "NORMAL" in attributes and abs(np.linalg.det(linear)) > 1e-30:
            normals = self._values(attributes["NORMAL"], 3) @ np.linalg.inv(linear)
        if "COLOR_0" in attributes:
            colors = _srgb_bytes(self._values(attributes["COLOR_0"]))
        if any(part is not None and len(part) != count for part in (normals, colors)):
            raise self._odd("its points and their colours or normals differ in number")
        faces = self._triangles(primitive, count)
        if np.linalg.det(linear) < 0:
            faces = faces[:, ::-1]
        self.points.append(moved.astype(np.float32))
        self.normals.append(None if normals is None else _unit(normals))
        self.colors.append(colors)
        self.faces.append((faces + self.count).astype(np.int32))
        self.count += count

    def mesh(self) -> Mesh:
        check_count(self.count)
        normals = [part for part in self.normals if part is not None]
        colors = [
            np.full((len(points), 4), 255, np.uint8) if part is None else part
            for points, part in zip(self.points, self.colors, strict=True)
        ]
        colored = any(part is not None for part in self.colors)
        return Mesh(
            np.concatenate(self.points),
            np.ascontiguousarray(np.concatenate(self.faces)),
            np.concatenate(normals) if len(normals) == len(self.points) else None,
            np.concatenate(colors) if colored else None,
        )

    def _triangles(self, primitive: dict[str, Any], count: int) -> np.ndarray:
        mode = primitive.get("mode", _TRIANGLES)
        if mode not in (_TRIANGLES, _STRIP, _FAN):
            return np.zeros((0, 3), np.int64)
        if "indices" in primitive:
            indices = self._values(primitive["indices"], 1, raw=True).ravel().astype(np.int64)
        else:
            indices = np.arange(count)
        if len(indices) and int(indices.max()) >= count:
            raise self._odd("its faces join points that do not exist")
        if mode == _TRIANGLES:
            return indices[: len(indices) // 3 * 3].reshape(-1, 3)
        number = np.arange(max(0, len(indices) - 2))
        first = number if mode == _STRIP else np.zeros_like(number)
        corners = indices[np.stack([first, number + 1, number + 2], axis=1)]
        if mode == _STRIP:
            corners[1::2] = corners[1::2][:, [1, 0, 2]]
        return corners

    def _values(self, accessor: int, width: int | None = None, *, raw: bool = False) -> np.ndarray:
        """(N, width) of an accessor, normalised to floats unless `raw`."""
        entry = self.document["accessors"][accessor]
        if "sparse" in entry or "bufferView" not in entry:
            raise self._odd("it stores its points in the sparse form, which is not read here")
        view = self.document["bufferViews"][entry["bufferView"]]
        buffer = self.document["buffers"][view["buffer"]]
        if "uri" in buffer or view["buffer"] != 0:
            raise self._odd("its points are in another file")
        dtype, count = _COMPONENTS[entry["componentType"]], entry["count"]
        own_width = _WIDTHS[entry["type"]]
        if width is not None and own_width != width:
            raise self._odd("its points have another number of coordinates than three")
        begin = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
        stride = view.get("byteStride", dtype.itemsize * own_width)
        end = begin + stride * (count - 1) + dtype.itemsize * own_width
        sizes = (begin, stride, count)
        if not all(type(size) is int and size >= 0 for size in sizes) or stride == 0:
            raise self._odd("it describes its arrays with impossible numbers")
        if count == 0:
            return np.zeros((0, own_width), dtype if raw else np.float32)
        if end > len(self.binary):
            raise _truncated(self.path)
        values = np.ndarray((count, own_width), dtype, self.binary, begin, (stride, dtype.itemsize))
        if raw or dtype.kind == "f":
            return values
        limit = np.iinfo(dtype).max if entry.get("normalized") or own_width == 4 else 1
        return np.maximum(values.astype(np.float32) / np.float32(limit), -1 if limit > 1 else -3e38)

    def _odd(self, what: str) -> BadInput:
        return BadInput(
            f"{self.path.name} cannot be used: {what}.",
            "Open it in Blender and export it again as .glb.",
        )


def _matrix_of(node: dict[str, Any]) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    x, y, z, w = np.array(node.get("rotation", [0, 0, 0, 1]), np.float64)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.array(node.get("scale", [1, 1, 1]), np.float64)
    matrix[:3, 3] = node.get("translation", [0, 0, 0])
    return matrix


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0).astype(
        np.float32
    )


def _srgb_bytes(linear: np.ndarray) -> np.ndarray:
    """(N, 3 or 4) linear 0..1 -> (N, 4) uint8, alpha untouched by the curve."""
    values = np.ones((len(linear), 4))
    values[:, : linear.shape[1]] = np.clip(np.nan_to_num(linear), 0, 1)
    rgb = values[:, :3]
    values[:, :3] = np.where(rgb <= 0.0031308, rgb * 12.92, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return np.rint(values * 255).astype(np.uint8)


def _linear_words(colors: np.ndarray) -> np.ndarray:
    """(N, 4) uint8 sRGB -> (N, 4) uint16 linear, exact enough to give the same bytes back."""
    level = np.arange(256) / 255
    curve = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    words = np.empty(colors.shape, "<u2")
    words[:, :3] = np.rint(curve * 65535).astype(np.uint16)[colors[:, :3]]
    words[:, 3] = colors[:, 3].astype(np.uint16) * 257
    return words


# ----------------------------------------------------------------------------------------- writing


def glb_bytes(mesh: Mesh, name: str = "Fieldforge") -> bytes:
    """`mesh` (Z-up) as one glTF node (Y-up); a cloud of points where it has no faces.

    With a texture it has no colours at its vertices, for glTF would multiply the two.
    """
    texture, uv = mesh.texture, np.zeros((0, 2), np.float32)
    if texture is not None:
        mesh, uv = _split_at_seams(mesh)
    # The format knows only float32, so what needs more is stored around its middle.
    middle = np.zeros(3)
    if mesh.points.dtype == np.float64:
        middle = np.rint((mesh.points.min(axis=0) + mesh.points.max(axis=0)) / 2)
    points = ((mesh.points - middle) @ _TO_Y_UP).astype("<f4")
    arrays = {"POSITION": points}
    if mesh.normals is not None:
        normals = np.where(mesh.normals.any(axis=1, keepdims=True), mesh.normals, [0.0, 0, 1])
        arrays["NORMAL"] = _unit(normals @ _TO_Y_UP).astype("<f4")
    if texture is not None:
        # The first row of a picture is at v = 0 in glTF.
        arrays["TEXCOORD_0"] = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1).astype("<f4")
    elif mesh.colors is not None:
        arrays["COLOR_0"] = _linear_words(mesh.colors)
    buffer = _Buffer()
    extra: dict[str, dict[str, Any]] = {"POSITION": _box(points), "COLOR_0": {"normalized": True}}
    attributes = {
        key: buffer.append(array, f"VEC{array.shape[1]}", 34962, **extra.get(key, {}))
        for key, array in arrays.items()
    }
    primitive: dict[str, Any] = {"attributes": attributes, "mode": _POINTS}
    if len(mesh.faces):
        indices = buffer.append(mesh.faces.astype("<u4").ravel(), "SCALAR", 34963)
        primitive = {"attributes": attributes, "indices": indices, "material": 0}
    surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 0.6}
    material: dict[str, Any] = {"name": name, "pbrMetallicRoughness": surface}
    pictures: dict[str, Any] = {}
    if texture is not None:
        surface["baseColorTexture"] = {"index": 0}
        picture = buffer.view(png_bytes(texture))
        pictures = {
            "textures": [{"source": 0, "sampler": 0}],
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
            "images": [{"bufferView": picture, "mimeType": "image/png", "name": name}],
        }
    document = {
        "asset": {"version": "2.0", "generator": "Fieldforge"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name, **_translation(middle @ _TO_Y_UP)}],
        "meshes": [{"name": name, "primitives": [primitive]}],
        "materials": [material],
        **pictures,
    }
    if not len(mesh.faces):
        del document["materials"]
    return buffer.glb(document)


def morphing_glb_bytes(
    vertices: np.ndarray,
    faces: np.ndarray,
    fps: float,
    *,
    loop: bool = False,
    name: str = "Fieldforge",
) -> bytes:
    """One mesh whose vertices (F, V, 3), Z-up, move: a morph target for every frame but the first,
    and an animation that goes from each to the next. loop: and from the last to the first."""
    places = (vertices.astype(np.float64) @ _TO_Y_UP).astype("<f4")
    buffer = _Buffer()
    attributes = {"POSITION": buffer.append(places[0], "VEC3", 34962, **_box(places[0]))}
    targets = []
    for frame in places[1:]:
        moved = frame - places[0]
        targets.append({"POSITION": buffer.append(moved, "VEC3", 34962, **_box(moved))})
    indices = buffer.append(faces.astype("<u4").ravel(), "SCALAR", 34963)
    primitive = {"attributes": attributes, "indices": indices, "material": 0}
    mesh: dict[str, Any] = {"name": name, "primitives": [primitive]}
    document = _scene([{"mesh": 0, "name": name}], [mesh], name)
    if targets:
        primitive["targets"] = targets
        mesh["weights"] = [0.0] * len(targets)
        mesh["extras"] = {"targetNames": [f"frame {k + 1}" for k in range(1, len(places))]}
        keys = np.eye(len(places), dtype="<f4")[:, 1:]
        if loop:
            keys = np.concatenate([keys, keys[:1]])
        sampler = {
            "input": buffer.times(np.arange(len(keys)) / fps),
            "output": buffer.append(keys.ravel(), "SCALAR"),
            "interpolation": "LINEAR",
        }
        channel = {"sampler": 0, "target": {"node": 0, "path": "weights"}}
        document["animations"] = [{"name": name, "samplers": [sampler], "channels": [channel]}]
    return buffer.glb(document)


def stepping_glb_bytes(
    frames: list[tuple[np.ndarray, np.ndarray]],
    fps: float,
    *,
    name: str = "Fieldforge",
) -> bytes:
    """A mesh (vertices, faces), Z-up, for each frame, each in a node of its own that has a size
    only while its frame lasts. Programs that play no animation show the first."""
    buffer = _Buffer()
    nodes: list[dict[str, Any]] = []
    meshes: list[dict[str, Any]] = []
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []
    for number, (vertices, faces) in enumerate(frames):
        node: dict[str, Any] = {"name": f"{name} {number + 1}"}
        if number:
            node["scale"] = [0.0, 0.0, 0.0]
        nodes.append(node)
        if not len(faces):
            continue
        points = (vertices.astype(np.float64) @ _TO_Y_UP).astype("<f4")
        attributes = {"POSITION": buffer.append(points, "VEC3", 34962, **_box(points))}
        indices = buffer.append(faces.astype("<u4").ravel(), "SCALAR", 34963)
        node["mesh"] = len(meshes)
        primitive = {"attributes": attributes, "indices": indices, "material": 0}
        meshes.append({"name": node["name"], "primitives": [primitive]})
        if len(frames) == 1:
            continue
        times, sizes = _shown(number, len(frames))
        samplers.append(
            {
                "input": buffer.times(times / fps),
                "output": buffer.append(np.repeat(sizes[:, None], 3, 1).astype("<f4"), "VEC3"),
                "interpolation": "STEP",
            }
        )
        target = {"node": number, "path": "scale"}
        channels.append({"sampler": len(samplers) - 1, "target": target})
    document = _scene(nodes, meshes, name)
    if channels:
        document["animations"] = [{"name": name, "samplers": samplers, "channels": channels}]
    return buffer.glb(document)


def _shown(number: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """When (in frames) the size of a frame's node changes, and to what; up to the end of the last
    frame, so that all animations are as long."""
    keys = {0: 0.0, number: 1.0, number + 1: 0.0, frames: float(number + 1 == frames)}
    if number == 0:
        keys[0] = 1.0
    times = sorted(keys)
    return np.array(times, np.float64), np.array([keys[time] for time in times])


_TO_Y_UP = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float64)


def _scene(nodes: list[dict[str, Any]], meshes: list[dict[str, Any]], name: str) -> dict[str, Any]:
    surface = {"metallicFactor": 0.0, "roughnessFactor": 0.6}
    return {
        "asset": {"version": "2.0", "generator": "Fieldforge"},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes)))}],
        "nodes": nodes,
        "meshes": meshes,
        "materials": [{"name": name, "pbrMetallicRoughness": surface}],
    }


def _box(points: np.ndarray) -> dict[str, Any]:
    return {"min": points.min(axis=0).tolist(), "max": points.max(axis=0).tolist()}


class _Buffer:
    """The arrays of a file, one after the other, and what the document says of them."""

    def __init__(self) -> None:
        self.accessors: list[dict[str, Any]] = []
        self.views: list[dict[str, Any]] = []
        self.blobs: list[bytes] = []
        self.length = 0

    def view(self, blob: bytes, **more: Any) -> int:
        """The number of the view of these bytes."""
        self.views.append({"buffer": 0, "byteOffset": self.length, "byteLength": len(blob), **more})
        self.blobs.append(blob)
        self.length += len(blob)
        return len(self.views) - 1

    def append(self, array: np.ndarray, kind: str, target: int | None = None, **more: Any) -> int:
        """The number of the accessor of an array (N,) or (N, width)."""
        codes = {dtype: code for code, dtype in _COMPONENTS.items()}
        aimed = {} if target is None else {"target": target}
        accessor = {
            "bufferView": self.view(array.tobytes(), **aimed),
            "componentType": codes[array.dtype],
            "count": len(array),
            "type": kind,
        }
        self.accessors.append({**accessor, **more})
        return len(self.accessors) - 1

    def times(self, seconds: np.ndarray) -> int:
        """The number of the accessor of the times of keys."""
        told = seconds.astype("<f4")
        box: dict[str, Any] = {"min": [float(told.min())], "max": [float(told.max())]}
        return self.append(told, "SCALAR", **box)

    def glb(self, document: dict[str, Any]) -> bytes:
        """The file."""
        arrays = {
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": self.length}],
        }
        text = json.dumps({**document, **arrays}, separators=(",", ":")).encode()
        return glb(text, b"".join(self.blobs))


def png_bytes(texture: np.ndarray) -> bytes:
    """A texture (H, W, 3 or 4) uint8 as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(texture)).save(content, "PNG", compress_level=4)
    return content.getvalue()


def _split_at_seams(mesh: Mesh) -> tuple[Mesh, np.ndarray]:
    """The mesh with as many copies of each vertex as it has places in the texture, and these."""
    assert mesh.uv is not None  # noqa: S101 - there is none without the other
    corner = mesh.faces.ravel()
    order = np.lexsort((mesh.uv[:, 1], mesh.uv[:, 0], corner))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(corner[order]) != 0) | (np.diff(mesh.uv[order], axis=0) != 0).any(axis=1)
    number = np.empty(len(order), np.int32)
    number[order] = np.cumsum(new) - 1
    first = order[new]
    source = corner[first]
    normals = None if mesh.normals is None else mesh.normals[source]
    return Mesh(mesh.points[source], number.reshape(-1, 3), normals), mesh.uv[first]


def _translation(moved: np.ndarray) -> dict[str, list[float]]:
    return {"translation": moved.tolist()} if moved.any() else {}


def glb(text: bytes, binary: bytes) -> bytes:
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    head = struct.pack("<4sIII", _MAGIC, 2, total, len(text)) + struct.pack("<I", _JSON)
    return b"".join([head, text, struct.pack("<II", len(binary), _BINARY), binary])
