"""Conditions of a step, the joint encoder, and the way from a training to a model that loads."""

import dataclasses

import numpy as np
import pytest
import torch

from backend.errors import BadInput
from backend.models.wala import loading
from backend.models.wala.config import (
    AutoencoderConfig,
    CompactConfig,
    ImaginedConfig,
    JointConfig,
    UVitConfig,
    WalaConfig,
)
from backend.models.wala.joint import GRID, PLACED, JointEncoder, point_grid, voxel_grid
from backend.training import autoencoder, dataset, diffusion, export, imagining
from backend.training.conditions import Conditions
from backend.training.diffusion import ConditionSet, Network, Recipe, draw_kinds, draw_symmetry
from backend.training.loops import Plan, Team, train
from backend.training.packed import Shape
from backend.training.trees import SparseTree

ALONE = Team(torch.device("cpu"))
WORDS = ("chair", "lamp")
JOINT = JointConfig(
    channels=64,
    image_side=28,
    image_width=32,
    image_depth=1,
    image_heads=2,
    words=WORDS,
    text=6,
    grid_width=8,
    grid_blocks=1,
)
DENOISER = diffusion.denoiser_config(
    UVitConfig(width=32, depth=1, heads=2, channels=32, residual_blocks=1), JOINT, 4
)
RECIPE = Recipe(DENOISER, JOINT, batch=4, groups=2, points=64)
SHAPES = tuple(Shape(str(n), WORDS[n], "a", "train", "", family=str(n)) for n in range(2))


def conditions_of(number):
    rng = np.random.default_rng(number)

    def coded(*shape):
        return rng.integers(-20000, 20000, shape).astype(np.int16)

    def pictures(*shape):
        return rng.integers(0, 255, shape).astype(np.uint8)

    return Conditions(
        clean=coded(200, 3),
        normals=np.zeros((200, 3), np.int8),
        noisy=coded(200, 3),
        scans=coded(2, 200, 3),
        scan_frames=np.tile(np.eye(4, dtype=np.float32), (2, 1, 1)),
        voxels=pictures(2, 512),
        shaded=pictures(3, 28, 28, 3),
        drawings=pictures(3, 28, 28),
        depths=pictures(3, 28, 28),
        cameras=np.zeros((3, 13)),
        views=pictures(6, 28, 28, 3),
        view_depths=pictures(6, 28, 28),
    )


@pytest.fixture(scope="module")
def conditions():
    spoken = torch.arange(36.0).reshape(2, 3, 6)
    return ConditionSet(SHAPES, [conditions_of(n) for n in range(2)], WORDS, spoken)


def sources_of(conditions, kinds, symmetry=0, seed=0):
    return conditions.sources(kinds, np.array([0, 1]), symmetry, 64, np.random.default_rng(seed))


def test_words_of_captions():
    assert diffusion.spoken_words((*SHAPES, *SHAPES)) == tuple(
        sorted(set(diffusion.spoken_words((*SHAPES, *SHAPES))))
    )
    assert set(WORDS) <= set(diffusion.spoken_words((*SHAPES, *SHAPES)))
    assert diffusion.multi_hot("A Lamp, lit", WORDS).tolist() == [0, 1]


def test_mirrored_conditions_are_the_same_shape_mirrored(conditions):
    kinds = ("points", "voxels", "sketch", "words")
    straight, mirrored = (sources_of(conditions, kinds, symmetry) for symmetry in (0, 4))
    flip = torch.tensor([-1.0, 1, 1])
    assert torch.equal(straight["points"] * flip, mirrored["points"])
    assert torch.equal(straight["voxels"].flip(2), mirrored["voxels"])
    assert torch.equal(straight["sketch"].flip(3), mirrored["sketch"])
    assert torch.equal(straight["words"], mirrored["words"])
    assert straight["sketch"].shape == (2, 3, 28, 28)
    assert straight["sketch"].amin() >= -1 <= straight["sketch"].amax() <= 1


