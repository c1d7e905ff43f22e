"""What sees pictures: the convolutions against plain layers, and the answers of the queries."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from backend.models.wala import efficientnet
from backend.models.wala.config import JointConfig
from backend.models.wala.efficientnet import EfficientNetLite0, SameConv
from backend.models.wala.joint import PLACED, JointEncoder
from backend.models.wala.pictures import GUESS, PLACES, PictureEncoder, picture_tokens

JOINT = JointConfig(
    channels=64, image_side=32, image_width=32, image_depth=2, image_heads=2, grid_width=8
)


def published_state(seed=0):
    """Weights of chance by the published names; normalisations that are far from doing nothing."""
    state = {}
    draws = torch.Generator().manual_seed(seed)

    def conv(name, norm, out, into, kernel):
        state[f"{name}.weight"] = torch.randn(out, into, kernel, kernel, generator=draws) / (
            kernel * into**0.5
        )
        state[f"{norm}.weight"] = 0.5 + torch.rand(out, generator=draws)
        state[f"{norm}.bias"] = torch.randn(out, generator=draws)
        state[f"{norm}.running_mean"] = torch.randn(out, generator=draws)
        state[f"{norm}.running_var"] = 0.5 + torch.rand(out, generator=draws)

    conv("_conv_stem", "_bn0", 32, 3, 3)
    number, before = 0, 32
    for stage in efficientnet._STAGES:
        for _ in range(stage.blocks):
            prefix, wide = f"_blocks.{number}.", before * stage.expansion
            if stage.expansion > 1:
                conv(f"{prefix}_expand_conv", f"{prefix}_bn0", wide, before, 1)
            conv(f"{prefix}_depthwise_conv", f"{prefix}_bn1", wide, 1, stage.kernel)
            conv(f"{prefix}_project_conv", f"{prefix}_bn2", stage.channels, wide, 1)
            number, before = number + 1, stage.channels
    return state


def layered(state, pictures):
    """The same network as convolutions and normalisations of their own, block after block."""

    def conv_norm(x, name, norm, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        kernel = weight.shape[-1]
        # TensorFlow: as many outputs as strides fit, the odd column of padding on the right.
        out = -(-x.shape[-1] // stride)
        pad = max((out - 1) * stride + kernel - x.shape[-1], 0)
        before = pad // 2
        x = functional.pad(x, [before, pad - before, before, pad - before])
        x = functional.conv2d(x, weight, stride=stride, groups=groups)
        layer = nn.BatchNorm2d(len(weight), eps=1e-3).eval()
        layer.load_state_dict({k: state[f"{norm}.{k}"] for k in (
            "weight", "bias", "running_mean", "running_var")} | {
            "num_batches_tracked": torch.tensor(0)})  # fmt: skip
        return layer(x)

    x = functional.relu6(conv_norm(pictures, "_conv_stem", "_bn0", stride=2))
    told, number = [], 0
    for stage in efficientnet._STAGES:
        for index in range(stage.blocks):
            prefix, stride = f"_blocks.{number}.", 1 if index else stage.stride
            h = x
            if stage.expansion > 1:
                h = functional.relu6(conv_norm(h, f"{prefix}_expand_conv", f"{prefix}_bn0"))
            groups = h.shape[1]
            h = conv_norm(h, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride, groups)
            h = conv_norm(functional.relu6(h), f"{prefix}_project_conv", f"{prefix}_bn2")
            x = x + h if x.shape == h.shape else h
            if number in (4, 10, 15):
                told.append(x)
            number += 1
    return told


@pytest.mark.parametrize("side", [64, 50])
def test_folded_convolutions_do_what_normalised_ones_do(side):
    state = published_state()
    network = EfficientNetLite0().eval()
    network.load_published(state)
    pictures = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        found, wanted = network(pictures), layered(state, pictures)
    assert [volume.shape[1] for volume in found] == list(efficientnet.CHANNELS)
    assert [volume.shape[-1] for volume in found] == [-(-side // n) for n in (8, 16, 32)]
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_a_checkpoint_without_a_layer_is_refused():
    state = published_state()
    del state["_blocks.7._expand_conv.weight"]
    with pytest.raises(KeyError, match=r"_blocks\.7"):
        EfficientNetLite0().load_published(state)


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 2, 8), (5, 2, 8), (5, 1, 7), (3, 2, 7)])
def test_padding_keeps_the_side(kernel, stride, side):
    conv = SameConv(1, 1, kernel, stride)
    assert conv(torch.zeros(1, 1, side, side)).shape[-1] == -(-side // stride)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    encoder = JointEncoder(JOINT).eval()
    encoder.pictures.backbone.load_published(published_state())
    with torch.no_grad():
        for part in (encoder.pictures.placed, encoder.pictures.sorts):
            for parameter in part.parameters():
                parameter.normal_(0, 30)
        for parameter in encoder.pictures.blocks.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return encoder


def pictures(*shape, seed=0):
    """Large patches of colour: pictures of noise all look alike."""
    few = torch.rand(*shape, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return few.repeat_interleave(16, -1).repeat_interleave(16, -2)


def test_a_picture_is_a_guess_and_tokens(encoder):
    with torch.no_grad():
        told, placed, guess = encoder.pictures(pictures(2, 1), torch.zeros(2, 1, dtype=torch.long))
    assert told.shape == (2, picture_tokens(JOINT), 64)
    assert placed.shape == (2, PLACES**3, 64)
    assert guess.shape == (2, 1, GUESS, GUESS, GUESS)


def test_a_guess_lies_where_its_query_does(encoder):
    """The bias of the last layer for one cell of each query: every eighth cell, in each axis."""
    network = PictureEncoder(JOINT, 9).eval()
    with torch.no_grad():
        network.solid.weight.zero_()
        network.solid.bias.zero_()
        network.solid.bias[(1 * 8 + 2) * 8 + 3] = 1  # x 1, y 2, z 3 of the eight
        guess = network(pictures(1, 1), torch.zeros(1, 1, dtype=torch.long))[2]
    where = guess[0, 0].nonzero()
    assert len(where) == PLACES**3
    assert (where % 8 == torch.tensor([1, 2, 3])).all()


def test_views_in_any_order_and_any_few_of_them(encoder):
    views = pictures(1, 4)
    numbers = torch.tensor([[5, 0, 2, 3]])
    other = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        one = encoder.guess({"views": views, "view_numbers": numbers})
        same = encoder.guess({"views": views[:, other], "view_numbers": numbers[:, other]})
        different = encoder.guess({"views": views, "view_numbers": numbers[:, other]})
        plain = encoder.guess({"views": views})
        in_order = encoder.guess({"views": views, "view_numbers": torch.arange(4)[None]})
    assert torch.allclose(one, same, atol=2e-5)
    assert (one - different).abs().max() > 1e-4
    assert torch.equal(plain, in_order)
    with pytest.raises(ValueError, match="at most 6"):
        encoder({"views": views, "view_numbers": torch.tensor([[0, 1, 2, 6]])})


def test_pictures_of_several_kinds_are_seen_together(encoder):
    image, sketch = pictures(1), pictures(1, seed=1)
    with torch.no_grad():
        both = encoder({"image": image, "sketch": sketch})
        guesses = [encoder.guess(s) for s in ({"image": image}, {"sketch": sketch})]
        larger = functional.interpolate(sketch, size=(64, 64))
        mixed = encoder({"image": image, "sketch": larger})
    assert both.shape == (1, PLACED + 2 * (picture_tokens(JOINT) + 1), 64)
    assert (guesses[0] - guesses[1]).abs().max() > 1e-3
    assert mixed.shape == both.shape


def test_a_picture_says_nothing_of_the_margin(encoder):
    """Beyond the cube's latent cells only what reads the guess can reach, by its convolutions."""
    with torch.no_grad():
        where = encoder.pictures(pictures(1, 1), torch.zeros(1, 1, dtype=torch.long))[1]
        from backend.models.wala.joint import _around

        volume = _around(where).unflatten(1, (6, 6, 6))
    assert torch.equal(volume[:, 1:5, 1:5, 1:5].flatten(1, 3), where)
    assert volume.abs().sum() == pytest.approx(float(where.abs().sum()), rel=1e-5)
