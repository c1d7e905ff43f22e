"""Tasks and results about panoramas: what comes through the wire, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend import workers
from backend.depth_meanings import values_of
from backend.errors import BadInput, FieldforgeError, TooLarge
from backend.protocol import (
    DEPTH_MEANINGS,
    PANORAMAS,
    DepthMeaning,
    PanoramaResult,
    PanoramaToDepth,
    PanoramaToSphere,
    PanoramaToStereo,
    Progress,
    SphereLayer,
    SphereResult,
    StereoResult,
    Task,
    TextToPanorama,
    decode_result,
    decode_task,
    encode_result,
    encode_task,
    radii,
    sphere_radii,
)

PICTURE = np.full((32, 64, 3), 90, np.uint8)
DEPTH = np.linspace(1, 5, 32 * 64, dtype=np.float32).reshape(32, 64)
INVERSE = DepthMeaning(meaning="inverse", near=1.25, far=5.5, scale=2.0, offset=0.5)


def sphere_task(**fields: Any) -> PanoramaToSphere:
    return PanoramaToSphere(**{"image": PICTURE, "depth": DEPTH, **fields})


def one_quad(**fields: Any) -> SphereLayer:
    """A square before the eye and a triangle beside it."""
    directions = np.array([[1, 1, 1], [1, -1, 1], [1, -1, -1], [1, 1, -1], [0, 0, 1]], np.float32)
    return SphereLayer(
        **{
            "directions": directions / np.linalg.norm(directions, axis=1, keepdims=True),
            "values": np.arange(1, 6, dtype=np.float32),
            "corners": np.array([0, 3, 2, 1, 0, 1, 4], np.int32),
            "quads": 1,
            "edges": np.array([[0, 3], [3, 2], [2, 1], [1, 0], [1, 4], [4, 0]], np.int32),
            "corner_edges": np.array([0, 1, 2, 3, 3, 4, 5], np.int32),
            "uv": np.zeros((7, 2), np.float32),
            **fields,
        }
    )


# ---------------------------------------------------------------------------- what values mean


def test_metric_values_are_metres() -> None:
    np.testing.assert_array_equal(radii(DEPTH, DepthMeaning()), DEPTH)
    np.testing.assert_allclose(radii(DEPTH, DepthMeaning(inverted=True)), 1 / DEPTH, rtol=1e-6)


def test_inverse_depth_runs_from_far_to_near_by_its_reciprocal() -> None:
    meaning = DepthMeaning(meaning="inverse", near=2.0, far=8.0)
    found = radii(np.array([0, 0.5, 1], np.float32), meaning)
    np.testing.assert_allclose(found, [8, 1 / (0.5 / 8 + 0.5 / 2), 2], rtol=1e-6)
    turned = radii(np.array([1, 0.5, 0], np.float32), dataclasses.replace(meaning, inverted=True))
    np.testing.assert_allclose(turned, found, rtol=1e-6)


def test_the_rule_of_the_paper_moves_one_nearer_and_zero_away() -> None:
    meaning = DepthMeaning(meaning="paper", radius=5.0, strength=0.8)
    found = radii(np.array([0, 0.5, 1], np.float32), meaning)
    np.testing.assert_allclose(found, [7, 5, 3], rtol=1e-6)
    turned = radii(np.array([0, 0.5, 1], np.float32), dataclasses.replace(meaning, inverted=True))
    np.testing.assert_allclose(turned, [3, 5, 7], rtol=1e-6)


@pytest.mark.parametrize("meaning", DEPTH_MEANINGS)
@pytest.mark.parametrize("inverted", [False, True])
def test_scale_and_offset_come_last(meaning: str, inverted: bool) -> None:
    plain = DepthMeaning(meaning=meaning, inverted=inverted)
    moved = dataclasses.replace(plain, scale=2.0, offset=-0.25)
    values = np.linspace(0.3, 0.9, 50, dtype=np.float32)
    np.testing.assert_allclose(radii(values, moved), 2 * radii(values, plain) - 0.25, rtol=1e-5)
    np.testing.assert_allclose(values_of(radii(values, moved), moved), values, atol=2e-6)


@pytest.mark.parametrize("meaning", DEPTH_MEANINGS)
def test_no_value_makes_a_vertex_that_is_nowhere(meaning: str) -> None:
    wild = np.array([0, 1, -1e30, 1e30, 1e-30, -5, 7], np.float32)
    for inverted in (False, True):
        found = radii(wild, DepthMeaning(meaning=meaning, inverted=inverted, offset=-3.0))
        assert np.isfinite(found).all()
        assert found.min() > 0


def test_radii_are_written_in_place() -> None:
    values = DEPTH / 5
    expected = radii(values, INVERSE)
    assert radii(values, INVERSE, values) is values
    np.testing.assert_array_equal(values, expected)


def test_a_meaning_without_strength_has_no_way_back() -> None:
    with pytest.raises(BadInput, match="no effect"):
        values_of(DEPTH, DepthMeaning(meaning="paper", strength=0.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"meaning": "disparity"},
        {"meaning": None},
        {"inverted": 1},
        {"near": 0.0},
        {"near": 10.0, "far": 10.0},
        {"near": float("nan")},
        {"far": float("inf")},
        {"far": "7"},
        {"radius": -1.0},
        {"strength": 1e9},
        {"scale": 0.0},
        {"offset": float("nan")},
        {"scale": True},
    ],
    ids=str,
)
def test_meanings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        DepthMeaning.from_dict(wrong)
    with pytest.raises(BadInput):
        sphere_task(meaning=DepthMeaning(**wrong)).validate()


@pytest.mark.parametrize("record", [None, 5, [], {"nearest": 1.0}, {"meaning": ["metric"]}])
def test_records_that_are_no_meaning_are_refused(record: Any) -> None:
    with pytest.raises(BadInput):
        DepthMeaning.from_dict(record)


# -------------------------------------------------------------------------------------- the wire


def tasks() -> list[Task]:
    return [
        sphere_task(meaning=INVERSE, width=512, edges="sheet", name="Room"),
        sphere_task(depth=(DEPTH * 1000).astype(np.uint16), aspect="pad"),
        sphere_task(depth=None, depth_model="depth-anything-v2-small"),
        PanoramaToStereo(image=PICTURE, depth=DEPTH, interocular=0.1),
        PanoramaToDepth(image=PICTURE.astype(np.float32), field_of_view=120.0, aspect="partial"),
        TextToPanorama(prompt="a room", negative="people", steps=5, width=512, preview=True),
        TextToPanorama(prompt="a room", meaning=INVERSE, sphere=False),
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


def test_every_kind_of_panorama_task_is_tried_here() -> None:
    assert {task.kind for task in tasks()} == set(PANORAMAS)


def test_a_sphere_comes_back_with_all_its_layers() -> None:
    own = np.zeros((8, 16, 3), np.uint8)
    sphere = SphereResult(
        name="Room",
        layers=(one_quad(), one_quad(layer="backing", image=own), one_quad(layer="sky")),
        image=PICTURE,
        meaning=INVERSE,
        report={"holes": 0},
    )
    found = decode_result(encode_result(sphere))
    assert isinstance(found, SphereResult)
    assert (found.name, found.meaning, found.report) == ("Room", INVERSE, {"holes": 0})
    np.testing.assert_array_equal(found.image, PICTURE)
    assert [layer.layer for layer in found.layers] == ["front", "backing", "sky"]
    for before, after in zip(sphere.layers, found.layers, strict=True):
        assert (after.quads, after.triangles) == (1, 1)
        for name in ("directions", "values", "corners", "edges", "corner_edges", "uv"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert [layer.image is None for layer in found.layers] == [True, False, True]
    assert found.layer("sky") is found.layers[2]
    assert SphereResult().layer("front") is None


def test_no_meaning_moves_the_sky() -> None:
    sky, front = one_quad(layer="sky"), one_quad()
    np.testing.assert_array_equal(sphere_radii(sky, INVERSE), sky.values)
    np.testing.assert_array_equal(sphere_radii(front, INVERSE), radii(front.values, INVERSE))


@pytest.mark.parametrize(
    "result",
    [
        PanoramaResult(image=PICTURE, depth=DEPTH, meaning=INVERSE),
        PanoramaResult(image=PICTURE),
        StereoResult(left=PICTURE, right=PICTURE[::-1].copy()),
    ],
    ids=["panorama", "forming", "stereo"],
)
def test_pictures_come_back_as_they_were(result: Any) -> None:
    found = decode_result(encode_result(result))
    assert type(found) is type(result)
    for spec in dataclasses.fields(result):
        np.testing.assert_array_equal(getattr(found, spec.name), getattr(result, spec.name))


@pytest.mark.parametrize(
    "wrong",
    [
        {"layer": "middle"},
        {"values": np.zeros(4, np.float32)},
        {"values": np.array([1, 2, np.nan, 4, 5], np.float32)},
        {"values": np.zeros(5, np.float64)},
        {"directions": np.zeros((5, 2), np.float32)},
        {"corners": np.array([0, 3, 2, 9, 0, 1, 4], np.int32)},
        {"corners": np.array([0, 3, 2, -1, 0, 1, 4], np.int32)},
        {"corner_edges": np.array([0, 1, 2, 3, 3, 4, 6], np.int32)},
        {"corner_edges": np.zeros(6, np.int32)},
        {"quads": 2},
        {"quads": 0},
        {"quads": -1},
        {"quads": 1.0},
        {"uv": np.zeros((7, 3), np.float32)},
        {"edges": np.zeros((6, 2), np.int64)},
        {"image": np.zeros((8, 16), np.uint8)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_sphere_that_does_not_fit_together_is_refused(wrong: dict[str, Any]) -> None:
    body = encode_result(SphereResult(layers=(one_quad(**wrong),), image=PICTURE))
    with pytest.raises(BadInput):
        decode_result(body)


def test_no_byte_of_a_sphere_can_do_harm() -> None:
    body = encode_result(SphereResult(layers=(one_quad(),), image=PICTURE[:8, :16]))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        spoilt = bytearray(body)
        for at in rng.integers(0, len(body) - PICTURE[:8, :16].size, 3):
            spoilt[at] = rng.integers(0, 256)
        try:
            decode_result(bytes(spoilt))
        except FieldforgeError:
            refused += 1
    assert refused > 100


def test_a_picture_of_what_forms_is_no_part_of_the_record() -> None:
    step = Progress("Sampling", 0.25, picture=PICTURE)
    assert step.to_dict() == {"stage": "Sampling", "fraction": 0.25}


def test_what_forms_goes_out_as_a_panorama_without_depth() -> None:
    shown = workers._forming(Progress("Sampling", 0.25, picture=PICTURE))
    assert isinstance(shown, PanoramaResult)
    assert shown.depth is None
    np.testing.assert_array_equal(shown.image, PICTURE)
    assert workers._forming(Progress("Sampling", 0.25)) is None


def test_a_result_counts_with_all_its_layers(tmp_path: Path) -> None:
    sphere = SphereResult(layers=(one_quad(), one_quad(layer="sky")), image=PICTURE)
    size = len(encode_result(sphere))
    workers._write_result(sphere, tmp_path / "fits", size)
    assert (tmp_path / "fits").stat().st_size == size
    with pytest.raises(TooLarge):
        workers._write_result(sphere, tmp_path / "not", PICTURE.nbytes + 100)


# ------------------------------------------------------------------------------- what is refused


def test_depth_of_another_shape_than_the_picture_is_refused() -> None:
    sphere_task(depth=np.ones((256, 512), np.float32)).validate()  # another size is all right
    with pytest.raises(BadInput, match="64 x 32 pixels and the depth 48 x 32"):
        sphere_task(depth=np.ones((32, 48), np.float32)).validate()


@pytest.mark.parametrize("task", [PanoramaToSphere, PanoramaToStereo, PanoramaToDepth])
def test_a_picture_that_is_not_twice_as_wide_is_offered_ways(task: Any) -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    with pytest.raises(BadInput) as told:
        task(image=wide).validate()
    assert '"pad"' in told.value.remedy
    assert '"partial"' in told.value.remedy
    for aspect in ("pad", "partial"):
        task(image=wide, aspect=aspect).validate()
    task(image=np.zeros((1000, 2001, 3), np.uint8)).validate()


def test_depth_without_a_number_is_refused() -> None:
    with pytest.raises(BadInput, match="no number anywhere"):
        sphere_task(depth=np.full((32, 64), np.nan, np.float32)).validate()
    holes = DEPTH.copy()
    holes[:16] = np.nan
    holes[16] = np.inf
    sphere_task(depth=holes).validate()


def test_negative_depth_is_refused_but_no_sky_is_negative() -> None:
    with pytest.raises(BadInput, match="negative in places, down to -3"):
        sphere_task(depth=DEPTH - 4).validate()
    below = DEPTH.copy()
    below[0, 0] = -1e-3
    below[1, 1] = np.nan
    with pytest.raises(BadInput, match="negative"):
        sphere_task(depth=below).validate()


def test_panoramas_up_to_16384_are_taken() -> None:
    pixel = np.zeros((1, 1, 3), np.uint8)
    sphere_task(image=np.broadcast_to(pixel, (8192, 16384, 3))).validate()
    with pytest.raises(TooLarge, match="20,000 x 10,000"):
        sphere_task(image=np.broadcast_to(pixel, (10000, 20000, 3))).validate()


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": np.zeros((32, 64), np.uint8)},
        {"image": np.zeros((32, 64, 2), np.uint8)},
        {"image": np.zeros((32, 64, 3), np.uint16)},
        {"image": np.zeros((2, 4, 3), np.uint8)},
        {"depth": np.zeros((32, 64), np.float64)},
        {"depth": np.zeros((32, 64), np.int32)},
        {"depth": np.zeros((32, 64, 1), np.float32)},
        {"width": 8},
        {"width": 5000},
        {"width": 512.0},
        {"edges": "both"},
        {"aspect": "crop"},
        {"field_of_view": 400.0},
        {"field_of_view": float("nan")},
        {"depth_model": None},
        {"meaning": "metric"},
    ],
    ids=str,
)
def test_spheres_that_cannot_be_made_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        sphere_task(**wrong).validate()


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": " "},
        {"negative": "a\0b"},
        {"steps": 0},
        {"guidance": float("nan")},
        {"width": 100},
        {"height": 32},
        {"width": 8192},
        {"preview": 1},
        {"sphere": None},
        {"meaning": DepthMeaning(near=5.0, far=1.0)},
        {"edges": ""},
        {"mesh_width": -1},
    ],
    ids=str,
)
def test_words_for_a_panorama_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        TextToPanorama(**{"prompt": "a room", **wrong}).validate()


def test_eyes_stand_apart_by_metres() -> None:
    for wrong in (-0.1, float("nan"), 65.0, "0.065", None):
        with pytest.raises(BadInput, match="eyes"):
            PanoramaToStereo(image=PICTURE, depth=DEPTH, interocular=wrong).validate()