def test_only_what_conditions_can_tell_is_turned():
    rng = np.random.default_rng(0)
    symmetries = {
        kinds: {draw_symmetry(kinds, rng, tuple(range(8))) for _ in range(200)}
        for kinds in (
            (),
            ("points",),
            ("voxels", "points"),
            ("points", "image"),
            ("views", "words"),
        )
    }
    assert symmetries[("points",)] == symmetries[("voxels", "points")] == set(range(8))
    assert symmetries[()] == symmetries[("points", "image")] == {0, 4}
    assert symmetries[("views", "words")] == {0}


def test_kinds_are_drawn_by_their_chances():
    rng = np.random.default_rng(0)
    drawn = [draw_kinds(rng) for _ in range(4000)]
    nothing = diffusion._NOTHING
    assert drawn.count(()) / 4000 == pytest.approx(nothing, abs=0.015)
    alone = [kinds[0] for kinds in drawn if len(kinds) == 1]
    for kind, chance in diffusion.CHANCES.items():
        assert alone.count(kind) / len(alone) == pytest.approx(chance, abs=0.03)
    assert sum(len(kinds) == 2 for kinds in drawn) / 4000 == pytest.approx(
        (1 - nothing) * diffusion._SECOND, abs=0.03
    )


def test_points_on_a_grid():
    # The grid's cells are a sixth of latent cells; latent cell 5 begins at -0.28515625.
    corner, cell = -0.28515625, 0.25 / 6
    points = torch.tensor([[[corner + 0.01] * 3, [corner + 0.02] * 3, [-1.0, 1.0, 0.5]]])
    grid = point_grid(points)
    assert grid.shape == (1, 5, GRID, GRID, GRID)
    assert grid[0, 0].sum() == 2
    found = grid[0, :, 24, 24, 24]
    assert found[1] == pytest.approx(np.log(3))
    assert found[2:].tolist() == pytest.approx([0.015 / cell - 0.5] * 3, abs=1e-4)
    assert torch.allclose(grid, point_grid(points[:, [2, 0, 1]]), atol=1e-6)


def test_voxels_lie_where_their_points_lie():
    cells = torch.zeros(1, 1, 16, 16, 16)
    cells[0, 0, 3, 9, 15] = 1
    grid = voxel_grid(cells)
    middles = (torch.tensor([3.0, 9, 15]) + 0.5) / 8 - 1
    where = point_grid(middles[None, None])[0, 0].nonzero()[0]
    assert grid[0, 0, *where.tolist()] == 1
    assert grid.sum() == 27  # three fine cells along each axis


def test_what_is_said_of_a_place_changes_the_latent_there():
    torch.manual_seed(0)
    network = Network(DENOISER, JOINT).eval()
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    points = torch.full((1, 8, 3), 0.5)
    with torch.no_grad():
        placed = network.denoiser.prepare(network.joint({"points": points})).placed
        empty = network.denoiser.prepare(network.joint({"points": -points})).placed
    far = (placed - empty).abs().amax(dim=(0, 1))
    # 0.5 lies in latent cell 8, -0.5 in cell 4; convolutions see three more cells. The first two
    # cells are margin.
    assert far[6, 6, 6] > 1e-3
    assert far[6, 6, 6] > 10 * far[7, 7, 0]


def test_latents_are_kept_for_the_same_weights(tmp_path):
    sizes = CompactConfig(32, (8, 8), (0, 0), (0, 0))
    model = autoencoder.VqVae(AutoencoderConfig(codes=16, compact=sizes)).requires_grad_(False)
    autoencoder.start_linear(model, a_set(), seed=0)
    kept = tmp_path / "latents.pt"
    first = diffusion.latent_cache(model, a_set(), (0, 4), ALONE, kept)
    written = kept.read_bytes()
    again = diffusion.latent_cache(model, a_set(), (0, 4), ALONE, kept)
    assert kept.read_bytes() == written
    assert all(torch.equal(first[number], again[number]) for number in (0, 4))
    model.encoder.linear.weight *= 2
    other = diffusion.latent_cache(model, a_set(), (0, 4), ALONE, kept)
    assert torch.allclose(other[4].float(), 2 * first[4].float(), rtol=2e-3, atol=1e-4)


