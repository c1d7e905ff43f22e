"""Views with cameras to a mesh: what comes out, what is told, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from backend import __main__, pipelines, posed_images
from backend.bench import known_things
from backend.bench.known_things import Shown
from backend.errors import BadInput
from backend.geometry import mesh_files
from backend.models.panorama_depth import monocular
from backend.pipelines import Context, surface_colors, view_depths, views_to_scene
from backend.protocol import MeshResult, ViewsToScene, decode_result, encode_result

THING = "torus, box and ball"
SIZE = 96


@functools.cache
def shown(kind: str = "around") -> Shown:
    poses = {
        "around": lambda: known_things.all_around(10),
        "ring": lambda: known_things.ring(6, 10),
    }[kind]()
    return known_things.show(THING, poses, SIZE)


def task_of(views: Shown, **fields: Any) -> ViewsToScene:
    given: dict[str, Any] = {
        "images": views.images,
        "depths": views.depths,
        "poses": views.poses,
        "intrinsics": views.intrinsics,
        "resolution": 128,
        "texture": False,
        "model": "view-fusion",
    }
    return ViewsToScene(**{**given, **fields})


def made(task: ViewsToScene) -> MeshResult:
    *_, result = pipelines.run(task, Context(device="cpu"))
    assert isinstance(result, MeshResult)
    return result


def iou(result: MeshResult) -> float:
    return known_things.iou(THING, result.vertices, result.faces, 64)


def warned(result: MeshResult, words: str) -> bool:
    return any(words in warning for warning in result.report["warnings"])


def is_closed(faces: np.ndarray) -> bool:
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    forth = {(int(a), int(b)) for a, b in ends}
    return len(forth) == len(ends) and all((b, a) in forth for a, b in forth)


# ------------------------------------------------------------------------------- what comes out


def test_a_whole_job() -> None:
    result = made(task_of(shown(), texture=True, texture_size=512))
    assert iou(result) > 0.95
    assert is_closed(result.faces)
    truth = known_things.colors(result.vertices)
    assert np.abs(result.colors[:, :3] - truth).mean() < 2
    assert result.texture.shape == (512, 512, 3)
    assert result.uv.shape == (3 * len(result.faces), 2)
    report = result.report
    assert (report["views"], report["views_used"], report["depth"]) == (10, 10, "given")
    assert report["coverage"] > 0.97
    assert report["outlines"] > 0.97
    assert report["warnings"] == []
    assert report["resolution"] == 128
    assert report["texture_size"] == 512
    again = decode_result(encode_result(result))
    assert isinstance(again, MeshResult)
    assert (again.texture == result.texture).all()
    assert (again.uv == result.uv).all()


def test_outlines_alone_make_less_and_say_so() -> None:
    result = made(task_of(shown(), depths=None))
    assert 0.7 < iou(result) < 0.95
    assert is_closed(result.faces)
    assert warned(result, "outlines alone")
    assert result.report["depth"] == "none"


def outline(size: int) -> np.ndarray:
    """(64, 64) bool: a square in the middle."""
    found = np.zeros((64, 64), bool)
    found[32 - size : 32 + size, 32 - size : 32 + size] = True
    return found


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([12, 13, 11, 12], ""),  # a pixel is nothing
        ([12, 12, 12, 15], "View 4 does not fit the others well"),
        ([14, 9, 15, 12], "differ from one another"),  # no camera is to blame
    ],
)
def test_outlines_that_do_not_fit_are_told(sizes: list[int], told: str) -> None:
    opacity = np.stack([outline(size) for size in sizes]) * 1.0
    by = SimpleNamespace(depth=np.where(outline(12), 3.0, np.inf)[None].repeat(4, 0))
    exact = surface_colors.outlines_agree(by, opacity)
    assert exact[1] == pytest.approx(min(12, sizes[1]) ** 2 / max(12, sizes[1]) ** 2)
    warnings: list[str] = []
    fits = surface_colors.outlines_agree(by, opacity, slack=1)
    views_to_scene._tell_misfits(fits, np.arange(4), warnings)
    assert len(warnings) == bool(told)
    assert told in "".join(warnings)


def test_the_frame_of_the_world_is_kept() -> None:
    views = shown()
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    poses = views.poses.astype(np.float64).copy()
    poses[:, :3, :3] = turn @ poses[:, :3, :3]
    poses[:, :3, 3] = 10 * poses[:, :3, 3] @ turn.T + [100, -50, 7]
    moved = made(task_of(views, poses=poses.astype(np.float32), depths=10 * views.depths))
    back = (moved.vertices.astype(np.float64) - [100, -50, 7]) @ turn / 10
    assert known_things.iou(THING, back, moved.faces, 64) > 0.95
    cube = (moved.vertices - moved.to_source[:3, 3]) @ np.linalg.inv(moved.to_source[:3, :3]).T
    assert np.abs(cube).max() <= 1


@pytest.mark.parametrize("thing", known_things.THINGS)
def test_twenty_exact_views_give_the_thing_and_its_colours(thing: str) -> None:
    """Of 256 pixels, all around with top and bottom, so that all of a cup's inside is seen."""
    caps = [known_things.looking_at_origin(0, elevation)[None] for elevation in (89, -89)]
    poses = np.concatenate([known_things.all_around(18), *caps])
    result = made(task_of(known_things.show(thing, poses, 256)))
    assert is_closed(result.faces)
    assert known_things.iou(thing, result.vertices, result.faces) > 0.95
    assert np.abs(result.colors[:, :3] - known_things.colors(result.vertices)).mean() < 2


