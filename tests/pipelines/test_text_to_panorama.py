"""Words to panoramas and surroundings, with small models of chance."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend import pipelines, weights
from backend.depth_meanings import DepthMeaning
from backend.errors import BadInput, Cancelled, InternalError, NotInstalled, OutOfMemory, TooLarge
from backend.models.ldm3d.config import Ldm3dConfig
from backend.models.ldm3d.model import Ldm3d
from backend.pipelines import Context, memory, resident, text_to_panorama
from backend.pipelines.text_to_panorama import Needed, Previewer
from backend.protocol import PanoramaResult, Progress, SphereResult, TextToPanorama, radii
from tests import ldm3d_models

CONTEXT = Context(device="cpu")
MODEL = "small-rooms"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return ldm3d_models.parts_of(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory, parts: dict[str, Path]) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("store")
    ldm3d_models.write(folder, parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDFORGE_WEIGHTS", str(folder))
        patch.setattr(weights, "BUNDLED", tmp_path_factory.mktemp("bundled"))
        patch.delenv("FIELDFORGE_PRECISION", raising=False)
        yield folder
    resident.unload()


def run(context: Context = CONTEXT, **wishes: Any) -> tuple[list[Progress], Any]:
    task = TextToPanorama(
        **{"prompt": "a b c", "model": MODEL, "sphere": False, "seed": 5, **wishes}
    )
    *progress, result = pipelines.run(task, context)
    assert all(isinstance(news, Progress) for news in progress)
    return progress, result


@pytest.fixture(scope="module")
def one(store: Path) -> tuple[list[Progress], PanoramaResult]:
    progress, result = run()
    assert isinstance(result, PanoramaResult)
    return progress, result


def test_words_become_a_picture_with_depth(one: tuple[list[Progress], PanoramaResult]) -> None:
    _, result = one
    assert result.image.shape == (64, 128, 3)
    assert result.image.dtype == np.uint8
    assert result.depth is not None
    assert result.depth.shape == (64, 128)
    assert result.depth.dtype == np.float32
    assert len(np.unique(result.depth)) > 4000  # never through 8 bits
    assert 0 <= result.depth.min() < result.depth.max() <= 1
    assert result.meaning == DepthMeaning(meaning="inverse")
    report = result.report
    assert (report["model"], report["device"], report["precision"]) == (MODEL, "cpu", "float32")
    assert (report["steps"], report["guidance"], report["seed"]) == (3, 4.0, 5)
    assert report["prompt"] == "j a b c"
    assert {"Loading the model", "Painting the panorama"} <= set(report["seconds"])
    assert report["seam"] < 4  # a step at the seam as anywhere else, in a picture of chance


def test_progress_is_told_of_every_step(one: tuple[list[Progress], PanoramaResult]) -> None:
    progress, _ = one
    fractions = [news.fraction for news in progress]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    steps = [news.stage for news in progress if ", step " in news.stage]
    assert [stage.split(", ")[1] for stage in steps] == [f"step {n} of 3" for n in (1, 2, 3)]
    assert all(news.picture is None for news in progress)


def test_the_same_seed_gives_the_same_bytes(one: tuple[list[Progress], PanoramaResult]) -> None:
    again = run()[1]
    other = run(seed=6)[1]
    assert again.image.tobytes() == one[1].image.tobytes()
    assert again.depth.tobytes() == one[1].depth.tobytes()
    assert other.image.tobytes() != one[1].image.tobytes()


@pytest.mark.parametrize(
    "changes", [{"prompt": "c b a"}, {"negative": "d"}, {"guidance": 9.0}, {"steps": 5}]
)
def test_every_wish_counts(one: tuple[list[Progress], PanoramaResult], changes: Any) -> None:
    result = run(**changes)[1]
    assert np.abs(result.depth - one[1].depth).max() > 1e-4
    for name in changes.keys() & {"guidance", "steps"}:
        assert result.report[name] == changes[name]


@pytest.mark.parametrize(
    ("wishes", "size"),
    [
        ({"width": 192, "height": 96}, (192, 96)),
        ({"width": 64, "height": 104}, (64, 104)),
        ({"width": 192}, (192, 96)),
        ({"width": 136}, (144, 72)),
        ({"height": 72}, (144, 72)),
    ],
)
def test_sizes(wishes: Any, size: tuple[int, int]) -> None:
    result = run(steps=1, **wishes)[1]
    assert (result.image.shape[1], result.image.shape[0]) == size
    assert (result.report["width"], result.report["height"]) == size
    notes = result.report.get("notes", [])
    assert len(notes) == (wishes.get("width", 0) % 16 != 0)
    assert all("144 x 72 pixels, not 136 x 72" in note for note in notes)


@given(
    width=st.integers(8, 512).map(lambda cells: 8 * cells),
    height=st.integers(8, 256).map(lambda cells: 8 * cells),
    cell=st.sampled_from([8, 16, 32]),
)
def test_sizes_are_whole_cells_and_no_less_than_asked(width: int, height: int, cell: int) -> None:
    config = Ldm3dConfig()
    for task in (
        TextToPanorama(prompt="a", width=width),
        TextToPanorama(prompt="a", height=height),
        TextToPanorama(prompt="a", width=width, height=height),
    ):
        wide, high = text_to_panorama._size(task, config, cell)
        assert wide % cell == high % cell == 0
        assert task.width <= wide < task.width + 2 * cell or not task.width
        assert task.height <= high < task.height + cell or not task.height
        assert wide == 2 * high or (task.width and task.height)


def test_the_meaning_of_the_depth_is_the_models_or_the_persons(store: Path, parts: Any) -> None:
    paper = DepthMeaning(meaning="paper", radius=3.0)
    assert run(steps=1, meaning=paper)[1].meaning == paper
    own = DepthMeaning(meaning="inverse", near=0.4, far=6.0)
    config = {"width": 128, "height": 64, "meaning": own.to_dict()}
    ldm3d_models.write(store, parts, "other-rooms", config=config)
    result = run(model="other-rooms", steps=1)[1]
    assert result.meaning == own
    assert result.report["prompt"] == "a b c"
    metres = radii(result.depth, result.meaning)
    assert 0.39 < metres.min() < metres.max() < 6.01


def test_what_was_not_read_is_told() -> None:
    words = "a b c d e f g h i j " * 3
    (note,) = run(prompt=words, negative="a", steps=1)[1].report["notes"]
    assert "The text is long: only 10 words and signs were read" in note
    _, cut = note.split("not “")
    assert cut == f"{words[18:]}".strip() + "”."
    (note,) = run(prompt="a", negative=words, steps=1)[1].report["notes"]
    assert "What it shall not be is long" in note


# ------------------------------------------------------------------------------------ surroundings


def test_one_task_goes_on_to_the_surroundings() -> None:
    progress, result = run(sphere=True, mesh_width=64, edges="sheet")
    assert isinstance(result, SphereResult)
    picture = run()[1]
    assert result.image.tobytes() == picture.image.tobytes()
    assert result.meaning == picture.meaning
    front = result.layer("front")
    assert front is not None
    lengths = np.linalg.norm(front.directions, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    # The depth is that of the picture: low where it is low, in every direction.
    assert picture.depth.min() - 1e-4 <= front.values.min()
    assert front.values.max() <= picture.depth.max() + 1e-4
    above = front.values[front.directions[:, 2] > 0.9].mean()
    assert abs(above - picture.depth[:8].mean()) < 0.1 * picture.depth.std() + 0.05
    assert result.report["model"] == MODEL
    assert "Building the surroundings" in result.report["seconds"]
    assert progress[-1].fraction <= 1


def test_a_sphere_wants_twice_as_wide_as_high() -> None:
    with pytest.raises(BadInput, match="twice as wide as high"):
        run(sphere=True, width=128, height=128)
    assert run(width=128, height=128, steps=1)[1].image.shape == (128, 128, 3)


def test_a_width_alone_always_becomes_surroundings() -> None:
    result = run(sphere=True, width=136, mesh_width=64, steps=1, edges="sheet")[1]
    assert result.image.shape == (72, 144, 3)
    with pytest.raises(BadInput, match="wider than") as caught:
        run(height=2056)
    assert "2048" in caught.value.remedy


def test_the_report_has_the_notes_of_picture_and_sphere(monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(*arguments: Any) -> Any:
        picture, depth = developed(*arguments)
        return picture, np.full_like(depth, 0.5)

    developed = text_to_panorama._developed
    monkeypatch.setattr(text_to_panorama, "_developed", flat)
    report = run(sphere=True, width=136, mesh_width=64, steps=1)[1].report
    assert len(report["notes"]) == 2
    assert "not 136" in report["notes"][0]
    assert "plain sphere" in report["notes"][1]
    assert (report["width"], report["height"], report["mesh_width"]) == (144, 72, 64)


def test_a_job_that_is_cancelled_while_the_mesh_is_built_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancelled = threading.Event()
    surroundings = text_to_panorama._surroundings

    def build(*arguments: Any) -> SphereResult:
        cancelled.set()
        return surroundings(*arguments)

    monkeypatch.setattr(text_to_panorama, "_surroundings", build)
    with pytest.raises(Cancelled):
        run(Context(device="cpu", cancelled=cancelled.is_set), sphere=True, mesh_width=64, steps=1)


def test_a_mesh_that_does_not_fit_is_told_before_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(needed: int, device: str, remedy: str) -> None:
        raise OutOfMemory(f"{needed} on {device}", remedy)

    monkeypatch.setattr(memory, "require", refuse)
    monkeypatch.setattr("backend.geometry.sphere.build", None)
    with pytest.raises(OutOfMemory, match=str(64 * 32 * 330 + 2 * 64 * 128 * 3)):
        text_to_panorama._surroundings(
            TextToPanorama(prompt="a", mesh_width=64),
            PanoramaResult(
                name="a",
                image=np.zeros((64, 128, 3), np.uint8),
                depth=np.ones((64, 128), np.float32),
                meaning=DepthMeaning(meaning="inverse"),
                report={},
            ),
        )


# ------------------------------------------------------------------------------------------ models


def test_the_bundled_model_is_taken_when_nothing_else_is_here(
    tmp_path: Path, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = tmp_path / "bundled"
    ldm3d_models.write(bundled, parts, "own-rooms", stands_in_for=("text-to-panorama",))
    monkeypatch.setattr(weights, "BUNDLED", bundled)
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "empty"))
    assert weights.installed()["own-rooms"].bundled
    assert run(steps=1, model="")[1].report["model"] == "own-rooms"
    listed = {model.id: model for model in pipelines.models()}
    assert listed["own-rooms"].default_for == ("text-to-panorama",)
    ldm3d_models.write(tmp_path / "empty", parts, "ldm3d-pano")
    assert run(steps=1, model="")[1].report["model"] == "ldm3d-pano"
    assert run(steps=1, model="own-rooms")[1].report["model"] == "own-rooms"


def test_without_any_model_it_is_said_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path))
    with pytest.raises(NotInstalled, match="LDM3D panorama") as caught:
        run(model="")
    assert "models download ldm3d-pano" in caught.value.remedy


def test_a_model_stays_loaded_between_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    run(steps=1)
    monkeypatch.setattr(resident, "_read_panorama_model", None)
    run(steps=1, seed=9)


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("wishes", "kind"),
    [
        ({"prompt": ""}, BadInput),
        ({"prompt": " \t "}, BadInput),
        ({"prompt": "a" * 1001}, TooLarge),
        ({"prompt": "a\x00b"}, BadInput),
        ({"negative": "b" * 1001}, TooLarge),
        ({"width": 100}, BadInput),
        ({"height": 60}, BadInput),
        ({"width": 4104}, BadInput),
        ({"width": 56}, BadInput),
        ({"steps": 0}, BadInput),
        ({"guidance": 31.0}, BadInput),
        ({"guidance": float("nan")}, BadInput),
        ({"seed": -1}, BadInput),
        ({"edges": "torn"}, BadInput),
    ],
)
def test_what_cannot_be_made_is_refused(wishes: Any, kind: Any) -> None:
    with pytest.raises(kind) as caught:
        run(**wishes)
    assert caught.value.remedy


def test_a_damaged_model_is_told(store: Path, parts: Any) -> None:
    lame = {name: path for name, path in parts.items() if not name.startswith("vae/")}
    ldm3d_models.write(store, lame, "lame-rooms")
    with pytest.raises(BadInput, match="vae/config"):
        run(model="lame-rooms")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_end_the_job_at_once(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    calls = []
    predict = Ldm3d._predict

    def spoiled(self: Ldm3d, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        return predict(self, *arguments) * (value if len(calls) == 2 else 1)

    monkeypatch.setattr(Ldm3d, "_predict", spoiled)
    with pytest.raises(InternalError, match="no numbers") as caught:
        run(steps=20)
    assert "FIELDFORGE_PRECISION=float32" in caught.value.remedy
    assert len(calls) == 2


def test_a_picture_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = np.full((64, 128), np.nan, np.float32)
    monkeypatch.setattr(
        Ldm3d, "decode", lambda *_, **__: (np.zeros((64, 128, 3), np.float32), nothing)
    )
    with pytest.raises(InternalError, match="a picture that is none"):
        run(steps=1)


def test_cancelling_within_a_step() -> None:
    """The layers ask: a step of 50 seconds must not be waited for."""
    asked = threading.Event()
    context = Context(device="cpu", cancelled=asked.is_set)
    steps = pipelines.run(TextToPanorama(prompt="a", model=MODEL, sphere=False, steps=900), context)
    seen = [next(steps) for _ in range(4)]
    assert ", step 2 of 900" in seen[-1].stage
    layers = []
    original = Context.check_cancelled

    def check(self: Context) -> None:
        layers.append(1)
        if len(layers) == 5:  # in the middle of the next step
            asked.set()
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "check_cancelled", check)
        with pytest.raises(Cancelled):
            next(steps)
    assert len(layers) == 5
    begun = time.monotonic()
    assert run(steps=1)[1].image.shape == (64, 128, 3)  # no hooks are left behind
    assert time.monotonic() - begun < 60


# ------------------------------------------------------------------------------------------ memory


def test_a_job_that_cannot_fit_is_told_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    resident.unload()
    monkeypatch.setattr(memory.devices, "describe", _device_with(1 << 20))
    with pytest.raises(OutOfMemory, match="GB are free"):
        run()


def test_out_of_memory_while_painting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Ldm3d, "_predict", full)
    with pytest.raises(OutOfMemory, match="128 x 64 pixels") as caught:
        run()
    assert "smaller" in caught.value.remedy


def test_a_decoder_that_does_not_fit_works_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = {"steps": 1, "width": 256, "height": 128}  # so that a tile with its overlaps is not all
    whole = run(**wide)[1]
    tiles = []
    decode = Ldm3d.decode

    def narrow(self: Ldm3d, latents: torch.Tensor, tile: int = 0) -> Any:
        tiles.append(tile)
        if not tile:
            raise MemoryError
        return decode(self, latents, tile)

    monkeypatch.setattr(Ldm3d, "decode", narrow)
    tiled = run(**wide)[1]
    assert tiles == [0, 8]
    difference = np.abs(tiled.image.astype(int) - whole.image)
    assert 0 < difference.mean() < 0.2 * whole.image.std()


def test_tiles_are_as_large_as_what_is_free_allows() -> None:
    needed = Needed(denoising=100, decoding=1000, columns=128)
    assert needed.tile(0) == 0  # not known
    assert needed.tile(1300) == 0
    assert needed.tile(1000) == 51
    assert needed.tile(500) == 25
    assert needed.tile(1) == 8
    assert needed.least == 125
    assert dataclasses.replace(needed, denoising=400).least == 400


def _device_with(free: int) -> Any:
    from backend.device import Device

    return lambda wanted="auto": Device("cpu", "Small", free, 64 << 30)


# ---------------------------------------------------------------------------------------- previews


def test_what_forms_is_shown_when_asked_for(one: tuple[list[Progress], PanoramaResult]) -> None:
    progress, result = run(preview=True, steps=6)
    pictures = [news.picture for news in progress if news.picture is not None]
    assert pictures
    assert len(pictures) == result.report["previews"]
    for picture in pictures:
        assert picture.dtype == np.uint8
        assert picture.shape == (64, 128, 3)  # small already: nothing is averaged
    assert run(preview=False, steps=6)[1].image.tobytes() == result.image.tobytes()


def test_a_large_picture_is_shown_small() -> None:
    progress, _ = run(preview=True, steps=1, width=640, height=320)
    (picture,) = [news.picture for news in progress if news.picture is not None]
    assert picture.shape == (104, 208, 3)


def test_previews_take_no_more_than_their_share() -> None:
    now = [0.0]

    class Slow:
        factor = 8

        def small_picture(self, *_: Any) -> np.ndarray:
            now[0] += 3.0
            return np.zeros((1, 1, 3), np.uint8)

    previewer = Previewer(Slow(), clock=lambda: now[0])  # type: ignore[arg-type]
    step = type("Step", (), {"start": torch.zeros(1)})()
    shown = []
    for _ in range(100):
        now[0] += 1.0
        shown.append(previewer.after(step) is not None)
    assert shown[0]
    assert 4 <= sum(shown) <= 6
    assert previewer.seconds <= text_to_panorama.PREVIEW_SHARE * 100 + 3
