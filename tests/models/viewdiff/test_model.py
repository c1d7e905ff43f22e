"""The whole denoiser: what it equals at the beginning, and what it knows of its views."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from backend.models.viewdiff import attention, projection, rendering
from backend.models.viewdiff.cameras import Cameras
from backend.models.viewdiff.config import ProjectionConfig, ViewDiffConfig, unet_settings
from backend.models.viewdiff.model import ViewDiff, augment, is_new

from .recordings import assert_near
from .small import SIZE, WORDS, around, config, learned, noise, seeded, settings


def _plain(model: ViewDiff) -> UNet2DConditionModel:
    """The U-Net of diffusers with the weights that are its own."""
    unet = UNet2DConditionModel.from_config(dict(model.config.unet)).eval()
    own = model.unet.state_dict()
    unet.load_state_dict({name: own[name] for name in own if not is_new(name)}, strict=True)
    return unet


def _of_plain(unet: Any, latents: torch.Tensor, times: torch.Tensor, text: torch.Tensor):
    flat = text.expand(*latents.shape[:2], -1, -1).flatten(0, 1)
    return unet(latents.flatten(0, 1), times.flatten(), flat).sample.unflatten(0, latents.shape[:2])


def _given(views: int, scenes: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, a timestep for each, and words."""
    times = torch.arange(scenes * views).view(scenes, views) * 100 + 7
    return noise(scenes, views, 4, SIZE, SIZE), times, noise(scenes, views, 3, WORDS, seed=1)


def _without_projection(**changes: Any) -> ViewDiffConfig:
    places = {"projection_down": 0, "projection_mid": False, "projection_up": 0}
    return config(**places, **changes)


# ----------------------------------------------------------------------------------- the beginning


@pytest.mark.parametrize(
    ("settings", "views"),
    [
        # A view alone attends to itself; so it does where it attends to no others.
        pytest.param(_without_projection(), 1, id="one view"),
        pytest.param(config(combine="zero"), 1, id="one view, layers through space"),
        pytest.param(config(combine="zero", other_frames=0), 3, id="no other views"),
        # A layer of its own for the other views leaves all else as it was.
        pytest.param(config(combine="zero", attention="separate"), 3, id="separate layer"),
    ],
)
def test_at_the_beginning_it_is_the_plain_unet(settings: ViewDiffConfig, views: int) -> None:
    model = seeded(settings)
    latents, times, text = _given(views)
    with torch.no_grad():
        found = model(latents, times, text, around(views))
        expected = _of_plain(_plain(model), latents, times, text)
    assert_near(found, expected, 1e-5)


def test_views_that_are_all_the_same_attend_as_one() -> None:
    """So attention over views, too, begins as what the plain network computes."""
    model = seeded(config(combine="zero"))
    latents, times, text = (x.expand(-1, 3, *x.shape[2:]) for x in _given(1))
    with torch.no_grad():
        found = model(latents, times, text, around(3))
        assert_near(found, _of_plain(_plain(model), latents, times, text), 1e-5)
        # And other views are looked at, where they are others.
        other, _, _ = _given(3)
        found = model(other, times, text, around(3))
        difference = (found - _of_plain(_plain(model), other, times, text)).abs().max()
    assert difference > 0.01 * found.abs().max()


def test_a_gate_begins_almost_closed() -> None:
    model = seeded(config(combine="gated"))
    latents, times, text = _given(1)
    with torch.no_grad():
        found = model(latents, times, text, around(1))
        assert_near(found, _of_plain(_plain(model), latents, times, text), 1e-3)


def test_layers_that_replace_leave_what_is_before_them() -> None:
    """Without a residual the plain network cannot come out; what holds is that everything up to the
    first of these layers is as it was, and no weight of the U-Net is another."""
    model = seeded(config(combine="replace", projection_down=0, projection_mid=False))
    plain = _plain(model)
    before: list[torch.Tensor] = []
    for unet in (model.unet, plain):
        unet.mid_block.register_forward_hook(lambda module, inputs, out: before.append(out))
    latents, times, text = _given(1)
    with torch.no_grad():
        found = model(latents, times, text, around(1))
        expected = _of_plain(plain, latents, times, text)
    assert_near(before[0], before[1], 1e-5)
    assert (found - expected).abs().max() > 0.01 * expected.abs().max()


