"""The scene of `demo` and of .blend outputs, made by a Blender of its own as the backend does."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "blender_addon" / "preview.py"

LOOK = """
import bpy, json, sys, numpy as np
from bpy_extras.object_utils import world_to_camera_view
bpy.ops.wm.open_mainfile(filepath=sys.argv[1])
scene = bpy.context.scene
bpy.context.view_layer.update()
items = {}
for item in scene.objects:
    if item.type == "MESH" and item.name != "Ground":
        seen = [world_to_camera_view(scene, scene.camera, item.matrix_world @ v.co)
                for v in item.data.vertices]
        low = [min(axis) for axis in zip(*seen)]
        high = [max(axis) for axis in zip(*seen)]
        colors = item.data.color_attributes.get("Color")
        items[item.name] = {
            "vertices": len(item.data.vertices), "faces": len(item.data.polygons),
            "smooth": all(p.use_smooth for p in item.data.polygons),
            "at": list(item.location), "low": low, "high": high,
            "color": list(colors.data[0].color_srgb) if colors else None,
            "selected": item.select_get(),
        }
pixels = None
if len(sys.argv) > 2:
    image = bpy.data.images.load(sys.argv[2])
    pixels = np.array(image.pixels[:]).reshape(image.size[1], image.size[0], 4)
    h, w = pixels.shape[:2]
    left = pixels[h // 3 : 2 * h // 3, : w // 2, :3].mean(axis=(0, 1)).tolist()
    right = pixels[h // 3 : 2 * h // 3, w // 2 :, :3].mean(axis=(0, 1)).tolist()
    pixels = {"left": left, "right": right, "spread": float(pixels[..., :3].std())}
print("FOUND " + json.dumps({"items": items, "pixels": pixels,
      "lights": sum(o.type == "LIGHT" for o in scene.objects)}))
"""


def octahedron() -> dict[str, Any]:
    corners = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32) * [1, 2, 3]
    faces = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    return {
        "vertices": corners.astype(np.float32),
        "faces": np.array(faces, np.int32),
        "name": np.array("Ein Stück"),
    }


def preview(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def look(*files: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", LOOK, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    return json.loads(line.removeprefix("FOUND "))


def test_points_and_mesh_stand_side_by_side_in_the_light(tmp_path: Path) -> None:
    arrays = octahedron()
    rng = np.random.default_rng(0)
    weights = rng.dirichlet((1, 1, 1), 3000)
    corners = arrays["vertices"][arrays["faces"][rng.integers(0, 8, 3000)]]
    arrays["points"] = (corners * weights[:, :, None]).sum(axis=1).astype(np.float32)
    arrays["point_colors"] = np.tile(np.array([0, 0, 255, 255], np.uint8), (3000, 1))
    arrays["colors"] = np.tile(np.array([255, 0, 0, 255], np.uint8), (6, 1))
    folder = tmp_path / "Bilder für 空"
    folder.mkdir()
    np.savez(folder / "in.npz", **arrays)
    blend, png = folder / "out.blend", folder / "out.png"
    done = preview(folder / "in.npz", "--blend", blend, "--png", png)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"in.npz", "out.blend", "out.png"}
    assert struct.unpack(">II", png.read_bytes()[16:24]) == (960, 720)

    found = look(blend, png)
    mesh, points = found["items"]["Ein Stück"], found["items"]["Ein Stück points"]
    assert (mesh["vertices"], mesh["faces"], points["vertices"]) == (6, 8, 3000)
    assert mesh["smooth"]
    assert mesh["selected"]
    assert not points["selected"]
    assert mesh["at"] == [0, 0, 0]  # the result stays where its source is
    assert mesh["color"] == pytest.approx([1, 0, 0, 1], abs=0.01)
    assert found["lights"] == 3
    for item in (mesh, points):
        assert min(item["low"][:2]) > 0.01
        assert max(item["high"][:2]) < 0.99
    assert points["high"][0] < mesh["low"][0]
    assert found["pixels"]["spread"] > 0.05
    red, blue = found["pixels"]["right"], found["pixels"]["left"]
    assert red[0] > red[2] + 0.05
    assert blue[2] > blue[0] + 0.05


def test_a_mesh_alone_without_colours(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **octahedron())
    done = preview(tmp_path / "in.npz", "--blend", tmp_path / "out.blend")
    assert done.returncode == 0, done.stderr
    found = look(tmp_path / "out.blend")
    assert [*found["items"]] == ["Ein Stück"]
    assert found["items"]["Ein Stück"]["color"] is None


def test_a_broken_input_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "in.npz").write_bytes(b"nothing")
    done = preview(tmp_path / "in.npz", "--blend", tmp_path / "out.blend")
    assert done.returncode != 0
    assert not (tmp_path / "out.blend").exists()
