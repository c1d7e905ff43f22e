"""The model of rooms in the box: there, whole, attributed, and it makes rooms of words."""

import re

import numpy as np
import pytest

from backend import pipelines, weights
from backend.depth_meanings import radii
from backend.pipelines import Context, run
from backend.protocol import PanoramaResult, SphereResult, TextToPanorama
from backend.training.ldm3d.evaluate import seam
from tests.bundled import only_bundled  # noqa: F401 - a fixture

ID = "fieldforge-rooms"


pytestmark = pytest.mark.usefixtures("only_bundled")


def painted(words, **more):
    *_, result = run(TextToPanorama(prompt=words, sphere=False, **more), Context("cpu"))
    assert isinstance(result, PanoramaResult)
    assert result.report["model"] == ID
    return result


@pytest.fixture(scope="module")
def rooms():
    """Of walls of three colours."""
    return {
        colour: painted(f"a living room with a sofa and {colour} walls", steps=20, seed=1)
        for colour in ("blue", "yellow", "white")
    }


def test_it_is_small_and_whole():
    model = weights.installed()[ID]
    assert model.bundled
    assert model.tasks == ("text-to-panorama",)
    sizes = [path.stat().st_size for path in model.files]
    assert max(sizes) <= 50 << 20
    assert sum(sizes) <= 60 << 20
    weights.verify(model)


def test_it_is_taken_where_nothing_else_is_there():
    ready = [m.id for m in pipelines.models() if m.ready and "text-to-panorama" in m.tasks]
    assert ready == [ID]


def test_every_maker_is_named():
    folder = weights.installed()[ID].folder
    text = (folder / "ATTRIBUTION.md").read_text("utf-8")
    licences = re.findall(r"^## (\S+):", text, re.MULTILINE)
    assert licences
    assert set(licences) <= {"CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US"}
    card = (folder / "README.md").read_text("utf-8")
    assert text.count("\n- ") == int(re.search(r"(\d+) models of furniture", card)[1])
    for words in ("## Data", "## Training", "## Quality", "## Limits"):
        assert words in card
    assert (folder / "samples.png").stat().st_size > 10_000


def test_a_room_is_around_one(rooms):
    """Floor below, ceiling above, walls between, as far as rooms have them; and no seam."""
    for room in rooms.values():
        assert room.image.shape == (256, 512, 3)
        away = radii(room.depth, room.meaning)
        below, above, ahead = (
            np.median(away[rows]) for rows in (slice(-16, None), slice(16), slice(118, 138))
        )
        assert 0.9 < below < 2.2
        assert 0.6 < above < 2.5
        assert ahead > max(below, above)
        assert ahead < 8
        assert seam(room.image / np.float32(255), cell=16) < 2


def test_walls_have_the_colour_that_was_said(rooms):
    """At eye level; yellow is what lacks blue."""
    blueness = {}
    for colour, room in rooms.items():
        red, green, blue = room.image[70:130].reshape(-1, 3).mean(axis=0)
        blueness[colour] = blue - (red + green) / 2
    assert blueness["blue"] > blueness["white"] > blueness["yellow"]


def test_the_same_seed_gives_the_same_bytes_and_another_another_room():
    one, same, other = (painted("a bedroom", steps=3, seed=seed) for seed in (5, 5, 6))
    assert one.image.tobytes() == same.image.tobytes()
    assert one.depth.tobytes() == same.depth.tobytes()
    assert np.abs(one.image.astype(int) - other.image).mean() > 2


def test_words_become_surroundings():
    *_, result = run(TextToPanorama(prompt="a kitchen", steps=5), Context("cpu"))
    assert isinstance(result, SphereResult)
    assert result.report["missing"] < 0.5