def test_the_margin_is_what_it_is_in_all_shapes():
    torch.manual_seed(0)
    network = Network(DENOISER, JOINT).eval()
    latents = torch.randn(5, 4, 12, 12, 12)
    diffusion.know_margin(network, {0: latents})
    with torch.no_grad():
        found = network.denoiser(latents[:2], torch.tensor([3, 900]), network.joint.nothing(2))
    inner = slice(2, 10)
    assert found.shape == latents[:2].shape
    assert (found[..., inner, inner, inner] == 0).all()  # the last layer is still asleep
    found[..., inner, inner, inner] = latents[..., inner, inner, inner].mean(dim=0)
    assert torch.allclose(found[0], latents.mean(dim=0), atol=1e-6)


def test_tokens_of_any_conditions(conditions):
    torch.manual_seed(0)
    encoder = JointEncoder(JOINT).eval()
    sources = sources_of(conditions, tuple(diffusion.CHANCES))
    views, numbers = sources["views"].shape[1], sources.pop("view_numbers")
    assert numbers.shape == (2, views)
    assert 2 <= views == len(set(numbers[0].tolist())) <= 6
    with torch.no_grad():
        lengths = {kind: encoder({kind: source}).shape for kind, source in sources.items()}
        together = encoder(sources)
        again = encoder(dict(reversed(sources.items())))
    assert lengths["points"] == lengths["voxels"] == (2, PLACED + 1, 64)
    assert lengths["image"] == (2, PLACED + 5, 64)
    assert lengths["views"] == (2, PLACED + 1 + 4 * views, 64)
    assert together.shape[1] - PLACED == sum(shape[1] - PLACED for shape in lengths.values())
    assert torch.equal(together, again)
    for wrong in ({}, {"smell": together}):
        with pytest.raises(ValueError, match=r"conditions|not trained"):
            encoder(wrong)


def test_training_learns_and_goes_on(conditions, tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion, "CHANCES", {"text": 0.5, "words": 0.5})  # the quick ones
    latents = dict(enumerate(torch.randn(dataset.SYMMETRIES, 2, 4, 12, 12, 12).half()))
    sampler = dataset.Sampler(("a", "a"))
    losses = []

    def work(run):
        shown = diffusion._step(run, RECIPE, latents, conditions, sampler, ALONE)
        losses.append(float(shown["loss"]))
        return shown

    def a_run(name, steps):
        run = diffusion.begin(RECIPE, Plan(steps=8, warm_up=2, rate=3e-3), ALONE, tmp_path / name)
        run.steps = steps
        train(run, work, ALONE, lambda line: None)
        return run

    whole = a_run("whole.pt", 8)
    assert np.mean(losses[-3:]) < np.mean(losses[:2])
    for end in (3, 8):
        part = diffusion.begin(RECIPE, whole.plan, ALONE, tmp_path / "part.pt")
        limit = iter([False] * (end - part.step - 1))
        members = _Stopping(torch.device("cpu"), limit=limit)
        train(part, work, members, lambda line: None)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, part.module.state_dict()[name]), name


def test_without_sentences_no_text_is_drawn(conditions):
    rng = np.random.default_rng(0)
    drawn = {kind for _ in range(500) for kind in draw_kinds(rng, text=False)}
    assert drawn == set(diffusion.CHANCES) - {"text"}
    encoder = JointEncoder(dataclasses.replace(JOINT, text=0))
    with pytest.raises(ValueError, match="not trained on text"):
        encoder(sources_of(conditions, ("text",)))


