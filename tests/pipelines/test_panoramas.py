"""From a task about a panorama to its result, as the server and the command line run it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backend import pipelines
from backend.bench import analytic_rooms
from backend.bench.panorama import as_inverse, vertex_errors
from backend.depth_meanings import DepthMeaning
from backend.errors import BadInput, Cancelled, InternalError, OutOfMemory
from backend.pipelines import Context, panorama_to_sphere
from backend.protocol import (
    PanoramaResult,
    PanoramaToSphere,
    PanoramaToStereo,
    Progress,
    Report,
    SphereResult,
    StereoResult,
    Task,
    decode_result,
    encode_result,
)

ROOM = analytic_rooms.panorama(analytic_rooms.LIVING_ROOM, 128)


def last(task: Task, context: Context | None = None) -> Any:
    *steps, result = pipelines.run(task, context or Context("cpu"))
    assert all(isinstance(step, Progress) for step in steps)
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    return result


def sphere_task(**fields: Any) -> PanoramaToSphere:
    return PanoramaToSphere(
        **{"name": "Room", "image": ROOM.colors, "depth": ROOM.depth, "width": 128, **fields}
    )


def test_a_panorama_becomes_a_sphere() -> None:
    result = last(sphere_task())
    assert isinstance(result, SphereResult)
    assert result.name == "Room"
    assert [layer.layer for layer in result.layers] == ["front", "backing"]
    assert vertex_errors(result, ROOM.depth).max() < 0.001
    report = result.report
    assert (report["model"], report["device"], report["width"]) == ("depth-sphere", "cpu", 128)
    assert report["vertices"] == sum(len(layer.values) for layer in result.layers)
    assert set(report["seconds"]) == {"Reading the panorama", "Building the sphere"}
    assert isinstance(decode_result(encode_result(result)), SphereResult)


def test_the_usual_width_is_512_at_least() -> None:
    assert last(sphere_task(width=0)).report["width"] == 512


def test_a_panorama_becomes_a_picture_for_each_eye() -> None:
    task = PanoramaToStereo(image=ROOM.colors, depth=ROOM.depth, width=128, interocular=0.3)
    result = last(task)
    assert isinstance(result, StereoResult)
    assert result.left.shape == result.right.shape == ROOM.colors.shape
    assert result.left.dtype == np.uint8
    assert result.report["holes"] == 0
    assert result.report["interocular"] == 0.3
    assert (result.left != result.right).mean() > 0.2
    same = last(PanoramaToStereo(image=ROOM.colors, depth=ROOM.depth, width=128, interocular=0.0))
    np.testing.assert_array_equal(same.left, same.right)


def test_light_is_shown_to_each_eye() -> None:
    light = ((ROOM.colors / np.float32(255)) ** 2.2).astype(np.float32)
    result = last(PanoramaToStereo(image=light, depth=ROOM.depth, width=128))
    plain = last(PanoramaToStereo(image=ROOM.colors, depth=ROOM.depth, width=128))
    assert np.abs(result.left.astype(int) - plain.left).mean() < 3


@pytest.mark.parametrize(
    ("shape", "aspect", "missing"), [((40, 128), "pad", 0.375), ((64, 90), "partial", 0.6)]
)
def test_pictures_that_are_not_all_around_get_sky_around(
    shape: tuple[int, int], aspect: str, missing: float
) -> None:
    rows, columns = shape
    image, depth = ROOM.colors[:rows, :columns], ROOM.depth[:rows, :columns]
    inverse, meaning = as_inverse(depth, 16)
    for given, said in ((depth, DepthMeaning()), (inverse, meaning)):
        task = sphere_task(
            image=image, depth=given, meaning=said, aspect=aspect, field_of_view=200.0
        )
        result = last(task)
        assert result.layer("sky") is not None
        assert result.report["missing"] == pytest.approx(missing, abs=0.1)
        assert abs(np.median(result.layers[0].values) - np.median(_values(given))) < 0.2


def _values(depth: np.ndarray) -> np.ndarray:
    return depth / 65535 if depth.dtype == np.uint16 else depth


def test_what_an_artist_should_know_is_in_the_report() -> None:
    coarse, meaning = as_inverse(analytic_rooms.panorama(analytic_rooms.LIVING_ROOM, 256).depth, 8)
    result = last(sphere_task(depth=coarse, meaning=meaning))
    assert any("terraces" in note for note in result.report["notes"])


# ------------------------------------------------------------------------------ depth from a model


def told_depth(task: Task, context: Context) -> Iterator[Any]:
    yield Progress("Looking at the views", 0.5)
    inverse, meaning = as_inverse(ROOM.depth)
    report = {"model": "eyes", "notes": ["A note."], "device": "cpu"}
    yield PanoramaResult(image=task.image, depth=inverse, meaning=meaning, report=report)


def no_depth(task: Task, context: Context) -> Iterator[Any]:
    yield Report()


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pipelines.Model("eyes", "Eyes", "", ("panorama-to-depth",), False, "panorama-depth")
    monkeypatch.setattr(pipelines, "BUILT_IN", (*pipelines.BUILT_IN, model))
    monkeypatch.setattr(
        pipelines,
        "_imported",
        lambda entry, real=pipelines._imported: told_depth if "to_depth" in entry else real(entry),
    )


@pytest.mark.usefixtures("eyes")
def test_a_model_tells_depth_that_is_missing() -> None:
    said = DepthMeaning(scale=2.0, near=3.0, far=4.0)
    result = last(sphere_task(depth=None, depth_model="eyes", meaning=said))
    assert result.meaning.scale == 2.0
    assert result.meaning.near == pytest.approx(float(ROOM.depth.min()))
    assert vertex_errors(result, 2 * ROOM.depth).max() < 0.002
    assert result.report["depth_model"] == "eyes"
    assert result.report["model"] == "depth-sphere"
    assert result.report["notes"] == ["A note."]
    stereo = last(PanoramaToStereo(image=ROOM.colors, depth_model="eyes", width=128))
    assert stereo.report["depth_model"] == "eyes"


@pytest.mark.usefixtures("eyes")
def test_a_model_that_tells_nothing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipelines._imported
    monkeypatch.setattr(
        pipelines, "_imported", lambda entry: no_depth if "to_depth" in entry else real(entry)
    )
    with pytest.raises(InternalError, match="without depth"):
        last(sphere_task(depth=None, depth_model="eyes"))


# ----------------------------------------------------------------------------------------- the ends


def test_a_job_that_is_not_wanted_any_more_ends() -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    with pytest.raises(Cancelled):
        last(sphere_task(), Context("cpu", cancelled))


def test_a_sphere_that_cannot_fit_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panorama_to_sphere.sphere, "BYTES_PER_QUAD", 1 << 40)
    with pytest.raises(OutOfMemory):
        last(sphere_task())


def test_what_is_wrong_with_the_input_is_told() -> None:
    with pytest.raises(BadInput, match="zero everywhere"):
        last(sphere_task(depth=np.zeros((64, 128), np.float32)))
    with pytest.raises(BadInput, match="not of one shape"):
        last(sphere_task(depth=ROOM.depth[:, :100]))
