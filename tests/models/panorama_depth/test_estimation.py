"""A model that tells the true depth, each view with a scale and a shift of chance."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from backend.depth_meanings import radii
from backend.errors import BadInput, Cancelled, TooLarge
from backend.models.panorama_depth import estimation
from backend.models.panorama_depth.estimation import PanoramaDepth
from backend.models.panorama_depth.evaluation import depth_errors, pole_spread, seam_step
from backend.models.panorama_depth.monocular import METRIC
from tests.models.panorama_depth import rooms
from tests.models.panorama_depth.rooms import KnowingModel

WIDTH = 256


def found(model: KnowingModel, image: np.ndarray | None = None, **options: Any) -> PanoramaDepth:
    steps = estimation.estimate(rooms.picture() if image is None else image, model, **options)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: PanoramaDepth = end.value
            return result


def metres(result: PanoramaDepth) -> np.ndarray:
    return radii(result.depth, result.meaning)


def off(result: PanoramaDepth, align: str = "scale") -> tuple[float, float]:
    """Mean and 95th percentile of the error, as shares of the truth."""
    errors = depth_errors(metres(result), rooms.truth(result.depth.shape[1]), align)
    return errors.abs_rel, errors.abs_rel_p95


# ------------------------------------------------------------------------------------------- exact


@pytest.mark.parametrize("views", [20, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_true_depth_comes_back_up_to_one_scale(views: int, seed: int) -> None:
    result = found(KnowingModel(views=views, seed=seed), width=WIDTH, views=views)
    mean, p95 = off(result)
    assert mean < 0.003
    assert p95 < 0.003
    assert result.depth.shape == (WIDTH // 2, WIDTH)
    assert result.depth.dtype == np.float32
    assert (result.depth.min(), result.depth.max()) == (0, 1)
    assert result.meaning.meaning == "inverse"
    assert result.report["views"] == views


def test_an_eye_at_the_usual_height_gets_metres() -> None:
    """The floor of this room is 1.6 m below, which is what is taken where a model tells none."""
    result = found(KnowingModel(), width=WIDTH)
    assert off(result, "none")[0] < 0.02
    assert any("1.6 m" in note for note in result.report["notes"])


def test_the_seam_is_as_good_as_any_column_and_the_poles_are_points() -> None:
    """The model errs differently in every view, so that there is something to see."""
    smooth = np.cos(np.linspace(0, 3, 160))[:, None] * np.cos(np.linspace(0, 4, 160))[None, :]
    chance = np.random.default_rng(5)
    changes = {
        number: functools.partial(np.multiply, 1 + by * smooth)
        for number, by in enumerate(0.04 * chance.standard_normal(20))
    }
    depth = metres(found(KnowingModel(changes=changes), width=WIDTH))
    wrong = depth / rooms.truth(WIDTH)
    assert np.std(wrong) > 0.003
    assert seam_step(wrong) < 1.5
    assert max(pole_spread(depth)) < 0.01
    steps = np.abs(np.diff(np.log(wrong), axis=1))
    assert np.percentile(steps, 95) < 0.005


def test_noise_is_averaged_and_bends_nothing() -> None:
    result = found(KnowingModel(noise=0.05), width=WIDTH)
    mean, p95 = off(result)
    assert mean < 0.03
    assert p95 < 0.08
    blurred = metres(result).reshape(16, 8, 32, 8).mean(axis=(1, 3))
    true = rooms.truth(WIDTH).reshape(16, 8, 32, 8).mean(axis=(1, 3))
    assert np.percentile(np.abs(blurred / true / np.median(blurred / true) - 1), 95) < 0.03


def test_a_model_of_metres_is_taken_at_its_word() -> None:
    result = found(KnowingModel(output=METRIC), width=WIDTH)
    assert result.meaning.meaning == "metric"
    mean, p95 = off(result, "none")
    assert mean < 0.06  # its views are off by up to 10 %, all in the same sense in the worst case
    assert off(result)[1] < 0.02
    exact = found(KnowingModel(output=METRIC, off=0.0), width=WIDTH)
    assert off(exact, "none")[1] < 0.003
    assert exact.report["notes"] == []
    assert p95 > off(exact, "none")[1]


def test_the_model_sees_what_is_in_the_picture() -> None:
    model = KnowingModel(64)
    found(model, width=128)
    assert len(model.pictures) == 20
    for picture, view in zip(model.pictures, rooms.cameras(20), strict=True):
        from_picture = estimation.sample_equirect(rooms.picture(), view.directions(64))
        assert np.abs(picture.astype(float) - from_picture).mean() < 6
        assert picture.shape == (64, 64, 3)
        assert picture.dtype == np.uint8


# ------------------------------------------------------------------------------------------- wrong

CHANCE = np.random.default_rng(0).random((160, 160)).astype(np.float32)
NONSENSE: Mapping[str, Any] = {
    "the model told no numbers": lambda told: np.full_like(told, np.nan),
    "the model told the same depth everywhere": lambda told: np.full_like(told, 0.7),
    "does not fit its neighbours": lambda told: CHANCE,
}


@pytest.mark.parametrize("why", NONSENSE)
def test_a_view_that_tells_nothing_is_left_out_and_named(why: str) -> None:
    result = found(KnowingModel(changes={6: NONSENSE[why]}), width=WIDTH)
    assert off(result)[1] < 0.003
    assert result.report["views"] == 19
    (note,) = [note for note in result.report["notes"] if why in note]
    assert note.startswith("The view 72 degrees to the left, 11 up was left out: ")


def test_bright_for_far_is_found_out() -> None:
    result = found(KnowingModel(changes={14: np.negative}), width=WIDTH)
    assert result.report["views"] == 19
    assert off(result)[1] < 0.003


def test_several_bad_views_and_parts_of_others() -> None:
    holes = {3: lambda told: np.where(CHANCE < 0.1, np.nan, told)}
    bad = dict(zip((0, 9, 17), NONSENSE.values(), strict=True))
    result = found(KnowingModel(changes={**bad, **holes}), width=WIDTH)
    assert result.report["views"] == 17
    assert off(result)[1] < 0.01
    assert np.isfinite(result.depth).all()


def test_where_no_view_is_left_the_map_goes_on_smoothly() -> None:
    """All that see the zenith are gone."""
    gone = dict.fromkeys(range(5), NONSENSE["the model told no numbers"])
    result = found(KnowingModel(changes=gone), width=WIDTH)
    assert any("of the sphere" in note for note in result.report["notes"])
    mean, p95 = off(result)
    assert mean < 0.05
    assert p95 < 0.2
    assert pole_spread(metres(result))[0] < 0.05


@pytest.mark.parametrize("why", ["the model told no numbers", "the same depth everywhere"])
def test_a_model_that_tells_nothing_at_all_is_an_error(why: str) -> None:
    (nothing,) = [change for name, change in NONSENSE.items() if why in name]
    with pytest.raises(BadInput, match=r"nothing of 20 of 20 views") as raised:
        found(KnowingModel(changes=dict.fromkeys(range(20), nothing)))
    assert why in raised.value.cause
    assert "another depth model" in raised.value.remedy


def test_a_shift_below_zero_is_lifted_and_told() -> None:
    """Views that agree on inverse depths of which the farthest are negative, as no distance is."""
    far = float(1 / np.percentile(rooms.truth(WIDTH), 70))
    changes = {}
    for number, view in enumerate(rooms.cameras(20)):
        cosine = view.directions(160) @ view.forward
        told = rooms.inverse_along_axis(view, 160) - far / cosine
        changes[number] = lambda _, told=told: told.astype(np.float32)
    result = found(KnowingModel(changes=changes), width=WIDTH)
    assert any("walls may bend" in note for note in result.report["notes"])
    assert metres(result).min() > 0
    true = 1 / rooms.truth(WIDTH)
    wanted = (true - true.min()) / (true.max() - true.min())
    assert np.percentile(np.abs(result.depth - wanted), 95) < 0.02


def test_views_that_hardly_agree_are_kept_and_that_is_told() -> None:
    result = found(KnowingModel(64, noise=0.6), width=128)
    assert result.report["views"] == 20
    assert any("expect bends and bumps" in note for note in result.report["notes"])
    assert np.isfinite(metres(result)).all()


def test_a_model_whose_answer_is_no_picture() -> None:
    with pytest.raises(BadInput, match=r"no picture"):
        found(KnowingModel(changes={0: lambda told: told.ravel()}))


# ------------------------------------------------------------------------------------------ inputs


def test_part_of_a_panorama_has_depth_in_that_part_alone() -> None:
    known = np.zeros((256, 512), bool)
    known[64:192, 128:384] = True  # a half around, a half up and down
    model = KnowingModel()
    asked: list[int] = []

    class Skipping(KnowingModel):
        """Views that show nothing of it are not asked for, so count along with those that do."""

        def __call__(self, picture: np.ndarray) -> np.ndarray:
            while not estimation._shows(rooms.cameras(20)[self.asked], estimation._reduced(known)):
                self.asked += 1
            asked.append(self.asked)
            return super().__call__(picture)

    model = Skipping()
    result = found(model, width=WIDTH, known=known)
    assert 4 < len(asked) < 20
    inside = np.zeros((128, 256), bool)
    inside[32:96, 64:192] = True
    assert np.array_equal(np.isfinite(result.depth), inside)
    errors = depth_errors(metres(result), rooms.truth(WIDTH), "scale")
    assert errors.abs_rel_p95 < 0.01


def test_light_beyond_white_and_transparency_are_shown_as_they_should() -> None:
    from backend.models.panorama_depth.pictures import shown

    srgb = rooms.picture()
    values = srgb / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    assert np.abs(shown(linear.astype(np.float32)).astype(int) - srgb).max() <= 1
    lamp = 3 * linear.astype(np.float32)
    lamp[10, 10] = 50_000
    lamp[11, 11] = np.inf
    lamp[12, 12] = np.nan
    assert 60 < np.median(shown(lamp)) < 250
    alpha = np.dstack([srgb, np.zeros_like(srgb[..., 0])])
    assert np.array_equal(shown(alpha), srgb)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((300, 500, 3), np.uint8), BadInput, "500 x 300 pixels, so it does not show"),
        (np.full((128, 256, 3), 90, np.uint8), BadInput, "the same colour everywhere"),
        (np.full((128, 256, 3), 0.5, np.float32), BadInput, "the same colour everywhere"),
        (np.zeros((32, 64, 3), np.uint8), BadInput, "only 64 x 32 pixels"),
        (np.broadcast_to(np.uint8(3), (9000, 18000, 3)), TooLarge, "18,000 x 9,000 pixels"),
        (np.zeros((128, 256), np.uint8), BadInput, "not a colour picture"),
        (np.zeros((128, 256, 3), np.uint16), BadInput, "uint16"),
    ],
)
def test_pictures_that_tell_no_depth(image: np.ndarray, error: type[BadInput], words: str) -> None:
    model = KnowingModel(64)
    with pytest.raises(error, match=words) as raised:
        found(model, image)
    assert raised.value.remedy
    assert model.asked == 0


@pytest.mark.parametrize("width", [100, 4096, 256.0])
def test_sizes_that_are_not_made(width: Any) -> None:
    with pytest.raises(BadInput, match="cannot be made"):
        found(KnowingModel(32), width=width)


def test_progress_is_told_for_each_view_and_what_it_raises_ends_the_work() -> None:
    told: list[tuple[str, float]] = []
    depth, meaning = estimation.depth_of(
        rooms.picture(), KnowingModel(48), lambda *news: told.append(news), width=128
    )
    assert depth.shape == (64, 128)
    assert meaning.meaning == "inverse"
    assert sum("of 20" in stage for stage, _ in told) == 20
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] < 1

    def cancel(stage: str, fraction: float) -> None:
        if "5 of 20" in stage:
            raise Cancelled("The job was cancelled.")

    model = KnowingModel(48)
    with pytest.raises(Cancelled):
        estimation.depth_of(rooms.picture(), model, cancel)
    assert model.asked == 4
