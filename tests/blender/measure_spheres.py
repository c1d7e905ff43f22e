"""How fast a panorama's sphere gets into Blender, and how fast its controls move it.

`python3 -m backend bench --only spheres` runs this with bpy. Prints one line of JSON: rows.
Each row is a process of its own, so that the memory is that of one import: the bytes that came over
the wire, the mesh, the picture, and Blender itself. Seconds are of the main thread: on the clock,
and of the processor, which other programs do not lengthen.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import conftest
import numpy as np

# (width of the sphere, the naive way?)
MEASURED = ((512, True), (512, False), (1024, False), (2048, False), (4096, False))
MOVES = 12


def main(widths: set[int]) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for width, is_naive in MEASURED:
            if widths and width not in widths:
                continue
            message = Path(folder) / f"{width}.bin"
            if not message.exists():
                _run("write", str(message), str(width))
            rows.append(json.loads(_run("naive" if is_naive else "ours", str(message))))
            if not is_naive:
                message.unlink()
    print(json.dumps(rows))


def _run(*arguments: str) -> str:
    """This script once more, in a process of its own; the last line that it prints."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True
    )
    return (done.stdout.strip().splitlines() or [""])[-1]


def write(path: str, width: str) -> None:
    import spheres
    from fieldforge.backend import protocol

    Path(path).write_bytes(protocol.encode_result(spheres.sphere(int(width))))


class Clock:
    """Seconds since it was made: (on the clock, of the processor)."""

    def __init__(self) -> None:
        self.begun = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        wall, processor = self.begun
        return time.perf_counter() - wall, time.process_time() - processor


def ours(path: str) -> dict:
    import bpy
    from fieldforge.backend import protocol
    from fieldforge.blender_addon.importing import Destination, push_undo
    from fieldforge.blender_addon.panorama import arrival, scene

    body = Path(path).read_bytes()
    before = Clock()
    came = arrival.arrived(protocol.decode_result(body), "Room", {})
    in_thread = before.read()
    clock = Clock()
    front, *_ = scene.add(came, Destination("Room", np.eye(4)))
    push_undo("Room")
    on_main = clock.read()
    faces, peak = came.faces, _peak()
    del body, came
    bpy.context.view_layer.update()
    moves = []
    for step in range(MOVES):
        clock = Clock()
        front.data.fieldforge_sphere.far = 5 + 0.1 * step
        moves.append(clock.read())
        bpy.context.view_layer.update()
    # The first one reads what the mesh has kept.
    moved = [statistics.median(column) for column in zip(*moves[1:], strict=True)]
    return {
        "way": "foreach_set",
        **_row(len(front.data.vertices), faces, on_main, peak),
        "in the thread before, s": round(in_thread[0], 3),
        "a control, ms": round(1000 * moved[0], 1),
        "processor, ms": round(1000 * moved[1], 1),
    }


def naive(path: str) -> dict:
    """Lists, from_pydata, and a loop over the corners for their UV."""
    import bpy
    from fieldforge.backend import protocol

    result = protocol.decode_result(Path(path).read_bytes())
    layer = result.layers[0]
    clock = Clock()
    corners = layer.corners.tolist()
    fours = [corners[i : i + 4] for i in range(0, 4 * layer.quads, 4)]
    threes = [corners[i : i + 3] for i in range(4 * layer.quads, len(corners), 3)]
    places = layer.directions * protocol.sphere_radii(layer, result.meaning)[:, None]
    mesh = bpy.data.meshes.new("Room")
    mesh.from_pydata(places.tolist(), [], fours + threes)
    uvs = mesh.uv_layers.new(name="UVMap")
    for place, value in zip(uvs.data, layer.uv.tolist(), strict=True):
        place.uv = value
    height, width, _ = result.image.shape
    image = bpy.data.images.new("Room", width, height)
    opaque = np.full((height, width, 1), 255, np.uint8)
    image.pixels = (np.concatenate([result.image, opaque], axis=2)[::-1] / 255).ravel().tolist()
    on_main = clock.read()
    return {
        "way": "from_pydata, lists",
        **_row(len(mesh.vertices), len(mesh.polygons), on_main, _peak()),
    }


def _row(vertices: int, faces: int, seconds: tuple[float, float], peak: float) -> dict:
    return {
        "vertices": vertices,
        "faces": faces,
        "main thread, s": round(seconds[0], 3),
        "processor, s": round(seconds[1], 3),
        "peak, MB": round(peak),
    }


def _peak() -> float:
    """Megabytes of this process, at most, until now."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    assert conftest.HAS_BPY, "This needs Blender as a Python module."
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if len(sys.argv) > 2 and sys.argv[1] in {"write", "ours", "naive"}:
        import bpy

        if sys.argv[1] != "write":
            bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
            conftest.load_extension().register()
        outcome = {"write": write, "ours": ours, "naive": naive}[sys.argv[1]](*sys.argv[2:])
        if outcome:
            print(json.dumps(outcome))
    else:
        main({int(word) for word in sys.argv[1:]})
