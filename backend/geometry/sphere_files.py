"""Spheres as files: .glb with their pictures in it, .npz with their arrays."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from ..protocol import SphereLayer, SphereResult
from .gltf import glb
from .panorama_views import positions, srgb

MOST_TEXTURE_WIDTH = 8192
"""What most graphics cards take."""

_MOST_LOSSLESS = 4096
_FLOAT, _UNSIGNED = 5126, 5125
_VERTICES, _INDICES = 34962, 34963
_REPEAT, _CLAMP, _LINEAR = 10497, 33071, 9729


def glb_bytes(sphere: SphereResult) -> bytes:
    """All layers as one glTF scene, Y-up, unlit, seen from inside. Light beyond 1 is cut off, and
    pictures are reduced to MOST_TEXTURE_WIDTH."""
    file = _File()
    pictures: dict[int, int] = {}
    for layer in sphere.layers:
        image = sphere.image if layer.image is None else layer.image
        if id(image) not in pictures:
            pictures[id(image)] = file.add_material(sphere.name, image)
        file.add_layer(sphere, layer, pictures[id(image)])
    return file.bytes(sphere.name)


def npz_bytes(sphere: SphereResult) -> bytes:
    """image, meaning (JSON text) and, for each layer, LAYER_vertices (V, 3) float32 metres and the
    arrays of SphereLayer as LAYER_NAME."""
    arrays: dict[str, np.ndarray] = {
        "image": sphere.image,
        "meaning": np.array(json.dumps(sphere.meaning.to_dict())),
    }
    for layer in sphere.layers:
        arrays[f"{layer.layer}_vertices"] = positions(layer, sphere.meaning)
        arrays[f"{layer.layer}_quads"] = np.array(layer.quads)
        for name in ("directions", "values", "corners", "edges", "corner_edges", "uv", "image"):
            if getattr(layer, name) is not None:
                arrays[f"{layer.layer}_{name}"] = getattr(layer, name)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def textured_triangles(layer: SphereLayer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangles (T, 3) uint32 of vertices that have one place in the picture each, these places
    (N, 2) float32, and which vertex of the layer each of them is, (N,) int32. Vertices of the seam
    and the poles come several times."""
    count = len(layer.values)
    uv = np.zeros((count, 2), np.float32)
    uv[layer.corners] = layer.uv
    others = np.flatnonzero((np.abs(uv[layer.corners] - layer.uv) > 1e-6).any(axis=1))
    corners = layer.corners.astype(np.uint32)
    source = np.arange(count, dtype=np.int32)
    if len(others):
        wanted = np.empty(len(others), [("vertex", np.int32), ("u", np.float32), ("v", np.float32)])
        wanted["vertex"] = layer.corners[others]
        wanted["u"], wanted["v"] = layer.uv[others].T
        new, numbers = np.unique(wanted, return_inverse=True)
        corners[others] = count + numbers
        source = np.concatenate([source, new["vertex"]])
        uv = np.concatenate([uv, np.stack([new["u"], new["v"]], axis=1)])
    quads = corners[: 4 * layer.quads].reshape(-1, 4)
    triangles = np.empty((2 * len(quads) + layer.triangles, 3), np.uint32)
    triangles[: 2 * len(quads) : 2] = quads[:, :3]
    triangles[1 : 2 * len(quads) : 2] = quads[:, [0, 2, 3]]
    triangles[2 * len(quads) :] = corners[4 * layer.quads :].reshape(-1, 3)
    return triangles, uv, source


def picture_bytes(image: np.ndarray) -> tuple[bytes, str]:
    """A texture as a file, and its MIME type: PNG, of very large pictures JPEG."""
    if image.dtype.kind == "f":
        shown = np.clip(image, 0, 1)
        shown[..., :3] = srgb(image[..., :3])
        image = np.rint(shown * 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(image))
    if picture.width > MOST_TEXTURE_WIDTH:
        ratio = picture.height / picture.width
        picture = picture.resize((MOST_TEXTURE_WIDTH, round(MOST_TEXTURE_WIDTH * ratio)))
    buffer = io.BytesIO()
    if picture.width <= _MOST_LOSSLESS or picture.mode == "RGBA":
        picture.save(buffer, "PNG", compress_level=4)
        return buffer.getvalue(), "image/png"
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), "image/jpeg"