def test_twenty_exact_views_as_nobody_says_otherwise() -> None:
    """As fine as they are made then, and with a texture."""
    caps = [known_things.looking_at_origin(0, elevation)[None] for elevation in (89, -89)]
    poses = np.concatenate([known_things.all_around(18), *caps])
    views = known_things.show("stool", poses, 256)
    result = made(task_of(views, resolution=0, texture=True, texture_size=1024))
    assert result.report["resolution"] == 256
    assert is_closed(result.faces)
    assert known_things.iou("stool", result.vertices, result.faces) > 0.99
    assert np.abs(result.colors[:, :3] - known_things.colors(result.vertices)).mean() < 1
    corners = result.uv.reshape(-1, 3, 2).astype(np.float64).mean(axis=1)
    at = np.stack([1024 * (1 - corners[:, 1]) - 0.5, 1024 * corners[:, 0] - 0.5])
    baked = np.stack(
        [
            ndimage.map_coordinates(result.texture[..., k].astype(float), at, order=1)
            for k in range(3)
        ],
        axis=1,
    )
    middles = result.vertices[result.faces].mean(axis=1)
    assert np.abs(baked - known_things.colors(middles)).mean() < 1


def test_field_of_view_instead_of_intrinsics() -> None:
    assert iou(made(task_of(shown(), intrinsics=None, field=40.0))) > 0.95


def test_resolution_by_the_size_of_the_pictures() -> None:
    assert made(task_of(shown(), resolution=0)).report["resolution"] == 128


def test_a_plain_ground_is_cut_out() -> None:
    views = shown()
    share = views.images[..., 3:] / 255.0
    plain = np.rint(views.images[..., :3] * share + 235 * (1 - share)).astype(np.uint8)
    result = made(task_of(views, images=plain, depths=None))
    assert iou(result) > 0.7
    truth = known_things.colors(result.vertices)
    assert np.median(np.abs(result.colors[:, :3] - truth)) < 6


def test_scales_that_differ_are_made_even() -> None:
    views = shown()
    factors = 1 + np.random.default_rng(1).normal(0, 0.02, len(views.depths))
    off = (views.depths * factors[:, None, None]).astype(np.float32)
    result = made(task_of(views, depths=off))
    assert iou(result) > 0.93
    assert warned(result, "differ in scale")


