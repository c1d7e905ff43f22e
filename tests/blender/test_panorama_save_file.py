"""The .blend that the command line makes of a sphere, opened again."""

from __future__ import annotations

import subprocess
import sys

import bpy
import numpy as np
from fieldforge.backend import blender_process
from fieldforge.backend.protocol import (
    DepthMeaning,
    SphereLayer,
    SphereResult,
    encode_result,
)
from fieldforge.blender_addon.panorama import live

DIRECTIONS = np.array([[1, 1, 1], [1, -1, 1], [1, -1, -1], [1, 1, -1], [0, 0, 1]], np.float32)
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)
MEANING = DepthMeaning(meaning="inverse", near=1.0, far=4.0)


def layer(kind: str, image: np.ndarray | None = None) -> SphereLayer:
    return SphereLayer(
        layer=kind,
        directions=DIRECTIONS,
        values=np.linspace(0.1, 0.9, 5, dtype=np.float32),
        corners=np.array([0, 3, 2, 1, 0, 1, 4], np.int32),
        quads=1,
        edges=np.array([[0, 3], [3, 2], [2, 1], [1, 0], [1, 4], [4, 0]], np.int32),
        corner_edges=np.array([0, 1, 2, 3, 3, 4, 5], np.int32),
        uv=np.linspace(0, 1, 14, dtype=np.float32).reshape(7, 2),
        image=image,
    )


def test_the_file_has_the_layers_their_pictures_and_a_camera(tmp_path, extension):
    picture = np.full((8, 16, 3), 90, np.uint8)
    own = np.full((4, 8, 3), 30, np.uint8)
    sphere = SphereResult(
        name="Hall", layers=(layer("front"), layer("backing", own)), image=picture, meaning=MEANING
    )
    (tmp_path / "sphere.bin").write_bytes(encode_result(sphere))
    target = tmp_path / "hall.blend"
    script = [sys.executable, str(blender_process.SPHERE_SCRIPT), str(tmp_path / "sphere.bin")]
    done = subprocess.run(
        [*script, "--blend", str(target)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    bpy.ops.wm.open_mainfile(filepath=str(target))
    front, backing = bpy.data.objects["Hall"], bpy.data.objects["Hall backing"]
    assert live.is_sphere(front)
    assert backing.parent == front
    camera = bpy.context.scene.camera
    assert camera is not None
    assert camera.data.type in {"PERSP", "PANO"}
    for item, width in ((front, 16), (backing, 8)):
        nodes = item.data.materials[0].node_tree.nodes
        image = next(node.image for node in nodes if node.type == "TEX_IMAGE")
        assert image.packed_file is not None
        assert image.size[0] == width
        assert any(node.type == "EMISSION" for node in nodes)
    places = np.empty(15, np.float32)
    front.data.vertices.foreach_get("co", places)
    radius = 1 / (0.25 + np.linspace(0.1, 0.9, 5) * 0.75)
    np.testing.assert_allclose(places.reshape(5, 3), DIRECTIONS * radius[:, None], rtol=1e-5)
    assert bpy.context.scene.view_settings.view_transform == "Standard"