@pytest.mark.parametrize("linear", [True, False])
def test_weights_of_a_plain_unet_stay_as_they_are(linear: bool) -> None:
    """Those of Stable Diffusion 2 project linearly, those of 1 by convolutions."""
    unet = UNet2DConditionModel.from_config(settings(use_linear_projection=linear))
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    augment(unet, config())
    after = unet.state_dict()
    assert {name for name in after if not is_new(name)} == set(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert sum(is_new(name) for name in after) > 100


def test_placement_counts_from_the_bottleneck() -> None:
    # Three levels with attention, and a coarsest without, as Stable Diffusion has them.
    unet = unet_settings(
        (8, 16, 32, 32), (True, True, True, False), size=16, words=WORDS, head_channels=8, blocks=2
    )
    model = seeded(config(unet=unet, projection=ProjectionConfig(grid=32, layers=1, samples=2)))
    grids = {
        name.removesuffix(".unproj_reproj_layer"): module.grid
        for name, module in model.unet.named_modules()
        if name.endswith(".unproj_reproj_layer")
    }
    inner = "attentions.{}.transformer_blocks.0"
    assert grids == {
        **{f"down_blocks.2.{inner.format(k)}": 8 for k in range(2)},
        f"mid_block.{inner.format(0)}": 8,
        **{f"up_blocks.1.{inner.format(k)}": 8 for k in range(3)},
    }


def test_published_placement_on_stable_diffusion() -> None:
    with torch.device("meta"):
        model = ViewDiff(ViewDiffConfig())
    layers = [
        (name, module.grid)
        for name, module in model.unet.named_modules()
        if name.endswith(".unproj_reproj_layer")
    ]
    assert [grid for _, grid in layers] == [32] * 6
    places = [name.partition(".attentions")[0] for name, _ in layers]
    assert sorted(set(places)) == ["down_blocks.2", "mid_block", "up_blocks.1"]
    blocks = [name for name, _ in model.unet.named_modules() if name.endswith("blocks.0.attn1")]
    assert len(blocks) == 16


def test_a_network_without_attention_is_refused() -> None:
    unet = UNet2DConditionModel.from_config(
        unet_settings((8, 16), (False, False), size=SIZE) | {"mid_block_type": "UNetMidBlock2D"}
    )
    with pytest.raises(ValueError, match="no attention"):
        augment(unet, config())


# ------------------------------------------------------------------------------------------- views


@pytest.mark.usefixtures("without_gradients")
@pytest.mark.parametrize("combine", ["replace", "zero", "gated", "add"])
@pytest.mark.parametrize("attention", ["shared", "separate"])
def test_the_order_of_views_does_not_matter(combine: str, attention: str) -> None:
    model = learned(config(combine=combine, attention=attention))
    latents, _, text = _given(4)
    times = torch.full((1, 4), 300)
    cameras, order = around(4), [2, 0, 3, 1]
    found = model(latents, times, text, cameras)
    turned = model(latents[:, order], times, text[:, order], cameras.select(order))
    assert_near(turned, found[:, order], 1e-4)


@pytest.mark.usefixtures("without_gradients")
def test_scenes_of_a_batch_do_not_know_of_each_other() -> None:
    """As guidance has them: without words, with words."""
    model = learned(config())
    latents, times, text = _given(3, scenes=2)
    cameras = around(3, scenes=2)
    found = model(latents, times, text, cameras)
    for scene in range(2):
        one = Cameras(
            cameras.world2cam[scene : scene + 1],
            cameras.intrinsics[scene : scene + 1],
            cameras.image_size,
            cameras.bbox[scene : scene + 1],
            cameras.intensity[scene : scene + 1],
        )
        part = slice(scene, scene + 1)
        assert_near(model(latents[part], times[part], text[part], one), found[part], 1e-5)
    assert torch.equal(cameras.repeat(2).world2cam[2:], cameras.world2cam)


@pytest.mark.usefixtures("without_gradients")
def test_a_view_knows_of_the_others_their_times_cameras_and_lenses() -> None:
    model = learned(config())
    latents, times, text = _given(3)
    cameras = around(3)
    found = model(latents, times, text, cameras)[:, 2]

    def changed(name: str, by: float) -> Cameras:
        value = getattr(cameras, name).clone()
        value[:, 0, ..., -1] += by
        return dataclasses.replace(cameras, **{name: value})

    moved = cameras.world2cam.clone()
    moved[:, 0, 0, 3] += 0.5
    other_latents = latents.clone()
    other_latents[:, 0] += 1
    given = times.clone()
    given[:, 0] = 0
    outcomes = {
        "picture": model(other_latents, times, text, cameras),
        "time": model(latents, given, text, cameras),
        "place": model(latents, times, text, dataclasses.replace(cameras, world2cam=moved)),
        "lens": model(latents, times, text, changed("intrinsics", 9.0)),
        "intensity": model(latents, times, text, changed("intensity", 0.5)),
    }
    for what, outcome in outcomes.items():
        assert (outcome[:, 2] - found).abs().max() > 1e-5, what


@pytest.mark.usefixtures("without_gradients")
def test_words_may_be_the_same_for_all_views_or_none() -> None:
    model = learned(config())
    latents, times, text = _given(3)
    cameras = around(3)
    same = model(latents, times, text[:, :1], cameras)
    assert_near(same, model(latents, times, text[:, :1].expand(-1, 3, -1, -1), cameras), 1e-6)
    none = model(latents, times, None, cameras)
    assert_near(none, model(latents, times, torch.zeros(1, 1, 1, WORDS), cameras), 1e-6)
    assert (none - same).abs().max() > 1e-4


@pytest.mark.usefixtures("without_gradients")
def test_one_timestep_for_all() -> None:
    model = learned(config())
    latents, _, text = _given(2)
    every = model(latents, torch.full((1, 2), 40), text, around(2))
    assert torch.equal(model(latents, torch.tensor(40), text, around(2)), every)


@pytest.mark.usefixtures("without_gradients")
def test_where_the_box_lies_does_not_matter_to_layers_through_space() -> None:
    """The world is moved, and all in it; the pose that is told is left out."""
    model = learned(config())
    times, cameras = torch.full((1, 3), 50), around(3)
    by = torch.tensor([0.3, -0.2, 0.4])
    world2cam = cameras.world2cam.clone()
    world2cam[..., :3, 3] -= world2cam[..., :3, :3] @ by
    moved = dataclasses.replace(cameras, world2cam=world2cam, bbox=cameras.bbox + by)
    centred, again = cameras.centred(), moved.centred()
    torch.testing.assert_close(again.world2cam, centred.world2cam, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.bbox, centred.bbox)
    torch.testing.assert_close(centred.bbox.mean(dim=1), torch.zeros(1, 3))
    projection = model.unet.mid_block.attentions[0].transformer_blocks[0].unproj_reproj_layer
    features, time = noise(1, 3, 32, 4, 4), noise(1, 3, 64)
    one = projection.carry(features, centred, times, time)[0]
    other = projection.carry(features, again, times, time)[0]
    assert_near(one, other, 1e-4)


@pytest.mark.usefixtures("without_gradients")
def test_pictures_that_are_not_square() -> None:
    model = learned(config())
    cameras = dataclasses.replace(around(3), image_size=(64, 128))
    assert cameras.size == (64, 128)
    found = model(noise(1, 3, 4, SIZE, 2 * SIZE), torch.tensor(5), None, cameras)
    assert found.shape == (1, 3, 4, SIZE, 2 * SIZE)
    assert found.isfinite().all()


def test_as_many_cameras_as_pictures() -> None:
    model = seeded(config())
    latents, times, text = _given(3)
    with pytest.raises(ValueError, match="cameras"):
        model(latents, times, text, around(2))
    with pytest.raises(ValueError, match="intrinsics is"):
        dataclasses.replace(around(2), intrinsics=torch.zeros(1, 2, 3))


@pytest.mark.usefixtures("without_gradients")
def test_parts_of_attention_of_voxels_and_of_rays_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = learned(config())
    latents, times, text = _given(3)
    cameras = around(3)
    whole = model(latents, times, text, cameras)
    monkeypatch.setattr(attention, "MOST_SCORES", 5000)
    monkeypatch.setattr(rendering, "_MOST_SAMPLES", 100)
    monkeypatch.setattr(projection, "_MOST_SEEN", 700)
    assert_near(model(latents, times, text, cameras), whole, 1e-5)


def test_other_frames_are_the_first_ones() -> None:
    """Of 4 views that attend to one other, the last two know of the first alone."""
    model = learned(_without_projection(other_frames=1))
    latents, times, text = _given(4)
    cameras = around(4)
    changed = latents.clone()
    changed[:, 3] += 1
    with torch.no_grad():
        found, other = (model(x, times, text, cameras) for x in (latents, changed))
    assert torch.equal(found[:, :3], other[:, :3])
    changed = latents.clone()
    changed[:, 0] += 1
    with torch.no_grad():
        other = model(changed, times, text, cameras)
    assert all((found[:, view] - other[:, view]).abs().max() > 1e-4 for view in range(4))


# ---------------------------------------------------------------------------------------- training


def test_all_that_is_new_learns() -> None:
    model = learned(config(combine="zero", attention="separate")).train()
    latents, times, text = _given(3)
    model(latents, times, text, around(3)).square().mean().backward()
    without = [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    # Biases before a norm of single channels do nothing, nor do those of keys.
    assert not [name for name in without if "lora" in name or "renderer" in name], without
    assert len(without) < 0.05 * sum(1 for _ in model.named_parameters())


def test_gradients_are_the_same_when_blocks_are_computed_again() -> None:
    found = []
    for again in (False, True):
        model = learned(config())
        model.train()
        if again:
            model.unet.enable_gradient_checkpointing()
        for module in model.modules():
            if isinstance(module, rendering.VolumeRenderer):
                module.eval()  # without noise
        latents, times, text = _given(2)
        out = model(latents.requires_grad_(), times, text, around(2))
        out.square().mean().backward()
        found.append(model.unet.conv_in.weight.grad)
    assert_near(found[1], found[0], 1e-4)


def test_opacity_is_noisy_in_training_alone() -> None:
    model = learned(config())
    latents, times, text = _given(2)
    cameras = around(2)
    with torch.no_grad():
        still = [model(latents, times, text, cameras) for _ in range(2)]
        model.train()
        noisy = [model(latents, times, text, cameras) for _ in range(2)]
    assert torch.equal(*still)
    assert not torch.equal(*noisy)


@pytest.mark.usefixtures("without_gradients")
def test_novel_views_are_seen_from_the_grid_but_not_in_it() -> None:
    model = learned(config())
    layer = model.unet.mid_block.attentions[0].transformer_blocks[0].unproj_reproj_layer
    features, time = noise(1, 3, 32, 4, 4), noise(1, 3, 64)
    times, cameras = torch.full((1, 3), 50), around(3).centred()
    changed = features.clone()
    changed[:, 2] += 1
    kept = [layer(x, cameras, times, time, novel=1) for x in (features, changed)]
    assert torch.equal(*kept)
    carried = [layer(x, cameras, times, time) for x in (features, changed)]
    assert (carried[0] - carried[1]).abs().max() > 1e-4
    latents, times, text = _given(3)
    outs = [model(latents, times, text, around(3), novel=novel) for novel in (0, 1)]
    assert (outs[0] - outs[1]).abs().max() > 1e-4


@pytest.mark.usefixtures("without_gradients")
@pytest.mark.parametrize("background", [True, False])
def test_a_new_layer_through_space_carries_what_views_show(background: bool) -> None:
    """With torch's own weights of chance less than a tenth of it came through."""
    layer = seeded(config(projection=ProjectionConfig(grid=32, layers=1, background=background)))
    layer = layer.unet.mid_block.attentions[0].transformer_blocks[0].unproj_reproj_layer
    cameras, times = around(4).centred(), torch.full((1, 4), 500)
    outs = [layer(noise(1, 4, 32, 8, 8, seed=k), cameras, times, noise(1, 4, 64)) for k in (1, 2)]
    assert (outs[0] - outs[1]).std() > 3e-4


@pytest.mark.usefixtures("without_gradients")
def test_a_copy_has_a_context_of_its_own() -> None:
    """As averages of weights are kept."""
    model = learned(config())
    twin = copy.deepcopy(model)
    latents, times, text = _given(3)
    expected = model(latents, times, text, around(3))
    model(noise(1, 2, 4, SIZE, SIZE), times[:, :2] + 1, text[:, :2], around(2, seed=5))
    assert torch.equal(twin(latents, times, text, around(3)), expected)
    assert twin.context is not model.context
    assert twin.context.views == 3


def test_names_of_what_is_new() -> None:
    model = seeded(config(combine="zero"))
    new = dict(model.new_parameters())
    plain = {name for name, _ in _plain(model).named_parameters()}
    assert {name.removeprefix("unet.") for name, _ in model.named_parameters()} == plain | {
        name.removeprefix("unet.") for name in new
    }
    assert not plain & {name.removeprefix("unet.") for name in new}
    renderer = dict(model.renderer_parameters())
    assert renderer
    assert set(renderer) < set(new)


@pytest.mark.parametrize(
    "wrong",
    [
        {"combine": "sum"},
        {"reference": "second"},
        {"attention": "none"},
        {"rank": 0},
        {"rank": 4.0},
        {"other_frames": -1},
        {"up": "y"},
        {"half_box": 0.0},
        {"unet": None},
        {"projection": {"layers": 2}},
        {"projection": {"layers": True}},
        {"projection": {"channels": 15}},
        {"projection": {"background_share": 1.0}},
        {"projection": {"unheard": 1}},
        {"unheard": 1},
    ],
)
def test_a_configuration_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        ViewDiffConfig.from_dict(wrong)


def test_a_configuration_and_its_record() -> None:
    given = config(combine="zero", other_frames=3, intensity=False, up="-z")
    assert ViewDiffConfig.from_dict(given.to_dict()) == given
    assert given.conditions == 8
    assert ViewDiffConfig.from_dict({}) == ViewDiffConfig()
    assert ViewDiffConfig().conditions == 10