def test_a_model_of_relative_depth_is_laid_into_the_outlines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views = shown()
    rng = np.random.default_rng(5)
    told = iter(
        np.where(np.isfinite(depth), 1 / depth, 0) * rng.uniform(3, 9) + rng.uniform(0, 1)
        for depth in views.depths
    )
    monkeypatch.setattr(view_depths, "_told", lambda image, model: next(told).astype(np.float32))
    _use_a_model(monkeypatch)
    result = made(task_of(views, depths=None))
    assert result.report["depth"] == "stand-in"
    assert iou(result) > 0.93


def test_a_model_that_tells_nonsense_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    views = shown()
    rng = np.random.default_rng(6)

    def nonsense(image: np.ndarray, model: object) -> np.ndarray:
        return (2 + 30 * ndimage.gaussian_filter(rng.normal(size=image.shape[:2]), 6)).astype("f4")

    monkeypatch.setattr(view_depths, "_told", nonsense)
    _use_a_model(monkeypatch)
    result = made(task_of(views, depths=None))
    assert warned(result, "does not fit together")
    assert result.report["depth"] == "none"
    assert iou(result) > 0.7


def _use_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass
    class Named:
        id: str = "stand-in"

    @dataclasses.dataclass
    class Model:
        output: str = monocular.RELATIVE
        side: int = SIZE

    monkeypatch.setattr(views_to_scene, "depth_model", Named)
    monkeypatch.setattr(view_depths, "load", lambda installed, device: Model())


def test_the_square_a_model_sees_comes_back_to_its_place() -> None:
    image = np.zeros((60, 90, 4), np.uint8)
    image[20:50, 50:85] = 255
    image[20:50, 50:85, 0] = np.arange(35) * 7

    class Red:
        side = 128
        output = monocular.RELATIVE

        def __call__(self, picture: np.ndarray) -> np.ndarray:
            assert picture.shape == (128, 128, 3)
            return picture[..., 0].astype(np.float32)

    told = view_depths._told(image, Red())
    inner = (slice(24, 46), slice(54, 81))
    assert np.abs(told[inner] - image[inner][..., 0]).max() < 3
    assert np.isnan(told[:, 0]).all()


# --------------------------------------------------------------------------------- what is told


def test_a_ring_leaves_the_bottom_unseen() -> None:
    result = made(task_of(known_things_ring(30)))
    assert warned(result, "No view shows the bottom")
    assert not warned(result, "the top")
    assert result.report["coverage"] < 0.95


@functools.cache
def known_things_ring(elevation: float) -> Shown:
    return known_things.show(THING, known_things.ring(6, elevation), SIZE)


def test_one_view_with_depth_makes_the_other_side_up() -> None:
    views = shown()
    one = Shown(*(getattr(views, f.name)[:1] for f in dataclasses.fields(views)))
    result = made(task_of(one))
    assert is_closed(result.faces)
    assert warned(result, "one view only")


def test_the_same_camera_twice_is_told_and_used_once() -> None:
    views = shown()
    again = Shown(
        *(
            np.concatenate([getattr(views, f.name), getattr(views, f.name)[:1]])
            for f in dataclasses.fields(views)
        )
    )
    result = made(task_of(again))
    assert warned(result, "Cameras 1 and 11 are the same")
    assert result.report["views_used"] == 10


def test_an_empty_view_is_left_out() -> None:
    views = shown()
    images, depths = views.images.copy(), views.depths.copy()
    images[3], depths[3] = 0, np.inf
    result = made(task_of(views, images=images, depths=depths))
    assert warned(result, "View 4 shows nothing")
    assert iou(result) > 0.93


@pytest.mark.parametrize("nothing", [0, np.inf, np.nan, 1e10])
@pytest.mark.parametrize("alpha", [True, False])
def test_depth_that_is_empty_in_every_view_is_no_depth(alpha: bool, nothing: float) -> None:
    views = shown()
    images = views.images
    if not alpha:
        images = np.where(images[..., 3:] > 0, images[..., :3], np.uint8(240))
    empty = np.full_like(views.depths, nothing)
    result = made(task_of(views, images=images, depths=empty))
    assert result.report["depth"] == "none"
    assert result.report["views_used"] == 10
    assert warned(result, "empty everywhere")
    without = made(task_of(views, images=images, depths=None))
    np.testing.assert_array_equal(result.vertices, without.vertices)


