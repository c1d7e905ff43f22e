from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.models.wala import preview_decoder
from backend.models.wala.preview_decoder import PreviewDecoder


def codes(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, 12, 12, 12, generator=torch.Generator().manual_seed(seed))


def decoded(latents: torch.Tensor) -> torch.Tensor:
    """A decoder that is linear indeed: cell i counts for what lies within 8 of 4 i."""
    volume = latents[:, 0] - 0.5 * latents[:, 2] + 0.3
    upsampled = torch.zeros(len(latents), 1, 46, 46, 46)
    upsampled[:, 0, ::4, ::4, ::4] = volume
    kernel = torch.tensor([1.0, 2, 3, 4, 3, 2, 1]) / 4  # linear between the centres
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = 7
        padding = [0, 0, 0]
        padding[axis] = 3
        upsampled = torch.nn.functional.conv3d(upsampled, kernel.reshape(shape), padding=padding)
    return upsampled[:, 0]


@pytest.fixture
def learned() -> PreviewDecoder:
    decoder = PreviewDecoder()
    assert not decoder.ready
    for latent in codes(4):
        decoder.learn(latent, decoded(latent[None])[0])
    assert decoder.ready
    return decoder


def test_what_is_linear_is_learned(learned: PreviewDecoder) -> None:
    fresh = codes(2, seed=9)
    found, expected = learned(fresh), decoded(fresh)
    assert found.shape == (2, 46, 46, 46)
    assert (found - expected).std() < 0.1 * expected.std()
    # Not a step beside: a decoder that is off by one value of the low band would be far from it.
    assert (found[:, 1:] - expected[:, :-1]).std() > 0.2 * expected.std()


def test_what_was_learned_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "er" / "previews.npz"
    decoder = PreviewDecoder(file)
    for latent in codes(2):
        decoder.learn(latent, decoded(latent[None])[0])
    decoder.save()
    again = PreviewDecoder(file)
    assert again.shapes == 2
    assert torch.equal(again(codes(1, seed=3)), decoder(codes(1, seed=3)))
    assert [path.name for path in file.parent.iterdir()] == ["previews.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x80\x04 a pickle"])
def test_a_broken_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "previews.npz"
    file.write_bytes(content)
    assert PreviewDecoder(file).shapes == 0
    np.savez(file, shapes=3, gram=np.eye(2), moments=np.eye(2))
    assert PreviewDecoder(file).shapes == 0


def test_a_full_disk_is_no_fault(tmp_path: Path, learned: PreviewDecoder) -> None:
    (tmp_path / "file").touch()
    learned._file = tmp_path / "file" / "previews.npz"
    learned.save()
    assert learned.ready


def test_learning_ends_and_leaves_out_what_is_no_number(
    monkeypatch: pytest.MonkeyPatch, learned: PreviewDecoder
) -> None:
    learned.learn(codes(1)[0], torch.full((46, 46, 46), torch.nan))
    assert learned.shapes == 4
    monkeypatch.setattr(preview_decoder, "ENOUGH", 5)
    for latent in codes(3, seed=2):
        learned.learn(latent, decoded(latent[None])[0])
    assert learned.shapes == 5
