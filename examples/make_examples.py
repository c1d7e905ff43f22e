"""Makes everything in this folder from the CC0 models of Sweet Home 3D's furniture library.

    apt-get download sweethome3d-furniture && dpkg-deb -x sweethome3d-furniture_*.deb furniture
    PYTHONPATH=. python examples/make_examples.py \\
        furniture/usr/share/sweethome3d/furniture/BlendSwap-CC-0.sh3f

(with the Python of the "test" environment, into which open3d-cpu was installed for this).
The same seed gives the same files. Every shape is turned to Blender's axes (Z up).

    hen.ply            a point cloud as a scanner would give it: only what can be seen from around,
                       coloured, without normals, noise of 0.03 % of the diagonal; metres
    lantern.json       voxels, 32 along each side, in the JSON form of WaLa
    locker.png         a picture of a locker, 512 x 512, on nothing; no model of ours saw it
    bench_shapes.npz   twelve meshes for the reconstruction benchmark: NAME_vertices (V, 3) int16,
                       times 0.9 / 32767 gives coordinates in [-0.9, 0.9]; NAME_faces (F, 3) uint16
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import open3d
import trimesh
from PIL import Image
from scipy import ndimage

from backend.training import renders

HERE = Path(__file__).resolve().parent
CATALOGUE = "PluginFurnitureCatalog.properties"
SCAN, SCAN_POINTS, SCAN_NOISE = "chicken", 50_000, 0.0003
VOXELS, VOXEL_SIDE = "stoneLantern", 32
PICTURE, PICTURE_SIDE = "lockedLocker", 512
BENCH = {
    "osakaChair": "chair",
    "antiqueChair": "antique_chair",
    "babyRockingBed": "cradle",
    "littlePlant": "plant",
    "stoneLantern": "lantern",
    "housePuzzle": "puzzle",
    "horse2": "horse",
    "deer": "deer",
    "bootie": "boots",
    "spiralStaircase": "staircase",
    "couch2": "couch",
    "wheelbarrow": "wheelbarrow",
}


def main(library: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(library) as archive:
        archive.extractall(folder)
        models = Models(Path(folder))
        write_scan(models, HERE / "hen.ply")
        write_voxels(models, HERE / "lantern.json")
        write_bench(models, HERE / "bench_shapes.npz")
        write_picture(models, HERE / "locker.png")


class Models:
    """The models of an unpacked .sh3f library, by their names in its catalogue."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, dict[str, str]] = {}
        for line in (folder / CATALOGUE).read_text(encoding="latin-1").splitlines():
            match = re.match(r"(\w+)#(\d+)=(.*)", line)
            if match:
                self.entries.setdefault(match[2], {})[match[1]] = match[3]
        self.by_name = {entry["id"].split("#")[1]: entry for entry in self.entries.values()}

    def load(self, name: str) -> list[trimesh.Trimesh]:
        """The parts of a model, one per material; Z up, metres."""
        entry = self.by_name[name]
        path = self.folder / entry["model"].lstrip("/")
        self._check_licence(path.parent)
        scene = trimesh.load_scene(path, process=False)
        parts = [part for part in scene.dump() if len(part.faces)]
        turn = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
        rotation = np.eye(4)
        if "modelRotation" in entry:
            rotation[:3, :3] = np.reshape(
                [float(v) for v in entry["modelRotation"].split()], (3, 3)
            )
        for part in parts:
            part.apply_transform(turn @ rotation)
        height = max(p.bounds[1, 2] for p in parts) - min(p.bounds[0, 2] for p in parts)
        for part in parts:
            part.apply_scale(float(entry["height"]) / 100 / height)
        return parts

    @staticmethod
    def _check_licence(folder: Path) -> None:
        files = [path for path in folder.iterdir() if "LICENSE" in path.name.upper()]
        text = " ".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
        if not re.search(r"creative commons zero|cc-?0", text, re.IGNORECASE):
            raise SystemExit(f"{folder.name} is not CC0.")


def write_scan(models: Models, path: Path) -> None:
    parts = models.load(SCAN)
    rng = np.random.default_rng(1)
    points, colors = sample_coloured(parts, 4 * SCAN_POINTS, rng)
    seen = visible(trimesh.util.concatenate(parts), points)
    keep = rng.permutation(np.flatnonzero(seen))[:SCAN_POINTS]
    points, colors = points[keep], colors[keep]
    diagonal = float(np.linalg.norm(np.ptp(points, axis=0)))
    points = points + rng.normal(0, SCAN_NOISE * diagonal, points.shape)
    points -= [*points[:, :2].mean(axis=0), points[:, 2].min()]
    rows = np.empty(len(points), [(axis, "<f4") for axis in "xyz"] + [(c, "u1") for c in COLORS])
    for axis, column in zip("xyz", points.T, strict=True):
        rows[axis] = column
    for name, column in zip(COLORS, colors.T, strict=True):
        rows[name] = column
    header = ["ply", "format binary_little_endian 1.0", "comment CC0 1.0, see LICENCE.md"]
    header += [f"element vertex {len(rows)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {name}" for name in COLORS]
    path.write_bytes("\n".join([*header, "end_header\n"]).encode() + rows.tobytes())


