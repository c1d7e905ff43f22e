"""The model of views in the box: there, whole, attributed, and it looks around things."""

from __future__ import annotations

import re

import numpy as np
import pytest
import trimesh

from backend import pipelines, weights
from backend.models.viewdiff.painter_files import config_of
from backend.pipelines import Context, run
from backend.posed_images import PosedImages
from backend.protocol import ImageToViews, MeshResult, ViewsResult, ViewsToScene
from backend.training.viewdiff import evaluate
from backend.training.viewdiff.scenes import Light, Scene
from tests import posed_boxes
from tests.bundled import BUNDLED, only_bundled  # noqa: F401 - a fixture

ID = "fieldforge-views"
SIZES = {"wide": (0.8, 0.5, 0.35), "tall": (0.35, 0.35, 0.85)}
COLOURS = {"wide": (0.6, 0.05, 0.04), "tall": (0.04, 0.08, 0.5)}


pytestmark = pytest.mark.usefixtures("only_bundled")


class Blocks:
    """Simple things of one colour, as a catalogue; the model has seen none of them."""

    def scene(self, name: str) -> Scene:
        box, paint = posed_boxes.block(0), np.float32(COLOURS[name])
        return Scene(
            np.sign(box.vertices) * np.float32(SIZES[name]),
            box.faces,
            lambda face, place, normal: np.tile(paint, (len(face), 1)),
            Light(np.array([0.3, -0.6, 0.75]), 0.7, 0.4),
        )


def around(pictures: np.ndarray, truth: PosedImages, **more) -> ViewsResult:
    """What becomes of the first of these, seen from all cameras of `truth`."""
    task = ImageToViews(images=pictures, poses=truth.poses, intrinsics=truth.intrinsics, **more)
    *_, result = run(task, Context("cpu"))
    assert isinstance(result, ViewsResult)
    assert result.report["model"] == ID
    result.check()
    return result


@pytest.fixture(scope="module")
def tests():
    """Of both things, ten pictures: on a ring, from above and from below."""
    return evaluate.tests(Blocks(), list(SIZES), config_of(weights.installed()[ID]))


@pytest.fixture(scope="module")
def made(tests):
    return [around(test.truth.images[:1], test.truth, steps=12, seed=1) for test in tests]


def posed(views: ViewsResult) -> PosedImages:
    names = tuple(str(number) for number in range(len(views.images)))
    return PosedImages(views.images, views.poses, views.intrinsics, names, views.depths)


def test_it_is_small_and_whole_and_taken_where_no_other_is():
    found = weights.installed()[ID]
    assert found.bundled
    assert set(found.tasks) == {"image-to-views"}
    assert sum(path.stat().st_size for path in found.files) <= 30 << 20
    weights.verify(found)
    ready = [m.id for m in pipelines.models() if m.ready and "image-to-views" in m.tasks]
    assert ready == [ID]
    assert found.stands_in_for == found.tasks  # a larger one of somebody goes before it


def test_every_maker_is_named():
    folder = BUNDLED / ID
    text = (folder / "ATTRIBUTION.md").read_text("utf-8")
    licences = re.findall(r"^## (\S+):", text, re.MULTILINE)
    assert licences
    assert set(licences) <= {"CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US"}
    card = (folder / "README.md").read_text("utf-8")
    for words in ("## Data", "## Training", "## Quality", "## Limits", "CC-BY 4.0"):
        assert words in card
    assert (folder / "samples.png").stat().st_size > 10_000


def test_depth_that_is_too_rough_is_not_told(made):
    assert all(views.depths is None for views in made)


def test_outlines_and_colours_are_those_of_the_thing(tests, made):
    for test, views in zip(tests, made, strict=True):
        found = evaluate.measured(test, posed(views))
        assert found["outline overlap"] > 0.8
        assert found["psnr of the thing"] > 11
        inside = views.images[1:][views.images[1:, ..., 3] > 200]
        brightest = inside[:, :3].mean(axis=0).argmax()
        assert brightest == np.argmax(COLOURS[test.record])


def test_views_agree_with_one_another(tests, made):
    """Not as well as true ones of so few pixels (25 dB), and better than by chance."""
    for test, views in zip(tests, made, strict=True):
        found = evaluate.measured(test, posed(views))
        assert found["reprojection"] > 13


def mesh_of(images: np.ndarray, truth: PosedImages) -> trimesh.Trimesh:
    """The solid within the outlines of these views, of the cameras of `truth`."""
    task = ViewsToScene(
        images=images,
        poses=truth.poses[-len(images) :],
        intrinsics=truth.intrinsics[-len(images) :],
        extent=2.0,
        resolution=128,
    )
    *_, mesh = run(task, Context("cpu"))
    assert isinstance(mesh, MeshResult)
    return trimesh.Trimesh(mesh.vertices, mesh.faces)


def reach(solid: trimesh.Trimesh) -> np.ndarray:
    places = np.abs(trimesh.sample.sample_surface(solid, 5000, seed=0)[0])
    return np.quantile(places, 0.9, axis=0)


def test_views_become_the_shape(tests, made):
    """Closed, and about as large as what true views become by their outlines alone."""
    for test, views in zip(tests, made, strict=True):
        solid, real = (mesh_of(seen[1:], test.truth) for seen in (views.images, test.truth.images))
        assert solid.is_watertight
        assert abs(solid.volume) == pytest.approx(abs(real.volume), rel=0.35)
        np.testing.assert_allclose(reach(solid), reach(real), atol=0.15)


def test_the_same_seed_gives_the_same_bytes_and_the_given_picture_stays(tests):
    truth = tests[0].truth
    few = PosedImages(
        truth.images[:3], truth.poses[:3], truth.intrinsics[:3], truth.names[:3], truth.depths[:3]
    )
    one, same, other = (around(few.images[:1], few, steps=3, seed=seed) for seed in (5, 5, 6))
    assert one.images.tobytes() == same.images.tobytes()
    assert one.images[1:].tobytes() != other.images[1:].tobytes()
    assert np.array_equal(one.images[0, ..., 3], truth.images[0, ..., 3])


def test_a_photo_on_a_plain_ground_is_cut_out():
    """Without a camera: framed as in training, seen from all around."""
    y, x = np.mgrid[:120, :160]
    ball = (x - 70) ** 2 + (y - 60) ** 2 < 40**2
    picture = np.where(ball[..., None], np.uint8([40, 140, 60]), np.uint8(245))[None]
    *_, views = run(ImageToViews(images=picture, steps=8, views=6), Context("cpu"))
    assert isinstance(views, ViewsResult)
    shares = (views.images[..., 3] > 128).mean(axis=(1, 2))
    assert (shares > 0.12).all()
    assert (shares < 0.7).all()