def test_captions_as_vectors(monkeypatch):
    def vectors(said):
        return np.array([[len(phrase), phrase.count("a")] for phrase in said], np.float32)

    monkeypatch.setattr(diffusion.sentences, "sentence_vectors", vectors)
    shapes = (SHAPES[0], dataclasses.replace(SHAPES[1], caption="lamp, light, tall"))
    found = diffusion.spoken_captions(shapes)
    for shape, rows in zip(shapes, found, strict=True):
        wanted = vectors(diffusion.captions(shape))
        assert {tuple(row) for row in rows.tolist()} == {tuple(row) for row in wanted.tolist()}


def test_a_run_begins_with_what_another_learned(tmp_path):
    runs = [
        diffusion.begin(RECIPE, Plan(steps=1, seed=seed), ALONE, tmp_path / f"{seed}.pt")
        for seed in (0, 1)
    ]
    weights = runs[1].module.state_dict()
    weights["joint.kinds.weight"] = torch.zeros(3)  # of a run with fewer kinds
    before = runs[0].module.joint.kinds.weight.detach().clone()
    del weights["joint.guess_in.layers.0.weight"]
    diffusion.begin_with(runs[0].module, weights)
    own = runs[0].module.state_dict()
    assert torch.equal(own["denoiser.pos_emb"], weights["denoiser.pos_emb"])
    assert torch.equal(own["joint.kinds.weight"], before)
    first = "layers.0.weight"
    assert torch.equal(own[f"joint.guess_in.{first}"], own[f"joint.voxels_in.{first}"])
    eyes = {"norm.weight": torch.full((32,), 7.0)}
    diffusion.begin_with(runs[0].module, eyes, "joint.pictures.")
    assert (runs[0].module.joint.pictures.norm.weight == 7).all()
    assert torch.equal(own["denoiser.pos_emb"], weights["denoiser.pos_emb"])


def test_what_sees_stays_as_it_was_trained(tmp_path):
    network = diffusion.begin(RECIPE, Plan(steps=1), ALONE, tmp_path / "run.pt").module
    learned = {n for n, p in network.joint.pictures.named_parameters() if p.requires_grad}
    assert learned == {"out.weight", "out.bias", "placed.weight", "placed.bias"}


@dataclasses.dataclass(frozen=True)
class _Stopping(Team):
    limit: object = None

    def agreed(self, value):
        return next(self.limit, True)


def a_set():
    """Two shapes of chance."""
    rng = np.random.default_rng(0)
    trees = [
        SparseTree(
            low=rng.normal(size=(46, 46, 46)).astype(np.float16),
            cells=rng.integers(0, 46, (50, 3)).astype(np.uint8),
            values=rng.normal(size=(50, 63)).astype(np.float16),
        )
        for _ in range(2)
    ]
    return dataset.TreeSet(SHAPES, trees)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of trainings that have not begun, with weights of chance everywhere."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(1)
    sizes = CompactConfig(32, (8, 16), (1, 1), (1, 1))
    coder = autoencoder.Recipe(AutoencoderConfig(codes=16, groups=2, compact=sizes), batch=1)
    runs = [
        autoencoder.begin(coder, Plan(steps=1), ALONE, folder / autoencoder.CHECKPOINT, a_set()),
        diffusion.begin(RECIPE, Plan(steps=1), ALONE, folder / diffusion.CHECKPOINT),
    ]
    for run in runs:
        for name, weight in run.average.weights.items():
            # Half floats, so that the export changes nothing.
            scale = 0.5 / max(1, weight[0].numel()) ** 0.5 if weight.dim() > 1 else 1.0
            run.average.weights[name] = (weight + scale * torch.randn_like(weight)).half().float()
    runs[0].extra["scale"] = torch.tensor(2.0)
    for run in runs:
        run.save()
    return folder


