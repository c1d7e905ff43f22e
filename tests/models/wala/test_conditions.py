from __future__ import annotations

import pytest
import torch

from backend.models.wala.conditions import ConditionEmbedding, VoxelEncoder, point_encoder
from backend.models.wala.config import ConditionConfig, PointEncoderConfig, VoxelEncoderConfig

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
POINT_CASES = ["pointnet_simple", "pointnet_large"]


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _point_config(args: dict) -> PointEncoderConfig:
    return PointEncoderConfig(
        channels=args["output_dim"],
        width=args["pc_dims"],
        queries=args["num_inds"],
        large=args["class_"] == "PointNet_Large",
    )


@pytest.mark.parametrize("name", POINT_CASES)
def test_point_encoders(golden, name: str) -> None:
    case = golden(name)
    encoder = case.load(point_encoder(_point_config(case.args)))
    out: list[torch.Tensor] = []
    assert case.check_taps(encoder, "taps", lambda: out.append(encoder(case.tensor("points")))) == 9
    torch.testing.assert_close(out[0], case.tensor("out"), **TOLERANCE)


@pytest.mark.parametrize("name", POINT_CASES)
def test_the_order_of_points_does_not_matter(golden, name: str) -> None:
    case = golden(name)
    encoder = case.load(point_encoder(_point_config(case.args)))
    points = case.tensor("points")
    order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = encoder(points[:, order])
    torch.testing.assert_close(shuffled, encoder(points), atol=2e-5, rtol=2e-5)
    assert (encoder(points * 1.1) - shuffled).abs().max() > 1e-2


def test_voxel_encoder(golden) -> None:
    case = golden("voxel_encoder")
    encoder = case.load(VoxelEncoder(VoxelEncoderConfig(case.args["channel_out"])))
    out: list[torch.Tensor] = []
    voxels = case.tensor("voxels").float()
    assert case.check_taps(encoder, "taps", lambda: out.append(encoder(voxels))) == 9
    expected = case.tensor("out").permute(0, 2, 3, 4, 1).reshape(1, 512, -1)
    torch.testing.assert_close(out[0], expected, **TOLERANCE)


@pytest.mark.parametrize(
    "name", ["condition_single_view_camera_index", "condition_single_view_plain"]
)
def test_embedding_of_a_single_view(golden, name: str) -> None:
    case = golden(name)
    embedding = case.load(ConditionEmbedding(ConditionConfig.from_args(case.args)))
    cameras = case.tensor("img_idx") if "img_idx" in case.arrays else None
    found = embedding(case.tensor("features"), cameras)
    torch.testing.assert_close(found, case.tensor("out"), atol=1e-6, rtol=0)
    one_view = embedding(case.tensor("features")[:, None], cameras)
    assert torch.equal(found, one_view)


def test_a_single_view_is_camera_0_unless_told() -> None:
    embedding = ConditionEmbedding(ConditionConfig(tokens=3, channels=4, cameras=55))
    features = _random(2, 3, 4)
    first, other = (embedding(features, torch.tensor([number])) for number in (0, 9))
    assert torch.equal(embedding(features), first)
    weight = embedding.camera_emb.weight
    torch.testing.assert_close(other - first, (weight[9] - weight[0]).expand(2, 3, 4))


def test_views_get_the_cameras_in_the_order_of_training() -> None:
    config = ConditionConfig.from_args(
        {
            "use_image_conditions": True,
            "use_multiple_views_grids": True,
            "training_views": [3, 6, 10, 26],
            "cond_grid_size": 5,
            "cond_grid_emb_size": 8,
        }
    )
    assert config.training_views == (3, 6, 10, 26)
    embedding = ConditionEmbedding(config)
    assert embedding.camera_emb.weight.shape == (4, 8)
    features = _random(2, 4, 5, 8)
    found = embedding(features)
    assert found.shape == (2, 20, 8)
    for view in range(4):
        expected = features[:, view] + embedding.cond_pos_emb + embedding.camera_emb.weight[view]
        torch.testing.assert_close(found[:, 5 * view : 5 * view + 5], expected)


def test_wrong_numbers_of_views() -> None:
    embedding = ConditionEmbedding(
        ConditionConfig(tokens=3, channels=4, cameras=2, training_views=(3, 6))
    )
    with pytest.raises(ValueError, match="3 views, the model was trained for 2"):
        embedding(_random(1, 3, 3, 4))
    with pytest.raises(ValueError, match=r"cameras \(3,\) for 2 views"):
        embedding(_random(1, 2, 3, 4), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="2 cameras for views"):
        ConditionConfig(tokens=3, channels=4, cameras=2, training_views=(3, 6, 10))