def test_a_view_with_a_wrong_outline_is_left_out() -> None:
    views = shown()
    images, depths = views.images.copy(), views.depths.copy()
    images[2, :, : SIZE // 2, 3] = 0
    depths[2, :, : SIZE // 2] = np.inf
    result = made(task_of(views, images=images, depths=depths))
    assert warned(result, "View 3 has an outline that takes away")
    assert iou(result) > 0.93


# ---------------------------------------------------------------------------------- what is refused


def test_empty_pictures() -> None:
    views = shown()
    with pytest.raises(BadInput, match="empty"):
        made(task_of(views, images=np.zeros_like(views.images)))


def test_pictures_without_a_plain_ground() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*shown().images.shape[:3], 3), np.uint8)
    with pytest.raises(BadInput, match="cannot be told from what is behind"):
        made(task_of(shown(), images=noise, depths=None))


def test_cameras_that_belong_to_other_pictures() -> None:
    views = shown()
    poses = views.poses.copy()
    poses[:, :3, 3] += np.arange(len(poses))[:, None] * np.float32(4)
    with pytest.raises(BadInput, match="nothing in common"):
        made(task_of(views, poses=poses))


def test_a_camera_inside_of_the_object() -> None:
    views = shown()
    images, depths, poses = views.images.copy(), views.depths.copy(), views.poses.copy()
    poses[5] = np.eye(4)
    images[5], depths[5] = 255, 0.2
    with pytest.raises(BadInput, match="Camera 6 is inside"):
        made(task_of(views, images=images, depths=depths, poses=poses))


def test_cancelling_stops_between_stages() -> None:
    from backend.errors import Cancelled

    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        list(pipelines.run(task_of(shown()), Context("cpu", lambda: next(asked))))


def test_the_command_line_writes_the_mesh_and_tells_what_was_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = known_things_ring(30)
    names = tuple(f"view-{k}" for k in range(len(views.poses)))
    depths = np.where(np.isfinite(views.depths), views.depths, 0)
    posed = posed_images.PosedImages(views.images, views.poses, views.intrinsics, names, depths)
    posed_images.write_transforms(tmp_path / "views", posed)
    output = tmp_path / "thing.obj"
    command = ["run", "views-to-scene", str(tmp_path / "views"), "-o", str(output)]
    assert __main__.main([*command, "--resolution", "128", "--texture-size", "256"]) == 0
    assert "No view shows the bottom" in capsys.readouterr().err
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"views", "thing.obj", "thing.mtl", "thing-texture.png"}
    mesh = mesh_files.read_mesh(output)
    assert known_things.iou(THING, mesh.points, mesh.faces, 64) > 0.6


def test_blenders_depth_of_nothing_is_nothing() -> None:
    """1e10, as its depth pass has it, on pictures without alpha."""
    views = shown()
    empty = ~np.isfinite(views.depths)
    assert empty.any()
    opaque = np.ascontiguousarray(views.images[..., :3])
    given = made(task_of(views, images=opaque))
    result = made(
        task_of(views, images=opaque, depths=np.where(empty, np.float32(1e10), views.depths))
    )
    np.testing.assert_array_equal(result.vertices, given.vertices)
    assert iou(result) > 0.95


def test_one_job_makes_the_same_bytes_again() -> None:
    task = task_of(shown(), texture=True, texture_size=256)
    first, second = made(task), made(task)
    for name in ("vertices", "faces", "colors", "uv", "texture"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes(), name


def test_depth_models_are_imported_where_they_are_asked() -> None:
    """They bring torch, which takes seconds: nothing would be told in the meantime."""
    code = "import sys, backend.pipelines.views_to_scene; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