def test_the_export_loads_and_makes_the_same(checkpoints, conditions, tmp_path):
    installed = export.export(
        checkpoints, tmp_path / "small", title="Small", license="CC0-1.0", source={}, card="words"
    )
    model = loading.load(installed, torch.device("cpu"), torch.float32)
    ours = export.model_of(checkpoints)
    assert WalaConfig.from_dict(installed.config) == ours.config == model.config
    assert (installed.folder / "README.md").read_text() == "words"
    assert installed.source["diffusion"]["settings"]["batch"] == [4, 2]
    sources = sources_of(conditions, ("image", "words"))
    latent = torch.randn(2, 4, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([500, 3])
    found = [m.guided_denoiser(m.encode(sources), 1.5)(latent, times) for m in (ours, model)]
    assert torch.equal(*found)
    assert torch.equal(ours.tree(latent[:1]).low, model.tree(latent[:1]).low)
    under, without = (
        model.guided_denoiser(features, 0)(latent, times)
        for features in (model.encode(sources), None)
    )
    assert torch.allclose(under, without, atol=1e-5)
    assert (found[0] - without).abs().max() > 1e-3


def test_what_imagines_goes_out_with_the_model(checkpoints, tmp_path):
    for name in (autoencoder.CHECKPOINT, diffusion.CHECKPOINT):
        (tmp_path / name).symlink_to(checkpoints / name)
    assert export.model_of(tmp_path).joint.imagined is None
    small = ImaginedConfig(components=16, width=32, depth=1)
    path = tmp_path / imagining.CHECKPOINT
    run = imagining.begin(small, JOINT.text, JOINT.words, 4, Plan(steps=1), ALONE, path)
    run.save()
    words = {"title": "Small", "license": "CC0-1.0", "source": {}, "card": ""}
    installed = export.export(tmp_path, tmp_path / "small", **words)
    assert installed.source["imagining"]["settings"]["imagined"]["width"] == 32
    model = loading.load(installed, torch.device("cpu"), torch.float32)
    assert model.config.joint.imagined == small
    for name, tensor in model.joint.imagined.state_dict().items():
        torch.testing.assert_close(tensor, run.average.weights[name], rtol=1e-3, atol=1e-6)
    path.unlink()
    imagining.begin(small, 0, ("other",), 4, Plan(steps=1), ALONE, path).save()
    with pytest.raises(BadInput, match="other words"):
        export.model_of(tmp_path)


def test_a_model_in_several_files(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "FILE_BYTES", 1 << 20)
    words = {"title": "Small", "license": "CC0-1.0", "source": {}, "card": ""}
    installed = export.export(checkpoints, tmp_path / "small", **words)
    assert len(installed.files) > 1
    assert all(path.stat().st_size < 2 * (1 << 20) for path in installed.files)
    model = loading.load(installed, torch.device("cpu"), torch.float32)
    wanted = export.model_of(checkpoints).published_state_dict()
    for name, tensor in model.published_state_dict().items():
        assert torch.allclose(wanted[name], tensor, rtol=0, atol=1e-6), name  # half floats


def test_pieces_come_together(checkpoints, tmp_path):
    for name in (autoencoder.CHECKPOINT, diffusion.CHECKPOINT):
        export.averaged_only(checkpoints / name, tmp_path / name)
        pieces = export.split(tmp_path / name, tmp_path / "pieces", size=100_000)
        assert len(pieces) > 1
        assert max(piece.stat().st_size for piece in pieces) <= 100_000
        export.join(tmp_path / "pieces", name, tmp_path / "joined")
    wanted = export.model_of(checkpoints).published_state_dict()
    joined = export.model_of(tmp_path / "joined").published_state_dict()
    assert all(torch.equal(wanted[name], joined[name]) for name in wanted)
    pieces[0].unlink()
    with pytest.raises(BadInput, match="not complete"):
        export.join(tmp_path / "pieces", diffusion.CHECKPOINT, tmp_path / "again")


def test_networks_for_a_card_are_small_enough():
    with torch.device("meta"):
        joint = dataclasses.replace(diffusion.JOINTS["gpu"], words=("a",) * 512)
        denoiser = diffusion.denoiser_config(diffusion.DENOISERS["gpu"], joint, 32)
        parts = [Network(denoiser, joint), autoencoder.VqVae(autoencoder.SIZES["gpu"])]
    total = sum(p.numel() for part in parts for p in part.parameters())
    assert 2 * total < 115e6
