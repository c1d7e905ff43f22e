"""Generation, end to end, with small models of every condition."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import device, pipelines, protocol, sampling, weights
from backend.conditions import images
from backend.device import Device
from backend.errors import BadInput, Cancelled, InternalError, NotInstalled, OutOfMemory
from backend.geometry.transforms import apply_to_points, inverse
from backend.models import refine
from backend.models.wala.uvit import TransformerBlock
from backend.pipelines import Context, generate, preparation, resident
from backend.pipelines.generate import Settings
from backend.protocol import (
    DepthToMesh,
    Generation,
    ImageToMesh,
    MeshSet,
    PointsToMesh,
    Progress,
    Shape,
    SketchToMesh,
    ViewsToMesh,
    VoxelsToMesh,
)
from tests import wala_models
from tests.pipelines.conftest import Latents, last, mesh_of, solid_field


def _ball(count: int) -> np.ndarray:
    """(count, 3) float32 points on the unit sphere."""
    points = np.random.default_rng(0).normal(size=(count, 3))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


POINTS = _ball(3000)


def points_task(**changes) -> PointsToMesh:
    return PointsToMesh(points=POINTS * [1, 2, 3] + [10, 20, 30], model="tiny-points", **changes)


def voxels_task(**changes) -> VoxelsToMesh:
    grid = np.zeros((12, 16, 10), bool)
    grid[2:9, 3:14, 1:9] = True
    fields = {"occupancy": grid, "origin": (5.0, 0.0, -2.0), "voxel_size": (0.5, 0.5, 0.5)}
    return VoxelsToMesh(model="tiny-voxels", **{**fields, **changes})


def image_task(**changes) -> ImageToMesh:
    return ImageToMesh(image=wala_models.picture(), **changes)


def views_task(count: int = 4, **changes) -> ViewsToMesh:
    images = np.stack([wala_models.picture(seed) for seed in range(count)])
    return ViewsToMesh(images=images, model="tiny-views4", **changes)


def depths_task(count: int = 6, **changes) -> ViewsToMesh:
    depths = np.stack([wala_models.depth(seed) for seed in range(count)])
    return ViewsToMesh(depths=depths, model="tiny-depths6", **changes)


def sketch_task(**changes) -> SketchToMesh:
    turns = np.linspace(0, 6, 50)
    strokes = np.stack([np.cos(turns), np.sin(2 * turns), np.full(50, 0.02)], axis=1)
    return SketchToMesh(
        strokes=strokes.astype(np.float32), stroke_lengths=np.array([20, 30], np.int32), **changes
    )


TASKS: dict[str, Callable[..., Generation]] = {
    "points": points_task,
    "voxels": voxels_task,
    "image": image_task,
    "sketch": sketch_task,
    "depth": lambda **changes: DepthToMesh(depth=wala_models.depth(), **changes),
    "views": views_task,
    "depths": depths_task,
    "shape": Shape,
}


# ------------------------------------------------------------------------------------ whole jobs


@pytest.mark.usefixtures("store", "few_points")
@pytest.mark.parametrize("name", ["points", "voxels"])
def test_a_shape_is_closed_and_lies_where_its_source_lies(name: str) -> None:
    task = TASKS[name](seed=3)
    result = mesh_of(task)
    edges = np.sort(result.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    assert len(counts) > 1000
    assert (counts % 2 == 0).all()

    in_cube = apply_to_points(inverse(result.to_source), result.vertices)
    nodes = (in_cube + 1) * 128
    # Marching cubes puts every vertex on an edge of the grid: two coordinates are whole.
    offsets = np.sort(np.abs(nodes - np.rint(nodes)), axis=1)
    assert np.quantile(offsets[:, 1], 0.999) < 2e-3
    if isinstance(task, PointsToMesh):
        placed = apply_to_points(inverse(result.to_source), task.points)
        np.testing.assert_allclose(placed.min(axis=0) + placed.max(axis=0), 0, atol=1e-5)
        assert np.ptp(placed, axis=0).max() == pytest.approx(1.8, abs=1e-5)
    if isinstance(task, VoxelsToMesh):
        middle = apply_to_points(result.to_source, np.zeros((1, 3)))[0]
        low, high = np.array([6.0, 1.5, -1.5]), np.array([9.5, 7.0, 2.5])  # of what is filled
        np.testing.assert_allclose(middle, (low + high) / 2, atol=1e-5)
    report = result.report
    assert (report["steps"], report["guidance"], report["seed"]) == (3, 1.5, 3)
    assert (report["device"], report["precision"]) == ("cpu", "float32")
    assert report["vertices"] == len(result.vertices)
    assert set(report["seconds"]) == {
        *("Preparing the input", "Loading the model", "Reading the input", "Sampling"),
        *("Decoding", "Extracting the surface"),
    }


@pytest.mark.usefixtures("store")
def test_the_same_seed_gives_the_same_bytes() -> None:
    first, again = (mesh_of(Shape(seed=5)) for _ in range(2))
    plain = [dataclasses.replace(mesh, report={}) for mesh in (first, again)]
    assert protocol.encode_result(plain[0]) == protocol.encode_result(plain[1])
    assert first.latent is not None
    assert first.latent.shape == wala_models.LATENT_SHAPE
    assert first.latent.std() > 0.1


@pytest.mark.usefixtures("solid")
def test_the_up_axis_turns_the_result_and_nothing_else() -> None:
    y_up, z_up = (mesh_of(Shape(up_axis=axis)) for axis in ("y", "z"))
    top = y_up.vertices[y_up.vertices[:, 1].argmax()]
    np.testing.assert_allclose(top, [0.3, 0.7, -0.2], atol=0.02)
    x, y, z = y_up.vertices.T
    np.testing.assert_array_equal(z_up.vertices, np.stack([x, -z, y], axis=1))
    np.testing.assert_array_equal(z_up.faces, y_up.faces)
    signed = [np.linalg.det(mesh.vertices[mesh.faces]).sum() / 6 for mesh in (y_up, z_up)]
    assert signed == pytest.approx([0.554, 0.554], abs=0.002)  # of both balls, counted once


@pytest.mark.usefixtures("solid")
def test_colours_of_points_are_carried_over() -> None:
    colors = np.zeros((len(POINTS), 4), np.uint8)
    colors[:, 0] = np.where(POINTS[:, 0] > 0, 255, 0)
    colors[:, 3] = 255
    result = mesh_of(points_task(colors=colors))
    assert result.colors is not None
    assert result.colors.shape == (len(result.vertices), 4)
    clear = np.abs(result.vertices[:, 0] - 10) > 0.5
    right = result.vertices[clear, 0] > 10
    assert 0.2 < right.mean() < 0.8
    assert np.mean((result.colors[clear, 0] > 127) == right) > 0.95


@pytest.mark.usefixtures("solid")
def test_points_far_from_the_origin_keep_their_shape() -> None:
    middle = np.array([400_000.0, 5_000_000.0, 100.0])
    near = mesh_of(PointsToMesh(points=POINTS.astype(float), model="tiny-points"))
    far = mesh_of(PointsToMesh(points=POINTS + middle, model="tiny-points"))
    assert (near.vertices.dtype, far.vertices.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(far.vertices - middle, near.vertices, atol=2e-5)


@pytest.mark.usefixtures("solid")
def test_specks_of_the_decoder_go_unless_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    field = solid_field().copy()
    field[20, 20, 20] = -0.01
    monkeypatch.setattr(generate._Generator, "field", lambda *_: field.copy())
    clean, published = (mesh_of(Shape(as_published=value)) for value in (False, True))
    assert len(published.vertices) == len(clean.vertices) + 6


@pytest.mark.usefixtures("solid")
def test_a_shape_that_came_out_empty_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = np.full((256, 256, 256), np.float32(0.1))
    monkeypatch.setattr(generate._Generator, "field", lambda *_: nothing.copy())
    with pytest.raises(BadInput, match="another seed"):
        last(Shape())


@pytest.mark.usefixtures("solid")
def test_points_to_refine_to_are_given_in_the_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def look(field, points, normals, device, check):
        given.update(field=field, points=points, normals=normals)
        yield "Leading the surface", 0.5
        return np.roll(field, 8, axis=0)

    monkeypatch.setattr(refine, "refine_to_points", look)
    normals = np.tile(np.float32([0, 0, 2]), (len(POINTS), 1))  # up, in a frame with z up
    task = points_task(normals=normals, refine=True)
    led, free = mesh_of(task), mesh_of(dataclasses.replace(task, refine=False))
    np.testing.assert_array_equal(given["field"], solid_field())
    placed = apply_to_points(led.to_source, given["points"])
    np.testing.assert_allclose(placed, task.points, atol=1e-4)
    np.testing.assert_allclose(given["normals"], np.tile([0, 1, 0], (len(POINTS), 1)), atol=1e-6)
    shift = led.to_source[:3, :3] @ [8 / 128, 0, 0]
    np.testing.assert_allclose(
        led.vertices - free.vertices, np.tile(shift, (len(led.vertices), 1)), atol=1e-4
    )
    assert "Leading the surface" in led.report["seconds"]


@pytest.mark.usefixtures("solid")
@pytest.mark.parametrize("up_axis", ["z", "y"])
def test_voxels_to_refine_to_are_given_in_the_cube(
    monkeypatch: pytest.MonkeyPatch, up_axis: str
) -> None:
    given = []

    def look(field, occupancy, origin, voxel_size, check):
        given.append((occupancy, origin, voxel_size))
        yield "Leading the surface", 0.5
        return field

    monkeypatch.setattr(refine, "refine_to_voxels", look)
    grid = np.random.default_rng(0).random((9, 12, 14)) < 0.3
    size = (0.5, 0.25, 0.75)
    task = voxels_task(occupancy=grid, voxel_size=size, refine=True, up_axis=up_axis)
    result = mesh_of(task)
    ((occupancy, origin, voxel_size),) = given
    centres = origin + (np.argwhere(occupancy) + 0.5) * voxel_size
    found = apply_to_points(result.to_source, centres, np.float64)
    wanted = np.array(task.origin) + (np.argwhere(grid) + 0.5) * size
    assert len(found) == len(wanted)
    np.testing.assert_allclose(
        found[np.lexsort(found.round(6).T)], wanted[np.lexsort(wanted.round(6).T)], atol=1e-9
    )


# -------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("name", TASKS)
def test_variations_are_a_batch_of_what_each_seed_gives_alone(latents: Latents, name: str) -> None:
    make = TASKS[name]
    batch = latents(make(seed=7, variations=3))
    assert batch.shape == (3, *wala_models.LATENT_SHAPE)
    for number, latent in enumerate(batch):
        (alone,) = latents(make(seed=7 + number))
        torch.testing.assert_close(latent, alone, atol=1e-4, rtol=0)
    assert (batch[0] - batch[1]).abs().max() > 0.1


def test_variations_come_back_in_the_order_of_their_seeds(latents: Latents) -> None:
    result = last(Shape(seed=4, variations=2, name="Two"))
    assert isinstance(result, MeshSet)
    assert (result.name, len(result.meshes)) == ("Two", 2)
    assert (result.report["variations"], result.report["seed"]) == (2, 4)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "shape"])
def test_the_guidance_of_the_person_is_honoured(latents: Latents, name: str) -> None:
    default, given, other = (latents(TASKS[name](guidance=g)) for g in (None, 1.5, 3.0))
    assert torch.equal(default, given)
    assert (given - other).abs().max() > 1e-3


def test_the_condition_counts(latents: Latents) -> None:
    first, second = (latents(ImageToMesh(image=wala_models.picture(k))) for k in (0, 5))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["points", "voxels"])
def test_as_published_ignores_the_guidance_of_points_and_voxels(
    latents: Latents, name: str
) -> None:
    changes = {"occupancy": np.pad(np.ones((8, 6, 4), bool), [(4, 4), (5, 5), (6, 6)])}
    make = TASKS[name]
    fields = {"as_published": True, **(changes if name == "voxels" else {})}
    low, three = (latents(make(guidance=g, **fields)) for g in (1.3, 3.0))
    assert torch.equal(low, three)


def test_as_published_keeps_the_guidance_of_pictures(latents: Latents) -> None:
    low, three = (latents(image_task(guidance=g, as_published=True)) for g in (1.3, 3.0))
    assert (low - three).abs().max() > 1e-3


def test_as_published_draws_noise_as_the_published_command(latents: Latents) -> None:
    inside = (POINTS / np.abs(POINTS).max() * 0.9).astype(np.float32)
    task = PointsToMesh(points=inside, model="tiny-points", seed=42, as_published=True)
    found = latents(task)
    model = resident.load(weights.require("tiny-points"), torch.device("cpu"), 0).model
    denoise = model.guided_denoiser(model.encode(torch.from_numpy(inside)[None]), 3.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        *_, step = model.sample(denoise, 3, sampling.gaussian(model.latent_shape()))
    assert torch.equal(found, step.sample)


def test_as_published_wants_the_voxels_as_they_are(latents: Latents) -> None:
    with pytest.raises(BadInput, match="16 x 16 x 16") as caught:
        latents(voxels_task(as_published=True))
    assert "12 x 16 x 10" in caught.value.cause


def test_noise_of_a_seed_is_its_own_in_every_batch() -> None:
    def draws(seed: int, variations: int) -> list[torch.Tensor]:
        settings = Settings(3, 1.0, seed, variations, as_published=False)
        noise = generate.noise_of(settings, (4, 2), torch.device("cpu"))
        return [next(noise) for _ in range(3)]

    for batch, alone in zip(draws(5, 3), draws(7, 1), strict=True):
        assert torch.equal(batch[2], alone[0])
    first, second, _ = draws(5, 1)
    assert not torch.equal(first, second)


def test_half_precision_is_near_and_latents_stay_float32(
    latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = latents(image_task())
    monkeypatch.setenv("FIELDFORGE_PRECISION", "bfloat16")
    half = latents(image_task())
    assert half.dtype == torch.float32
    difference = (half - whole).abs().max().item()
    assert 0 < difference < 0.1 * whole.abs().max().item()
    monkeypatch.setenv("FIELDFORGE_PRECISION", "int4")
    with pytest.raises(BadInput, match="float32, bfloat16, float16"):
        latents(image_task())


def test_progress_goes_forward(latents: Latents) -> None:
    steps = list(pipelines.run(Shape(steps=5), Context("cpu")))
    fractions = [step.fraction for step in steps if isinstance(step, Progress)]
    assert fractions == sorted(fractions)
    stages = [step.stage for step in steps if isinstance(step, Progress)]
    assert sum(stage.startswith("Sampling, step") for stage in stages) == 5
    assert 0 <= fractions[0] < fractions[-1] < 1


# ------------------------------------------------------------------------------- what is refused


def test_the_best_model_that_is_here_is_taken(latents: Latents) -> None:
    assert last(image_task()).report["model"] == "tiny-image"
    assert last(Shape()).report["model"] == "tiny-shape"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("task", "words"),
    [
        (image_task(model="tiny-points"), "'tiny-points' cannot do image-to-mesh"),
        (Shape(model="tiny-image"), "'tiny-image' cannot do shape"),
        (Shape(model="wavelet-fit"), "'wavelet-fit' cannot do shape"),
        (Shape(model="none"), "'none' cannot do shape"),
        (views_task(3), "3 views; the model needs 4. Give 4 pictures in the order of its cameras"),
        (views_task(6), r"\(3, 6, 10, 26\)"),
        (depths_task(4), r"needs 6.*\(3, 6, 10, 26, 49, 50\)"),
        (dataclasses.replace(views_task(), model="tiny-depths6"), "takes depth pictures; pictures"),
        (dataclasses.replace(depths_task(), model="tiny-views4"), "takes pictures; depth pictures"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(task: Generation, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        last(task)


@pytest.mark.usefixtures("store")
def test_a_model_that_is_not_here_is_to_be_downloaded() -> None:
    with pytest.raises(NotInstalled) as caught:
        last(Shape(model="wala-shape-1b"))
    assert "python3 -m backend models download wala-shape-1b" in caught.value.remedy


def test_networks_that_take_something_else_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A description that promises a task which its networks cannot do."""
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path))
    wala_models.write(tmp_path, "shape", id="liar", tasks=("points-to-mesh",))
    with pytest.raises(BadInput, match="not made for points-to-mesh"):
        last(dataclasses.replace(points_task(), model="liar"))


