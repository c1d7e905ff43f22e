"""The training shape that looks most alike is found, and what finds it is kept."""

import numpy as np
import pytest
import torch
import trimesh

from backend.errors import BadInput
from backend.models.wala.config import AutoencoderConfig, JointConfig, UVitConfig, WalaConfig
from backend.models.wala.model import Wala
from backend.sampling import Diffusion
from backend.training import conditions, diffusion, packed, retrieval, trees
from backend.training.cases import PICTURES, file_of
from backend.training.conditions import Amounts, Conditions
from backend.training.packed import Shape
from backend.training.retrieval import Gallery

JOINT = JointConfig(channels=32, image_side=28, image_width=32, image_depth=1, image_heads=2)
SIZES = {"plank": (1.8, 0.4, 0.3), "box": (1.2, 1.4, 1.8), "post": (0.3, 1.8, 0.3)}


def model_of(seed=0):
    torch.manual_seed(seed)
    small = UVitConfig(width=32, depth=1, heads=2, channels=32, residual_blocks=1, patch=2)
    config = WalaConfig(
        autoencoder=AutoencoderConfig(widths=(32, 32, 32), codes=16),
        denoiser=diffusion.denoiser_config(small, JOINT, 4),
        diffusion=Diffusion(),
        joint=JOINT,
    )
    return Wala(config).eval()


def box_field(size, resolution):
    nodes = np.abs(2 * np.arange(resolution) / resolution - 1).astype(np.float32)
    axes = [nodes - np.float32(side / 2) for side in size]
    inside = np.maximum.reduce(np.meshgrid(*axes, indexing="ij"))
    return np.clip(inside, -0.1, 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    shapes = []
    for name in ("trees", "conditions", "evaluation"):
        (folder / name).mkdir()
    for name, size in SIZES.items():
        solid = trimesh.creation.box(size)
        surface = np.asarray(solid.vertices, np.float32), np.asarray(solid.faces, np.int32)
        shapes.append((Shape(name, name, "boxes", "train", ""), packed.encode(*surface)))
        field = torch.from_numpy(box_field(size, 256))
        trees.tree_of_field(field).save(file_of(folder, "trees", name))
        amounts = Amounts(300, cameras=2, scans=1, side=56)
        seen = conditions.make(name, surface, box_field(size, 128), 0, amounts)
        seen.save(file_of(folder, "conditions", name))
    shapes.append((Shape("never", "never", "boxes", "test", ""), shapes[0][1]))
    packed.write(folder / "shapes.ffs", shapes)
    return folder


def test_a_training_shape_finds_itself_from_every_camera(folder):
    gallery = Gallery.of(folder, model_of(), folder / "evaluation" / "g.npz", "a")
    assert set(gallery.names) == set(SIZES)
    for name in SIZES:
        seen = Conditions.load(file_of(folder, "conditions", name))
        for kind, field in PICTURES.items():
            for picture in getattr(seen, field):
                assert gallery.nearest(kind, picture) == name
                lighter = np.clip(picture.astype(int) + 2, 0, 255).astype(np.uint8)
                assert gallery.nearest(kind, lighter) == name


def test_the_surface_of_what_is_found_is_its_own(folder):
    gallery = Gallery.of(folder, model_of(), folder / "evaluation" / "g.npz", "a")
    vertices, _ = gallery.surface("plank")
    assert np.ptp(vertices, axis=0) == pytest.approx(SIZES["plank"], abs=0.02)


def test_embeddings_are_kept_for_one_model_only(folder, monkeypatch):
    kept = folder / "evaluation" / "kept.npz"
    gallery = Gallery.of(folder, model_of(), kept, "a")
    calls = []
    honest = retrieval.embedding

    def counted(*asked):
        calls.append(asked)
        return honest(*asked)

    monkeypatch.setattr(retrieval, "embedding", counted)
    again = Gallery.of(folder, model_of(), kept, "a")
    assert calls == []
    assert all(np.array_equal(again._rows[k], gallery._rows[k]) for k in PICTURES)
    Gallery.of(folder, model_of(1), kept, "b")
    assert len(calls) == len(SIZES) * len(PICTURES)


def test_without_training_shapes_nothing_is_near(tmp_path):
    packed.write(tmp_path / "shapes.ffs", [])
    with pytest.raises(BadInput, match="training"):
        Gallery.of(tmp_path, model_of(), tmp_path / "g.npz", "a")
