"""What the published code of MV-Adapter made of small networks: see tests/golden/mvadapter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file

from backend.models.mvadapter import attention, cameras, loading, schedule
from backend.models.mvadapter.attention import ParallelAttention, Told
from backend.models.mvadapter.config import MVAdapterConfig
from backend.models.mvadapter.model import MVAdapter
from backend.protocol import camera_poses

DIRECTORY = Path(__file__).parents[2] / "golden" / "mvadapter"
TOLERANCE = 1e-5
"""Share of the largest value; of sampled latents ten times as much."""

pytestmark = pytest.mark.usefixtures("without_gradients")


def parts_of(name: str) -> dict[str, dict[str, torch.Tensor]]:
    """Arrays of a recording by part ("in", "w", "out", ...) and name."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in load_file(DIRECTORY / f"{name}.safetensors").items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts


def assert_close(found: Any, expected: torch.Tensor, share: float = TOLERANCE) -> None:
    found = torch.as_tensor(found)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= share * expected.abs().max()


def scheduler() -> PNDMScheduler:
    """As Stable Diffusion 2.1 comes with it."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def test_cameras() -> None:
    out = parts_of("cameras")["out"]
    azimuths = MVAdapterConfig().azimuths
    poses = camera_poses([(azimuth, 0.0) for azimuth in azimuths], "z", 1.8)
    assert_close(torch.from_numpy(poses).float(), out["c2w"])
    assert_close(cameras.told_of(azimuths, 2), out["control"])


def test_the_schedule_has_more_noise_at_its_end() -> None:
    out = parts_of("schedule")["out"]
    shifted = schedule.shifted_scheduler(scheduler(), 8.0)
    # The published ones are computed in float32, in which 1 - 0.999 has four digits.
    np.testing.assert_allclose(shifted.alphas_cumprod, out["alphas_cumprod"], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(shifted.betas, out["betas"], atol=2e-6)
    shifted.set_timesteps(50)
    assert torch.equal(shifted.timesteps, out["timesteps"])


def test_attention() -> None:
    """Of two scenes with three views each: with a picture, shown none, and as if there were no
    adapter."""
    recorded = parts_of("attention")
    told = Told(views=3, reference={"here": recorded["in"]["reference"]})
    attn = Attention(query_dim=12, heads=3, dim_head=4)
    attn.set_processor(ParallelAttention("here", 12, True, told))
    attn.load_state_dict(recorded["w"], strict=True)
    x, out = recorded["in"]["x"], recorded["out"]
    assert_close(attn(x), out["full"])
    told.reference = None
    assert_close(attn(x), out["null"])
    told.recording = {}
    assert_close(attn(x), out["alone"])
    assert torch.equal(told.recording["here"], x)


def network(reads_pictures: bool) -> tuple[MVAdapter, dict[str, dict[str, torch.Tensor]]]:
    recorded = parts_of("network")
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=(2, 4),
        norm_num_groups=4,
        use_linear_projection=True,
    )
    told = attention.add_to(unet, reads_pictures)
    encoder = loading.camera_encoder(unet)
    given = {name: one for name, one in recorded["adapter"].items() if attention.is_new(name)}
    rest = {name: one for name, one in recorded["adapter"].items() if name not in given}
    kept = {name: one for name, one in given.items() if reads_pictures or "_ref" not in name}
    unet.load_state_dict({**recorded["unet"], **kept}, strict=True)
    encoder.load_state_dict(rest, strict=True)
    config = MVAdapterConfig(reads_pictures=reads_pictures, side=64)
    model = MVAdapter(
        config,
        unet.eval(),
        told,
        encoder.eval(),
        SimpleNamespace(),
        SimpleNamespace(),
        SimpleNamespace(),
        lambda: schedule.shifted_scheduler(scheduler(), config.shift),
    )
    return model, recorded


def test_what_is_told_of_cameras_and_seen_in_a_picture() -> None:
    model, recorded = network(reads_pictures=True)
    out = recorded["out"]
    for level, feature in enumerate(model.features()):
        assert_close(feature[..., :2, :2], out[f"features.{level}"])
    seen = model.seen_in(recorded["in"]["reference"], recorded["in"]["prompt"])
    expected = {
        name.removeprefix("recorded."): one
        for name, one in out.items()
        if name.startswith("recorded.")
    }
    assert seen.keys() == expected.keys()
    for name, one in seen.items():
        assert_close(one, expected[name])


@pytest.mark.parametrize("reads_pictures", [True, False])
def test_the_whole_network_and_its_sampling(reads_pictures: bool) -> None:
    model, recorded = network(reads_pictures)
    given, out = recorded["in"], recorded["out"]
    ending = "" if reads_pictures else "_of_words"
    picture = given["reference"] if reads_pictures else None
    guidance = 3.0 if reads_pictures else 7.0
    words, null = given["prompt"], given["negative"]
    features = model.features()
    seen = None if picture is None else model.seen_in(picture, words)
    made = model.schedule()
    made.set_timesteps(4)
    time = made.timesteps[0]
    first = [
        model.denoise(given["noise"], time, text, features, of)
        for text, of in ((null, None), (words, seen))
    ]
    assert_close(torch.cat(first), out[f"first{ending}"])
    steps = list(model.sample_encoded(words, null, given["noise"], 4, guidance, picture))
    assert [step.timestep for step in steps] == made.timesteps.tolist()
    assert_close(steps[-1].sample, out[f"latents{ending}"], 10 * TOLERANCE)


def test_views_know_of_each_other_along_rows_alone() -> None:
    """Changing one pixel of one view changes its row in the others, and no other row."""
    torch.manual_seed(0)
    told = Told(views=2)
    attn = Attention(query_dim=8, heads=2, dim_head=4)
    attn.set_processor(ParallelAttention("here", 8, False, told))
    x = torch.randn(2, 16, 8)
    changed = x.clone()
    changed[0, 5] += 1  # row 1
    moved = (attn(changed)[1] - attn(x)[1]).abs().amax(dim=-1).reshape(4, 4)
    assert (moved[1] > 1e-4).all()
    assert moved[[0, 2, 3]].max() == 0
