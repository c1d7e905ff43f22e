"""Tasks and results about pictures with cameras: what comes through, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from backend.errors import BadInput, FieldforgeError, TooLarge
from backend.posed_views import intrinsics_of_field, same_cameras
from backend.protocol import (
    MAX_SCENE_VIEWS,
    MAX_VIEWS,
    POSED_VIEWS,
    ImageToViews,
    Task,
    TextToViews,
    ViewsResult,
    ViewsToScene,
    camera_poses,
    decode_result,
    decode_task,
    encode_result,
    encode_task,
    ring_poses,
)

GIVEN = np.full((1, 24, 32, 4), 90, np.uint8)
RING = ring_poses(5, 20.0, 4.0)
INTRINSICS = intrinsics_of_field(49.1, 32, 24, 5)
STACK = np.repeat(GIVEN, 5, axis=0)
DEPTHS = np.full((5, 24, 32), 3.0, np.float32)


def from_image(**fields: Any) -> ImageToViews:
    return ImageToViews(**{"images": GIVEN, "poses": RING, "intrinsics": INTRINSICS, **fields})


def scene(**fields: Any) -> ViewsToScene:
    return ViewsToScene(**{"images": STACK, "poses": RING, "intrinsics": INTRINSICS, **fields})


def moved(number: int, change: Any) -> np.ndarray:
    poses = RING.copy()
    poses[number] = change(poses[number])
    return poses


# -------------------------------------------------------------------------------------- the wire


def tasks() -> list[Task]:
    return [
        from_image(prompt="a chair", path=True, seed=7, center=(0.5, 0.0, 0.0), extent=1.5),
        ImageToViews(images=GIVEN, views=6, elevation=10.0, radius=3.0, start=30.0, caps=True),
        TextToViews(prompt="a chair", steps=10, guidance=7.5, size=256, field=40.0, preview=True),
        TextToViews(prompt="a chair", poses=RING, intrinsics=INTRINSICS, size=64),
        scene(depths=DEPTHS, resolution=128, texture=False, background="keep"),
        scene(intrinsics=None, field=40.0, extent=2.0, texture_size=1024),
    ]


@pytest.mark.parametrize("task", tasks(), ids=lambda task: type(task).__name__)
def test_a_task_comes_back_as_it_was(task: Task) -> None:
    found = decode_task(encode_task(task))
    assert type(found) is type(task)
    for spec in dataclasses.fields(task):
        before, after = getattr(task, spec.name), getattr(found, spec.name)
        if isinstance(before, np.ndarray):
            assert after.dtype == before.dtype
            np.testing.assert_array_equal(after, before)
        else:
            assert after == before


def test_every_kind_of_views_task_is_tried_here() -> None:
    assert {task.kind for task in tasks()} == set(POSED_VIEWS)


def result(**fields: Any) -> ViewsResult:
    return ViewsResult(
        **{
            "images": STACK[..., :3],
            "poses": RING,
            "intrinsics": INTRINSICS,
            "given": 1,
            "report": {"steps": 10},
            **fields,
        }
    )


@pytest.mark.parametrize(
    "views",
    [
        result(),
        result(images=STACK * 0, depths=DEPTHS),  # a view in which nothing is to be seen
        result(view_kind="depth", cameras=(3, 6, 10, 26, 49), given=0),
    ],
    ids=["plain", "clear", "depth"],
)
def test_views_come_back_with_their_cameras(views: ViewsResult) -> None:
    found = decode_result(encode_result(views))
    assert isinstance(found, ViewsResult)
    for spec in dataclasses.fields(views):
        before, after = getattr(views, spec.name), getattr(found, spec.name)
        np.testing.assert_array_equal(after, before)
        assert type(after) is type(before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"poses": RING[:4]},
        {"poses": RING * np.float32(np.nan)},
        {"intrinsics": INTRINSICS[:4]},
        {"intrinsics": INTRINSICS * 0},
        {"images": STACK[..., 0]},
        {"images": STACK[..., :2]},
        {"images": STACK.astype(np.uint16)},
        {"images": STACK[:, :1]},
        {"depths": DEPTHS[:4]},
        {"given": 6},
        {"given": -1},
        {"view_kind": "normal"},
        {"cameras": (3, 6)},
        {"cameras": (3, 6, 10, 26, 1)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_views_that_do_not_fit_together_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        decode_result(encode_result(result(**wrong)))


def test_no_byte_of_a_task_can_do_harm() -> None:
    body = encode_task(from_image(images=GIVEN[:, :4, :4], center=(0.5, 0.0, 0.0)))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        spoilt = bytearray(body)
        for at in rng.integers(0, len(body), 3):
            spoilt[at] = rng.integers(0, 256)
        try:
            decode_task(bytes(spoilt))
        except FieldforgeError:
            refused += 1
    assert refused > 100


# ----------------------------------------------------------------------------------------- cameras


def test_a_ring_looks_at_the_middle_from_blenders_front_on() -> None:
    poses = ring_poses(4, 30.0, 2.0, caps=True)
    assert poses.dtype == np.float32
    places = poses[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 2.0, rtol=1e-6)
    level, up = 2 * np.cos(np.pi / 6), 1.0
    np.testing.assert_allclose(places[0], [0, -level, up], atol=1e-6)
    np.testing.assert_allclose(places[1], [level, 0, up], atol=1e-6)
    np.testing.assert_allclose(places[2], [0, level, up], atol=1e-6)
    np.testing.assert_allclose(places[4], [0, -1, np.sqrt(3)], atol=1e-6)
    np.testing.assert_allclose(places[5], [0, -1, -np.sqrt(3)], atol=1e-6)
    np.testing.assert_allclose(poses[:, :3, 2], places / 2, atol=1e-6)  # backwards is outwards
    assert (poses[:, 2, 1] > 0).all()  # up in the picture is up in the world
    np.testing.assert_allclose(ring_poses(3, 0, 1, 90)[0], camera_poses([(90, 0)])[0], atol=1e-6)


def test_a_field_of_view_becomes_a_focal_length() -> None:
    fx, fy, cx, cy = intrinsics_of_field(90.0, 64, 32, 2)[1]
    assert fx == fy == pytest.approx(32)
    assert (cx, cy) == (31.5, 15.5)


def test_equal_cameras_are_found() -> None:
    poses = RING.copy()
    poses[3] = poses[1]
    assert same_cameras(poses) == [(1, 3)]
    assert same_cameras(RING) == []
    turned = RING.copy()
    turned[3] = turned[1] @ camera_poses([(90, 0)], "y", 0.0)[0].astype(np.float32)
    assert same_cameras(turned) == []  # at the same place, but looking elsewhere


MIRRORED = moved(2, lambda pose: pose @ np.diag([-1, 1, 1, 1]).astype(np.float32))


@pytest.mark.parametrize("make", [from_image, scene])
@pytest.mark.parametrize(
    ("poses", "said"),
    [
        (MIRRORED, "Camera 3 is mirrored"),
        (moved(1, lambda pose: pose * np.float32(np.nan)), "Camera 2 has values that are not"),
        (moved(4, lambda pose: pose * np.float32(2)), "Camera 5 is no camera's|matrix of camera 5"),
        (moved(0, lambda pose: pose @ np.diag([2, 2, 2, 1]).astype(np.float32)), "scaled"),
        (RING[:, :3], "not a list of 4 x 4"),
        (RING.astype(np.int32), "not a list of 4 x 4"),
        (RING[:0], "no cameras"),
        (np.repeat(RING, 60, axis=0), "300 views are more than"),
    ],
    ids=["mirrored", "nan", "row", "scaled", "3x4", "whole", "none", "many"],
)
def test_cameras_that_are_none_are_told(make: Any, poses: np.ndarray, said: str) -> None:
    with pytest.raises(BadInput, match=said) as told:
        make(poses=poses).validate()
    assert told.value.remedy


def test_a_camera_inside_the_object_is_told() -> None:
    inside = moved(3, lambda pose: np.vstack([np.c_[pose[:3, :3], pose[:3, 3] / 8], pose[3:]]))
    with pytest.raises(BadInput, match="Camera 4 is inside the object"):
        from_image(poses=inside.astype(np.float32)).validate()
    from_image(poses=inside.astype(np.float32), extent=0.5).validate()
    with pytest.raises(BadInput, match="Camera 4 is inside"):
        scene(poses=inside.astype(np.float32), extent=2.0).validate()
    scene(poses=inside.astype(np.float32)).validate()  # how large the thing is, is not known
    with pytest.raises(BadInput, match="inside the object"):
        TextToViews(prompt="a chair", radius=0.8, elevation=0.0).validate()


def test_cameras_that_look_away_are_told_how_files_mean_them() -> None:
    turned = RING @ np.diag([1, -1, -1, 1]).astype(np.float32)
    with pytest.raises(BadInput, match="looks away") as told:
        from_image(poses=turned).validate()
    assert "+z" in told.value.remedy
    with pytest.raises(BadInput, match="looks away"):
        from_image(center=(0.0, 0.0, 50.0)).validate()


def test_equal_cameras_are_refused_where_views_are_made() -> None:
    with pytest.raises(BadInput, match="Cameras 1 and 5 are at one place"):
        from_image(poses=moved(4, lambda pose: RING[0])).validate()
    scene(poses=moved(4, lambda pose: RING[0])).validate()  # two shots from a tripod do no harm


def test_no_scene_comes_from_one_place() -> None:
    with pytest.raises(BadInput, match="same place"):
        scene(poses=np.repeat(RING[:1], 5, axis=0)).validate()
    scene(poses=np.repeat(RING[:1], 5, axis=0), depths=DEPTHS).validate()


@pytest.mark.parametrize("nothing", [0, np.inf, np.nan])
def test_depths_that_are_empty_everywhere_are_none(nothing: float) -> None:
    empty = np.full_like(DEPTHS, nothing)
    scene(depths=empty).validate()
    with pytest.raises(BadInput, match="same place"):
        scene(poses=np.repeat(RING[:1], 5, axis=0), depths=empty).validate()


def test_one_view_makes_a_scene_only_with_depth() -> None:
    one = {"images": GIVEN, "poses": RING[:1], "intrinsics": INTRINSICS[:1]}
    for depths in (None, DEPTHS[:1] * 0):
        with pytest.raises(BadInput, match="One view without depth"):
            scene(**one, depths=depths).validate()
    scene(**one, depths=DEPTHS[:1]).validate()


def test_one_camera_is_enough_for_words_but_not_for_a_picture() -> None:
    TextToViews(prompt="a chair", views=1).validate()
    with pytest.raises(BadInput, match="There is 1 camera and 1 given picture: nothing is left"):
        ImageToViews(images=GIVEN, views=1).validate()
    with pytest.raises(BadInput, match="5 cameras and 5 given pictures"):
        from_image(images=STACK).validate()


def test_several_pictures_need_their_cameras() -> None:
    with pytest.raises(BadInput, match="not from where"):
        ImageToViews(images=STACK[:2], views=8).validate()
    from_image(images=STACK[:2]).validate()


def test_a_scene_without_focal_lengths_is_refused() -> None:
    with pytest.raises(BadInput, match="field of view 0"):
        scene(intrinsics=None).validate()
    with pytest.raises(BadInput, match="4 x 4; expected 5 x 4"):
        scene(intrinsics=INTRINSICS[:4]).validate()
    spoilt = INTRINSICS.copy()
    spoilt[3, 0] = 0
    with pytest.raises(BadInput, match="Camera 4 has no focal length"):
        scene(intrinsics=spoilt).validate()
    with pytest.raises(BadInput, match="no cameras that they belong to"):
        from_image(poses=None).validate()
    with pytest.raises(BadInput, match="not how many pixels"):
        TextToViews(prompt="a chair", poses=RING, intrinsics=INTRINSICS).validate()


def test_as_many_views_as_are_accepted_and_no_more() -> None:
    poses = ring_poses(MAX_VIEWS, 20.0, 4.0)
    TextToViews(prompt="a chair", poses=poses).validate()
    with pytest.raises(TooLarge, match=f"{MAX_VIEWS + 1} views"):
        TextToViews(prompt="a chair", poses=ring_poses(MAX_VIEWS + 1, 20.0, 4.0)).validate()
    with pytest.raises(TooLarge, match=f"{MAX_SCENE_VIEWS + 1} pictures"):
        scene(images=np.broadcast_to(STACK[:1], (MAX_SCENE_VIEWS + 1, 24, 32, 4))).validate()


def test_pictures_need_not_be_square_but_of_one_kind() -> None:
    from_image().validate()
    for wrong in (STACK[0], GIVEN[..., :2], GIVEN.astype(np.float32), GIVEN[:0], GIVEN * 0):
        with pytest.raises(BadInput):
            from_image(images=wrong).validate()


@pytest.mark.parametrize(
    "wrong",
    [
        {"poses": RING[:4]},
        {"images": STACK[:4]},
        {"depths": DEPTHS[:4]},
        {"depths": DEPTHS[:, :20]},
        {"depths": DEPTHS - 5},
        {"resolution": 512},
        {"resolution": 128.0},
        {"texture": 1},
        {"texture_size": 10},
        {"texture_size": 1 << 20},
        {"background": "green"},
        {"extent": -1.0},
        {"extent": "2"},
        {"center": (0.0, 0.0), "extent": 2.0},
        {"field": 190.0},
        {"intrinsics": None, "field": float("nan")},
    ],
    ids=str,
)
def test_scenes_that_cannot_be_made_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        scene(**wrong).validate()


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"views": -1},
        {"views": 500},
        {"views": 4.0},
        {"elevation": 90.0},
        {"elevation": "20"},
        {"radius": -2.0},
        {"radius": float("inf")},
        {"start": 720.0},
        {"caps": 1},
        {"center": [0.0, 0.0]},
        {"center": (0.0, 0.0, float("nan"))},
        {"extent": 0.0},
        {"field": 0.5},
        {"size": 100},
        {"size": 2048},
        {"size": 64.0},
        {"steps": 0},
        {"guidance": -1.0},
        {"path": None},
        {"preview": 1},
    ],
    ids=str,
)
def test_views_that_cannot_be_made_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        TextToViews(**{"prompt": "a chair", **wrong}).validate()
