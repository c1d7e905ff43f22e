import pytest
import torch

from backend import weights
from backend.models.ldm3d.loading import load
from tests import ldm3d_models


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Files of small models by the number of channels."""
    return {
        channels: ldm3d_models.parts_of(tmp_path_factory.mktemp("parts"), channels=channels)
        for channels in (4, 6)
    }


@pytest.fixture(scope="session")
def models(parts, tmp_path_factory):
    """Small models by the number of channels, for inference: not to be changed."""
    return {
        channels: load(
            ldm3d_models.write(tmp_path_factory.mktemp("store"), files),
            torch.device("cpu"),
            torch.float32,
        )
        for channels, files in parts.items()
    }


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "bundled")
    return tmp_path / "store"