class _File:
    """Collects the parts of a glTF document."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []
        self.size = 0
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self.meshes: list[dict[str, Any]] = []
        self.materials: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def add_view(self, body: bytes, target: int | None = None) -> int:
        entry: dict[str, Any] = {"buffer": 0, "byteOffset": self.size, "byteLength": len(body)}
        if target is not None:
            entry["target"] = target
        body += b"\0" * (-len(body) % 4)
        self.blobs.append(body)
        self.size += len(body)
        self.views.append(entry)
        return len(self.views) - 1

    def add_accessor(self, array: np.ndarray, kind: str, component: int, **more: Any) -> int:
        target = _INDICES if kind == "SCALAR" else _VERTICES
        entry = {
            "bufferView": self.add_view(array.tobytes(), target),
            "componentType": component,
            "count": len(array),
            "type": kind,
            **more,
        }
        self.accessors.append(entry)
        return len(self.accessors) - 1

    def add_material(self, name: str, image: np.ndarray) -> int:
        body, kind = picture_bytes(image)
        self.images.append({"bufferView": self.add_view(body), "mimeType": kind, "name": name})
        texture = {"index": len(self.images) - 1}
        material: dict[str, Any] = {
            "name": name,
            "pbrMetallicRoughness": {"baseColorTexture": texture, "metallicFactor": 0.0},
            "extensions": {"KHR_materials_unlit": {}},
        }
        if image.shape[2] == 4:
            material["alphaMode"] = "BLEND"
        self.materials.append(material)
        return len(self.materials) - 1

    def add_layer(self, sphere: SphereResult, layer: SphereLayer, material: int) -> None:
        triangles, uv, source = textured_triangles(layer)
        x, y, z = positions(layer, sphere.meaning)[source].T
        places = np.stack([x, z, -y], axis=1).astype("<f4")
        box = {"min": places.min(axis=0).tolist(), "max": places.max(axis=0).tolist()}
        flipped = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1).astype("<f4")
        attributes = {
            "POSITION": self.add_accessor(places, "VEC3", _FLOAT, **box),
            "TEXCOORD_0": self.add_accessor(flipped, "VEC2", _FLOAT),
        }
        indices = self.add_accessor(triangles.astype("<u4").ravel(), "SCALAR", _UNSIGNED)
        primitive = {"attributes": attributes, "indices": indices, "material": material}
        name = sphere.name if layer.layer == "front" else f"{sphere.name} {layer.layer}"
        self.meshes.append({"name": name, "primitives": [primitive]})

    def bytes(self, name: str) -> bytes:
        layers = range(len(self.meshes))
        nodes: list[dict[str, Any]] = [{"name": self.meshes[k]["name"], "mesh": k} for k in layers]
        nodes.append({"name": name, "children": list(layers)})
        document = {
            "asset": {"version": "2.0", "generator": "Fieldforge"},
            "extensionsUsed": ["KHR_materials_unlit"],
            "scene": 0,
            "scenes": [{"nodes": [len(self.meshes)]}],
            "nodes": nodes,
            "meshes": self.meshes,
            "materials": self.materials,
            "textures": [{"source": k, "sampler": 0} for k in range(len(self.images))],
            "samplers": [
                {"wrapS": _REPEAT, "wrapT": _CLAMP, "magFilter": _LINEAR, "minFilter": _LINEAR}
            ],
            "images": self.images,
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": self.size}],
        }
        return glb(json.dumps(document, separators=(",", ":")).encode(), b"".join(self.blobs))