COLORS = ("red", "green", "blue")


def sample_coloured(
    parts: list[trimesh.Trimesh], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(count, 3) points evenly on the surfaces, (count, 3) uint8 sRGB of their materials."""
    areas = np.array([part.area for part in parts])
    shares = rng.multinomial(count, areas / areas.sum())
    drawn = [sample_part(part, share, rng) for part, share in zip(parts, shares, strict=True)]
    return np.concatenate([p for p, _ in drawn]), np.concatenate([c for _, c in drawn])


def sample_part(
    part: trimesh.Trimesh, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    face = rng.choice(len(part.faces), count, p=part.area_faces / part.area)
    u, v = rng.random((2, count))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    weights = np.stack([1 - u - v, u, v], axis=1)[:, :, None]
    points = (part.triangles[face] * weights).sum(axis=1)
    material = part.visual.material
    image = getattr(material, "image", None)
    if image is None or part.visual.uv is None:
        return points, np.tile(np.asarray(material.main_color[:3], np.uint8), (count, 1))
    uv = (part.visual.uv[part.faces[face]] * weights).sum(axis=1) % 1
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    row = ((1 - uv[:, 1]) * (height - 1)).round().astype(int)
    column = (uv[:, 0] * (width - 1)).round().astype(int)
    return points, pixels[row, column]


def visible(mesh: trimesh.Trimesh, points: np.ndarray, views: int = 80) -> np.ndarray:
    """(N,) bool: which points a scanner on a sphere around the mesh sees from somewhere."""
    scene = open3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    centre, radius = mesh.bounds.mean(axis=0), 2 * float(np.linalg.norm(mesh.extents))
    index = np.arange(views) + 0.5
    polar, azimuth = np.arccos(1 - 2 * index / views), np.pi * (1 + 5**0.5) * index
    directions = np.stack(
        [np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1
    )
    seen = np.zeros(len(points), bool)
    for camera in centre + radius * directions:
        ray = points - camera
        rays = np.concatenate([np.broadcast_to(camera, points.shape), ray], axis=1)
        hit = scene.cast_rays(open3d.core.Tensor(rays.astype(np.float32)))["t_hit"].numpy()
        seen |= hit > 0.999
    return seen


def write_voxels(models: Models, path: Path) -> None:
    mesh = trimesh.util.concatenate(models.load(VOXELS))
    points, _ = trimesh.sample.sample_surface(mesh, 400_000, seed=1)
    cell = mesh.extents.max() * 1.0001 / (VOXEL_SIDE - 2)  # so that no point is on the border
    low = mesh.bounds.mean(axis=0) - cell * VOXEL_SIDE / 2
    filled = np.zeros((VOXEL_SIDE,) * 3, bool)
    filled[tuple(np.floor((points - low) / cell).astype(int).T)] = True
    filled = ndimage.binary_fill_holes(filled)
    occupied = np.argwhere(filled).tolist()
    record = {"resolution": VOXEL_SIDE, "occupancy": occupied, "color": []}
    path.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")


def write_bench(models: Models, path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for source, name in BENCH.items():
        mesh = trimesh.util.concatenate(models.load(source))
        mesh = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        mesh.apply_translation(-mesh.bounds.mean(axis=0))
        mesh.apply_scale(1.8 / mesh.extents.max())
        quantised = np.round(mesh.vertices * (32767 / 0.9)).astype(np.int16)
        vertices, inverse = np.unique(quantised, axis=0, return_inverse=True)
        faces = inverse.reshape(-1)[mesh.faces]
        a, b, c = faces.T
        faces = faces[(a != b) & (b != c) & (c != a)]
        arrays[f"{name}_vertices"], arrays[f"{name}_faces"] = vertices, faces.astype(np.uint16)
        print(f"{name:14} {len(vertices):6} vertices {len(faces):6} faces")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


def write_picture(models: Models, path: Path) -> None:
    """As a solid viewport shows the model, from a little above, on nothing."""
    mesh = trimesh.util.concatenate(models.load(PICTURE))
    x, y, z = (mesh.vertices - mesh.bounds.mean(axis=0)).T * (1.8 / mesh.extents.max())
    camera = renders.orbit(azimuth=35, elevation=20, distance=4.5, field_of_view=35)
    seen = renders.render(np.stack([x, z, -y], axis=1), mesh.faces, camera, 2 * PICTURE_SIDE)
    Image.fromarray(renders.shaded(seen, np.random.default_rng(4))).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
