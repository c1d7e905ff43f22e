"""Meshes that move as .glb: what a player makes of the file is what was written."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from backend.geometry import gltf
from backend.geometry.mesh_files import read_mesh

BALL = trimesh.creation.icosphere(1)
FACES = BALL.faces.astype(np.int32)
FRAMES = np.stack([BALL.vertices * (1 + 0.5 * k) + [k, 0, 2 * k] for k in range(4)])
FRAMES = FRAMES.astype(np.float32)
WIDTHS = {"SCALAR": 1, "VEC3": 3}
TYPES = {5125: "<u4", 5126: "<f4"}


class Player:
    """Reads a .glb as the format says, and tells where everything is at a time."""

    def __init__(self, body: bytes) -> None:
        assert body[:4] == b"glTF"
        version, length, size = struct.unpack_from("<III", body, 4)
        assert (version, length) == (2, len(body))
        self.document: dict[str, Any] = json.loads(body[20 : 20 + size])
        self.binary = body[20 + size + 8 :]

    def array(self, number: int) -> np.ndarray:
        accessor = self.document["accessors"][number]
        view = self.document["bufferViews"][accessor["bufferView"]]
        begin, end = view["byteOffset"], view["byteOffset"] + view["byteLength"]
        found = np.frombuffer(self.binary[begin:end], TYPES[accessor["componentType"]])
        found = found.reshape(-1, WIDTHS[accessor["type"]])
        assert len(found) == accessor["count"]
        if "min" in accessor:
            np.testing.assert_allclose(found.min(axis=0), accessor["min"], rtol=1e-6)
            np.testing.assert_allclose(found.max(axis=0), accessor["max"], rtol=1e-6)
        return found

    def keyed(self, animation: dict[str, Any], channel: dict[str, Any], time: float) -> np.ndarray:
        sampler = animation["samplers"][channel["sampler"]]
        times = self.array(sampler["input"])[:, 0]
        assert (np.diff(times) > 0).all()
        values = self.array(sampler["output"]).reshape(len(times), -1)
        if sampler["interpolation"] == "STEP":
            return values[np.searchsorted(times, time + 1e-6, side="right") - 1]
        columns = [np.interp(time, times, column) for column in values.T]
        return np.array(columns)

    @property
    def duration(self) -> float:
        (animation,) = self.document["animations"]
        ends = {float(self.array(sampler["input"]).max()) for sampler in animation["samplers"]}
        assert len(ends) == 1
        return ends.pop()

    def at(self, time: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """What is to be seen, Z-up: vertices and faces of everything that has a size."""
        document = self.document
        sizes = {k: node.get("scale", [1, 1, 1]) for k, node in enumerate(document["nodes"])}
        weights = {}
        for animation in document.get("animations", ()):
            for channel in animation["channels"]:
                value = self.keyed(animation, channel, time)
                target = channel["target"]
                {"scale": sizes, "weights": weights}[target["path"]][target["node"]] = value
        seen = []
        for number, node in enumerate(document["nodes"]):
            if "mesh" not in node or not np.any(sizes[number]):
                continue
            assert list(sizes[number]) == [1, 1, 1]
            (primitive,) = document["meshes"][node["mesh"]]["primitives"]
            places = self.array(primitive["attributes"]["POSITION"]).astype(np.float64)
            for share, target in zip(
                weights.get(number, ()), primitive.get("targets", ()), strict=True
            ):
                places = places + share * self.array(target["POSITION"])
            z_up = np.stack([places[:, 0], -places[:, 2], places[:, 1]], axis=1)
            seen.append((z_up, self.array(primitive["indices"]).reshape(-1, 3)))
        return seen


def test_morph_targets_pass_through_every_frame() -> None:
    player = Player(gltf.morphing_glb_bytes(FRAMES, FACES, 10.0))
    assert player.duration == pytest.approx(0.3)
    for number, frame in enumerate(FRAMES):
        ((places, faces),) = player.at(number / 10)
        np.testing.assert_allclose(places, frame, atol=1e-5)
        np.testing.assert_array_equal(faces, FACES)
    ((places, _),) = player.at(0.15)
    np.testing.assert_allclose(places, (FRAMES[1] + FRAMES[2]) / 2, atol=1e-5)


def test_a_loop_leads_back_to_the_first_frame() -> None:
    player = Player(gltf.morphing_glb_bytes(FRAMES, FACES, 10.0, loop=True))
    assert player.duration == pytest.approx(0.4)
    np.testing.assert_allclose(player.at(0.4)[0][0], FRAMES[0], atol=1e-5)
    np.testing.assert_allclose(player.at(0.35)[0][0], (FRAMES[3] + FRAMES[0]) / 2, atol=1e-5)


def changing() -> list[tuple[np.ndarray, np.ndarray]]:
    fine = trimesh.creation.icosphere(2)
    box = trimesh.creation.box()
    meshes = [BALL, box, None, fine, box]
    empty = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    return [
        empty if mesh is None else (mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))
        for mesh in meshes
    ]


def test_one_mesh_is_to_be_seen_at_a_time() -> None:
    frames = changing()
    player = Player(gltf.stepping_glb_bytes(frames, 10.0, name="walk"))
    assert player.duration == pytest.approx(0.5)
    for number, (vertices, faces) in enumerate(frames):
        for time in (number / 10, number / 10 + 0.09):
            seen = player.at(time)
            if not len(faces):
                assert seen == []
                continue
            np.testing.assert_allclose(seen[0][0], vertices, atol=1e-6)
            np.testing.assert_array_equal(seen[0][1], faces)
            assert len(seen) == 1
    assert len(player.at(0.5)) == 1  # the last one stays


def test_a_program_that_plays_nothing_shows_the_first_frame(tmp_path: Path) -> None:
    for name, body in (
        ("steps", gltf.stepping_glb_bytes(changing(), 10.0)),
        ("morph", gltf.morphing_glb_bytes(FRAMES, FACES, 10.0)),
    ):
        path = tmp_path / f"{name}.glb"
        path.write_bytes(body)
        wanted = BALL.vertices if name == "steps" else FRAMES[0]
        mesh = read_mesh(path)
        np.testing.assert_allclose(mesh.points, wanted, atol=1e-5)
        assert len(mesh.faces) == len(FACES)
        scene = trimesh.load(path)
        assert all(geometry.is_watertight for geometry in scene.geometry.values())


def test_a_single_frame_is_a_plain_mesh() -> None:
    for body in (
        gltf.morphing_glb_bytes(FRAMES[:1], FACES, 10.0),
        gltf.stepping_glb_bytes([(FRAMES[0], FACES)], 10.0),
    ):
        player = Player(body)
        assert "animations" not in player.document
        np.testing.assert_allclose(player.at(0)[0][0], FRAMES[0], atol=1e-6)


def test_the_same_meshes_give_the_same_bytes() -> None:
    assert gltf.morphing_glb_bytes(FRAMES, FACES, 9.0) == gltf.morphing_glb_bytes(
        FRAMES, FACES, 9.0
    )
    assert gltf.stepping_glb_bytes(changing(), 9.0) == gltf.stepping_glb_bytes(changing(), 9.0)
