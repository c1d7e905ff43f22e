"""Every network against what the published code computed, and its geometry as it should be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention

from backend.models.viewdiff import cameras, unprojection
from backend.models.viewdiff.attention import CrossFrameAttention, TextAttention, ViewContext
from backend.models.viewdiff.block import ViewBlock
from backend.models.viewdiff.cameras import Cameras
from backend.models.viewdiff.config import ProjectionConfig, ViewDiffConfig
from backend.models.viewdiff.model import ViewDiff
from backend.models.viewdiff.projection import Projection
from backend.models.viewdiff.rendering import VolumeRenderer
from backend.models.viewdiff.volume import ResidualBlock, VolumeUNet

from .recordings import Recording, assert_near, four, read

pytestmark = pytest.mark.usefixtures("without_gradients")


def _cameras(recording: Recording, intensity: torch.Tensor | None = None) -> Cameras:
    """Of one scene, or of several."""
    arrays = recording.inputs
    world2cam, lens = arrays["world2cam"], four(arrays["K"])
    if world2cam.ndim == 3:
        world2cam, lens = world2cam[None], lens[None]
    scenes, views = world2cam.shape[:2]
    box = arrays.get("bbox", torch.tensor([[[-1.0, -1, -1], [1, 1, 1]]]).expand(scenes, 2, 3))
    if intensity is None:
        intensity = torch.zeros(views, 2)
    return Cameras(world2cam, lens, 256, box, intensity.expand(scenes, views, 2))


# ---------------------------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("output", "reference", "intensity"),
    [
        ("z_absolute", "absolute", True),
        ("z_relative_first", "first", True),
        ("z_absolute_no_intensity", "absolute", False),
    ],
)
def test_what_is_told_of_cameras(output: str, reference: str, intensity: bool) -> None:
    recording = read("pose_conditioning")
    given = _cameras(recording, recording.inputs["intensity_mean_var"])
    assert_near(cameras.conditions(given, reference, intensity)[0], recording.outputs[output])


@pytest.mark.parametrize(
    ("output", "reference"),
    [("z_sphere_absolute", "absolute"), ("z_sphere_relative_first", "first")],
)
def test_what_is_told_of_a_ring(output: str, reference: str) -> None:
    recording = read("pose_conditioning")
    recording.inputs["world2cam"] = recording.inputs["world2cam_sphere"]
    found = cameras.conditions(_cameras(recording), reference)[0]
    assert_near(found, recording.outputs[output])


# -------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize(
    "name",
    [
        "cfa_lora_temb_n5_k4_self",
        "cfa_plain_n4_k3_noself",
        "cfa_lora_n1_k0_prior_preservation",
        "cfa_lora_n4_k2_subset",
    ],
)
def test_attention_over_views(name: str) -> None:
    recording = read(name)
    config, arrays = recording.config, recording.inputs
    context = ViewContext()
    context.views = config["n_images"]
    context.conditions, context.time = arrays.get("z"), arrays.get("temb")
    heads, width = config["heads"], config["dim_head"]
    attention = Attention(heads * width, heads=heads, dim_head=width)
    attention.set_processor(
        CrossFrameAttention(
            attention,
            context,
            conditions=config["z_dim"],
            time_channels=config["temb_out"] if config["temb"] else 0,
            embedding=config["temb_size"] or 0,
            rank=config["rank"] if config["lora"] else 0,
            alpha=config["network_alpha"],
            scale=config["scale"],
            own_frame=config["with_self_attention"],
            other_frames=config["to_k_other_frames"],
        )
    )
    found = recording.load(attention)(arrays["hidden_states"])
    assert_near(found, recording.outputs["hidden_states"])


def test_attention_to_words() -> None:
    recording = read("text_cross_attention_pose_lora")
    config, arrays = recording.config, recording.inputs
    context = ViewContext()
    context.conditions = arrays["z"]
    attention = Attention(
        config["heads"] * config["dim_head"],
        config["cross_attention_dim"],
        heads=config["heads"],
        dim_head=config["dim_head"],
    )
    attention.set_processor(
        TextAttention(attention, context, conditions=config["z_dim"], rank=config["rank"])
    )
    found = recording.load(attention)(
        arrays["hidden_states"], encoder_hidden_states=arrays["encoder_hidden_states"]
    )
    assert_near(found, recording.outputs["hidden_states"])


# ------------------------------------------------------------------------------ rays and the grid


def test_rays() -> None:
    recording = read("rays")
    arrays, expected = recording.inputs, recording.outputs
    size = tuple(arrays["latent_hw"].tolist())
    lens = cameras.at_size(four(arrays["K"]), tuple(arrays["orig_hw"].tolist()), size)
    assert_near(lens, four(expected["K_scaled"]))
    box = arrays["bbox"]
    origins, directions = unprojection.rays(arrays["world2cam"], lens, size, box)
    for end in ("aabb", "radius"):
        assert_near(origins, expected[f"centers_{end}"])
        assert_near(directions, expected[f"rays_{end}"])
    assert_near(2 / unprojection.longest_side(box), expected["scale"])
    for found, name in zip(
        (
            *unprojection.through_box(origins, directions, box),
            *unprojection.around_camera(origins),
        ),
        ("near_aabb", "far_aabb", "near_radius", "far_radius"),
        strict=True,
    ):
        assert (found - expected[name]).abs().max() <= 1e-4 * expected["far_radius"].max(), name


def test_pixels_are_counted_from_the_middle_of_the_first() -> None:
    recording = read("rays")
    size = tuple(recording.inputs["latent_hw"].tolist())
    untouched = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    _, directions = unprojection.rays(
        torch.eye(4)[None, None], untouched, size, recording.inputs["bbox"]
    )
    assert_near(directions[0, 0].mT, recording.outputs["pixel_grid"])


def test_the_grid_spans_the_box() -> None:
    recording = read("rays")
    to_world = recording.outputs["grid_to_world"][0]
    points, reached = unprojection.voxel_centres(4, recording.inputs["bbox"])
    middles = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    y, x, z = torch.meshgrid(middles, middles, middles, indexing="ij")
    in_grid = torch.stack([x, y, z, torch.ones_like(x)], dim=-1).flatten(0, 2)
    assert_near(points[0], (in_grid @ to_world.mT)[:, :3])
    assert reached.all()


@pytest.mark.parametrize("name", ["unproject_plain", "unproject_contracted"])
def test_unprojection_as_published(name: str) -> None:
    recording = read(name)
    config, arrays, expected = recording.config, recording.inputs, recording.outputs
    share = config["background_fraction"] if config["contract_background"] else None
    points, reached = unprojection.voxel_centres(
        config["grid_dim"], arrays["bbox"], share, published=True
    )
    assert_near(points.mT, expected["world_xyz"])
    found, weight, depth = unprojection.unproject(
        arrays["features"], arrays["world2cam"], four(arrays["K"]), points
    )
    grid = (config["grid_dim"],) * 3
    for have, name in (
        (found * reached[:, None], "volume"),
        (weight, "weight"),
        (depth, "voxel_depth"),
    ):
        assert_near(have.mT.unflatten(-1, grid), expected[name])


@pytest.mark.parametrize("name", ["aggregator_temb", "aggregator_no_temb"])
def test_views_become_one_grid(name: str) -> None:
    recording = read(name)
    arrays = {key: value.flatten(3).mT for key, value in recording.inputs.items() if key != "temb"}
    network = recording.load(
        unprojection.RayAggregator(recording.config["feature_dim"], recording.config["temb_dim"])
    )
    found = network(
        torch.cat([arrays["features"], arrays["voxel_dir"]], dim=-1),
        arrays["mask"],
        arrays["voxel_depth"],
        recording.inputs.get("temb"),
    )
    assert_near(found.mT.unflatten(-1, (4, 4, 4)), recording.outputs["volume"])


def test_unet_in_space() -> None:
    recording = read("cnn3d_unet3")
    network = recording.load(VolumeUNet(recording.config["channels"], 1))
    found = network(recording.inputs["volume"], recording.inputs["timestep"])
    assert_near(found, recording.outputs["volume"])


def test_residual_block_in_space() -> None:
    recording = read("cnn3d_resnet1")
    network = recording.load(ResidualBlock(16, 16, 1280))
    found = network(recording.inputs["volume"], recording.inputs["temb"])
    assert_near(found, recording.outputs["volume"])


@pytest.mark.parametrize("name", ["renderer_plain", "renderer_contracted"])
def test_rendering(name: str) -> None:
    recording = read(name)
    config, arrays = recording.config, recording.inputs
    share = 1 - config["foreground_fraction"] if config["contract"] else None
    assert config["num_samples_inf"] == (config["num_samples"] if share else 0)
    network = recording.load(
        VolumeRenderer(16, config["num_samples"], share, config["disparity_at_inf"] or 0.5)
    )
    features, mask, depth = network(
        arrays["volume"],
        arrays["centers"],
        arrays["rays"],
        arrays["rays_encoding"],
        arrays["near"],
        arrays["far"],
    )
    assert_near(features, recording.outputs["features"])
    assert_near(mask, recording.outputs["mask"])
    assert_near(depth, recording.outputs["depth"])


# ------------------------------------------------------------------------------ layers and network


def _projection_config(config: dict[str, Any]) -> ProjectionConfig:
    return ProjectionConfig(
        channels=config["dim_3d_latent"],
        layers=config["num_3d_layers"],
        samples=config["samples_per_ray"],
        background=config["model_background"],
        background_share=config["background_fraction"],
        disparity_at_infinity=config["disparity_at_inf"],
        compress=config["proj_in"],
        expand=config["proj_out"],
        aggregator=config["aggregator"],
        time=config["temb_dim"] is not None,
        view_dependent=config["view_dependent"],
    )


PROJECTIONS = (
    *("projection_background_temb", "projection_foreground_only"),
    *("projection_mean_single", "projection_training_one_novel_view"),
)


def _projection(recording: Recording, published: bool) -> Projection:
    config = recording.config
    network: Projection = recording.load(
        Projection(
            config["latent_channels"],
            config["dim_3d_grid"],
            config["temb_dim"] or 1280,
            _projection_config(config),
            published,
        )
    )
    return network


@pytest.mark.parametrize("name", PROJECTIONS)
def test_what_is_on_its_way_through_space(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours has features last where the published code has them second."""
    recording = read(name)
    arrays, expected = recording.inputs, recording.outputs
    network, grid = _projection(recording, published=True), (recording.config["dim_3d_grid"],) * 3
    seen: dict[str, torch.Tensor] = {}
    together = network._together

    def watched(found: torch.Tensor, valid: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen["unprojected"], seen["unprojected_weight"] = found, valid
        seen["aggregated"] = together(found, valid, *rest)
        return seen["aggregated"]

    def rendered(_: Any, given: tuple[torch.Tensor, ...], made: tuple[torch.Tensor, ...]) -> None:
        seen["volume_to_render"], seen["rendered_flat"] = given[0], made[0]

    monkeypatch.setattr(network, "_together", watched)
    network.volume_renderer.register_forward_hook(rendered)
    novel = recording.config["n_novel_images"]
    network.carry(
        arrays["latents"], _cameras(recording), arrays["timestep"], arrays.get("temb"), novel
    )
    for output in ("unprojected", "unprojected_weight", "aggregated"):
        if output in expected:
            assert_near(seen[output].mT.unflatten(-1, grid), expected[output])
    for output in ("volume_to_render", "rendered_flat"):
        assert_near(seen[output], expected[output])


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_layer_through_space(name: str, published: bool) -> None:
    recording = read(name)
    arrays = recording.inputs
    network = _projection(recording, published)
    novel = recording.config["n_novel_images"]
    found = network.carry(
        arrays["latents"], _cameras(recording), arrays["timestep"], arrays.get("temb"), novel
    )
    end = "" if published else "_fixed"
    for have, output in zip(found, ("latents", "mask", "depth"), strict=True):
        assert_near(have, recording.outputs[output + end])
    seen = arrays["latents"][:, : arrays["latents"].shape[1] - novel]
    assert_near(network.compressed(seen).flatten(0, 1), recording.outputs["compressed"])


def test_published_geometry_is_not_the_right_one() -> None:
    outputs = read("projection_background_temb").outputs
    difference = (outputs["latents"] - outputs["latents_fixed"]).abs().max()
    assert difference > 0.01 * outputs["latents"].abs().max()


def test_transformer_block(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = read("transformer_block_with_projection")
    config, arrays = recording.config, recording.inputs
    context = ViewContext()
    context.views = config["n_images"]
    context.conditions, context.time = arrays["z"], arrays["temb"]
    context.timesteps, context.cameras = arrays["timestep"][None], _cameras(recording)
    width, heads = config["dim"], config["heads"]
    block = BasicTransformerBlock(
        width, heads, width // heads, cross_attention_dim=config["cross_attention_dim"]
    )
    block.attn1.set_processor(
        CrossFrameAttention(
            block.attn1,
            context,
            conditions=10,
            time_channels=8,
            embedding=config["temb_dim"],
            rank=4,
        )
    )
    block.attn2.set_processor(TextAttention(block.attn2, context, conditions=10, rank=4))
    projection = Projection(
        width,
        config["dim_3d_grid"],
        config["temb_dim"],
        ProjectionConfig(layers=config["num_3d_layers"], samples=config["samples_per_ray"]),
        published=True,
    )
    network = recording.load(ViewBlock(block, context, projection=projection))
    network.size = (4, 4)
    told: list[tuple[torch.Tensor, ...]] = []
    carry = projection.carry
    monkeypatch.setattr(projection, "carry", lambda *given: told.append(carry(*given)) or told[-1])
    found = network(arrays["hidden_states"], encoder_hidden_states=arrays["encoder_hidden_states"])
    assert_near(found, recording.outputs["hidden_states"])
    ((_, mask, depth),) = told
    assert_near(mask, recording.outputs["mask"])
    assert_near(depth, recording.outputs["depth"])


@pytest.mark.parametrize("mode", ["all_noisy", "known_first", "known_first_cfg_batch"])
def test_unet(mode: str) -> None:
    recording = read("tiny_unet_cross_frame")
    arrays = recording.inputs
    step = int(arrays["timestep"])
    known = 0 if mode == "all_noisy" else recording.config["n_known"]
    timesteps = torch.tensor([0] * known + [step] * (4 - known))
    assert_near(_run(recording, timesteps, mode), recording.outputs[f"sample_{mode}"])


def test_unet_with_a_timestep_for_each_view() -> None:
    recording = read("tiny_unet_cross_frame")
    found = _run(recording, recording.inputs["timestep_per_image"], "per_image")
    assert_near(found, recording.outputs["sample_per_image_timestep"])


def _run(recording: Recording, timesteps: torch.Tensor, mode: str) -> torch.Tensor:
    """With guidance, the batch is a scene without words and one with them."""
    arrays = recording.inputs
    model = ViewDiff(_unet_config(recording.config))
    recording.load(model.unet)
    text, conditions, times = arrays["text"], arrays["z"], 1
    if mode.endswith("cfg_batch"):
        text, times = torch.cat([arrays["uncond_text"], text]), 2
    # What was told of the cameras was recorded, not the cameras.
    model.context.views, model.context.conditions = 4, conditions.repeat(times, 1)
    latents = arrays["latents"].repeat(times, 1, 1, 1)
    return model.unet(latents, timesteps.repeat(times), text).sample


def _unet_config(config: dict[str, Any]) -> ViewDiffConfig:
    names = ("block_out_channels", "cross_attention_dim", "norm_num_groups", "layers_per_block")
    names += ("down_block_types", "up_block_types", "mid_block_type", "use_linear_projection")
    unet = {name: config[name] for name in names}
    unet |= {"sample_size": 8, "attention_head_dim": config["heads"]}
    return ViewDiffConfig(
        unet=unet, rank=config["rank"], projection_down=0, projection_mid=False, projection_up=0
    )
