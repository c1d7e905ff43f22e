"""Spheres as .glb: what a reader of the format finds in it."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.bench import analytic_rooms
from backend.geometry import sphere, sphere_files
from backend.geometry.panorama_views import positions
from backend.protocol import SphereResult

WIDTH = 64


@pytest.fixture(scope="module")
def court() -> SphereResult:
    cast = analytic_rooms.panorama(analytic_rooms.COURTYARD, 2 * WIDTH)
    return sphere.build(cast.colors, cast.depth, width=WIDTH, name="Court")


class Document:
    def __init__(self, body: bytes) -> None:
        assert struct.unpack_from("<4sII", body) == (b"glTF", 2, len(body))
        size = struct.unpack_from("<I", body, 12)[0]
        self.json: dict[str, Any] = json.loads(body[20 : 20 + size])
        self.binary = body[28 + size :]

    def view(self, index: int) -> bytes:
        entry = self.json["bufferViews"][index]
        return self.binary[entry["byteOffset"] : entry["byteOffset"] + entry["byteLength"]]

    def values(self, accessor: int) -> np.ndarray:
        entry = self.json["accessors"][accessor]
        dtype = {5125: "<u4", 5126: "<f4"}[entry["componentType"]]
        values = np.frombuffer(self.view(entry["bufferView"]), dtype)
        return values.reshape(entry["count"], -1)


def test_every_layer_is_a_mesh_with_its_picture(court: SphereResult) -> None:
    document = Document(sphere_files.glb_bytes(court))
    assert [mesh["name"] for mesh in document.json["meshes"]] == [
        "Court",
        "Court backing",
        "Court sky",
    ]
    assert document.json["extensionsUsed"] == ["KHR_materials_unlit"]
    for layer, mesh in zip(court.layers, document.json["meshes"], strict=True):
        primitive = mesh["primitives"][0]
        places = document.values(primitive["attributes"]["POSITION"])
        uv = document.values(primitive["attributes"]["TEXCOORD_0"])
        triangles = document.values(primitive["indices"]).reshape(-1, 3)
        assert len(triangles) == 2 * layer.quads + layer.triangles
        assert triangles.max() == len(places) - 1 == len(uv) - 1
        back = np.stack([places[:, 0], -places[:, 2], places[:, 1]], axis=1)  # Y-up to Z-up
        own = positions(layer, court.meaning)
        np.testing.assert_allclose(back[: len(own)], own, atol=1e-5)
        a, b, c = (back[triangles[:, k]].astype(np.float64) for k in range(3))
        assert (np.einsum("ij,ij->i", np.cross(b - a, c - a), a) < 0).mean() > 0.97  # from inside
        assert (np.ptp(uv[triangles][..., 0], axis=1) < 0.1).all()  # none across the picture
        # What stands at a place of the picture lies in that direction.
        azimuth = 2 * np.pi * (0.5 - uv[:, 0])
        flat = np.hypot(back[:, 0], back[:, 1])
        inner = flat > 0.2 * np.linalg.norm(back, axis=1)
        assert np.abs(np.cos(azimuth) - back[:, 0] / np.maximum(flat, 1e-9))[inner].max() < 0.01
        altitude = np.pi * (0.5 - uv[:, 1])  # from the top, as the format has it
        assert np.abs(altitude - np.arctan2(back[:, 2], flat))[inner].max() < 0.01
        texture = document.json["materials"][primitive["material"]]["pbrMetallicRoughness"]
        source = document.json["textures"][texture["baseColorTexture"]["index"]]["source"]
        entry = document.json["images"][source]
        assert entry["mimeType"] == "image/png"
        picture = np.asarray(Image.open(io.BytesIO(document.view(entry["bufferView"]))))
        np.testing.assert_array_equal(picture, court.image if layer.image is None else layer.image)


def test_the_seam_is_in_the_file_twice_and_nothing_else(court: SphereResult) -> None:
    sky = court.layer("sky")
    assert sky is not None
    _, uv, source = sphere_files.textured_triangles(sky)
    width, height = 256, 128
    assert len(source) - len(sky.values) == height + 2 * (width - 1)  # the seam, and the tips
    assert len(uv) == len(source)


def test_light_and_very_large_pictures_become_what_viewers_take() -> None:
    body, kind = sphere_files.picture_bytes(np.full((4, 8, 3), 0.2158605, np.float32))
    assert kind == "image/png"
    assert np.asarray(Image.open(io.BytesIO(body)))[0, 0].tolist() == [128, 128, 128]
    large = np.zeros((16, 9000, 3), np.uint8)
    body, kind = sphere_files.picture_bytes(large)
    assert kind == "image/jpeg"
    assert Image.open(io.BytesIO(body)).size == (8192, 15)


def test_arrays_come_back(court: SphereResult, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(sphere_files.npz_bytes(court))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert json.loads(str(arrays["meaning"])) == court.meaning.to_dict()
        for layer in court.layers:
            np.testing.assert_array_equal(arrays[f"{layer.layer}_corners"], layer.corners)
            places = positions(layer, court.meaning)
            np.testing.assert_array_equal(arrays[f"{layer.layer}_vertices"], places)