def test_a_damaged_model_is_told_to_be_so(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path))
    written = wala_models.write(tmp_path, "shape")
    written.files[0].write_bytes(written.files[0].read_bytes()[:1000])
    with pytest.raises(NotInstalled, match="tiny-shape is damaged"):
        last(Shape(model="tiny-shape"))


def test_a_description_without_sense_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path))
    written = wala_models.write(tmp_path, "shape")
    description = json.loads((written.folder / "model.json").read_text())
    description["config"]["denoiser"]["heads"] = 0
    (written.folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(BadInput, match="division"):
        last(Shape(model="tiny-shape"))


def test_more_steps_than_the_model_was_trained_with_are_refused(
    latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = wala_models.config_for("shape")
    short = dataclasses.replace(config, diffusion=dataclasses.replace(config.diffusion, steps=20))
    monkeypatch.setattr(generate, "config_of", lambda _: short)
    with pytest.raises(BadInput, match="trained with 20 steps; 21 are more"):
        latents(Shape(steps=21))
    latents(Shape(steps=20))


def test_values_that_are_no_numbers_are_told(
    latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = resident.load(weights.require("tiny-shape"), torch.device("cpu"), 0)
    monkeypatch.setattr(type(loaded), "denoiser", lambda *_: lambda x, _: x * torch.nan)
    with pytest.raises(InternalError, match="FIELDFORGE_PRECISION=float32"):
        latents(Shape())


# ------------------------------------------------------------------------- cancelling and memory


def test_a_job_is_cancelled_within_a_step(
    latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[int] = []
    forward = TransformerBlock.forward

    def counted(self, *arguments):
        worked.append(1)
        return forward(self, *arguments)

    monkeypatch.setattr(TransformerBlock, "forward", counted)
    with pytest.raises(Cancelled):
        for _ in pipelines.run(Shape(steps=50), Context("cpu", lambda: len(worked) == 5)):
            pass
    assert len(worked) == 5  # two blocks a step: in the middle of the third one
    latents(Shape())  # and the model can be used again
    assert len(worked) == 5 + 2 * 3


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["python", "card", "processor"],
)
def test_out_of_memory_names_what_to_lower(
    latents: Latents, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(resident.Loaded, "denoiser", fail)
    with pytest.raises(OutOfMemory) as caught:
        latents(Shape(variations=4, preview=True))
    remedy = caught.value.remedy
    assert "lower the variations from 4 to 2" in remedy.lower()
    assert "turn the preview off" in remedy
    assert resident._models == {}
    with pytest.raises(OutOfMemory) as caught:
        latents(Shape())
    assert "variations" not in caught.value.remedy


def test_other_faults_are_not_taken_for_memory(
    latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(resident.Loaded, "denoiser", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        latents(Shape())


def test_a_job_that_cannot_fit_is_refused_before_it_loads(
    latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "describe", lambda wanted: Device(wanted, "Card", 1 << 20, 1 << 34))
    with pytest.raises(OutOfMemory, match="fewer variations"):
        latents(Shape(variations=16))
    assert resident._models == {}


def test_what_was_done_to_views_is_told_once(latents: Latents) -> None:
    pictures = np.stack([wala_models.picture(seed) for seed in range(4)])
    rough = np.random.default_rng(0).integers(0, 255, pictures.shape).astype(np.uint8)
    mixed = np.concatenate([pictures[:3], rough[:1]])
    model = weights.require("tiny-views4")
    for given, expected in (
        (pictures, (images.REMOVED,)),
        (mixed, (images.REMOVED, images.NOT_PLAIN)),
    ):
        task = dataclasses.replace(views_task(), images=given)
        assert preparation.prepare(task, model).notes == expected
        published = dataclasses.replace(task, as_published=True)
        assert preparation.prepare(published, model).notes == ()
    assert last(views_task()).report["notes"] == [images.REMOVED]


def test_keys_and_values_that_are_kept_count_as_memory() -> None:
    config = wala_models.config_for("points")
    plain = dataclasses.replace(config.denoiser, width=1024, depth=24, cross_attention=False)
    crossed = dataclasses.replace(plain, cross_attention=True)
    condition = dataclasses.replace(config.condition, tokens=1024)
    settings, prepared = Settings(5, 3.0, 0, 16, False), preparation.Prepared(None, np.eye(4))
    without, kept = (
        generate.working_bytes(
            dataclasses.replace(config, denoiser=denoiser, condition=condition), settings, prepared
        )
        for denoiser in (plain, crossed)
    )
    assert kept - without == 2 * 2 * 24 * 4 * 1024 * 1024
