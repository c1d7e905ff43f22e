"""What the sizes of a WaLa model are: one frozen dataclass per network.

`from_args` reads the names that the published args.json uses. There, a missing key means null.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ...sampling import Diffusion, Prediction, Variance

LATENT_SIDE = 12
HIDDEN = 128
"""Width of the autoencoder and of the voxel encoder in every published model."""


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the small autoencoder; see compact.py.

    components: of every 2^3 cells. widths: of the layers at 24^3 and 12^3. encoder_blocks: at 24^3
    and 12^3; decoder_blocks: at 12^3 and 24^3.
    """

    components: int = 128
    widths: tuple[int, int] = (64, 128)
    encoder_blocks: tuple[int, int] = (1, 2)
    decoder_blocks: tuple[int, int] = (3, 2)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The VQ-VAE between packed wavelet trees and latents.

    levels: of the wavelet tree, coarsest first, that are coded; latent_channels, codes: of the
    codebook.
    encoder_blocks, decoder_blocks: transformer blocks at 12^3. commitment: beta of the loss.
    widths: of the layers at 46^3, 23^3 and 12^3, multiples of 32; published models have 128.
    normalized: latents and codes are L2-normalised over channels.
    groups: channels are quantised in so many groups, each with `codes` of its own; a divisor of
    latent_channels. compact: the small autoencoder, to which widths and blocks say nothing.
    """

    levels: int = 2
    latent_channels: int = 4
    codes: int = 1024
    encoder_blocks: int = 0
    decoder_blocks: int = 0
    commitment: float = 0.25
    normalized: bool = False
    dropout: float = 0.0
    widths: tuple[int, int, int] = (HIDDEN, HIDDEN, HIDDEN)
    groups: int = 1
    compact: CompactConfig | None = None

    def __post_init__(self) -> None:
        if not self.groups or self.latent_channels % self.groups:
            raise ValueError(f"{self.latent_channels} channels are not {self.groups} equal groups")

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> AutoencoderConfig:
        """From what JSON kept of `dataclasses.asdict`. Raises ValueError for what is none."""
        config: AutoencoderConfig = _typed(AutoencoderConfig, record, "autoencoder")
        return config

    @property
    def volume_channels(self) -> int:
        """Of the packed tree: 64 for two levels."""
        return 8**self.levels

    @staticmethod
    def from_args(args: Mapping[str, Any]) -> AutoencoderConfig:
        """From a model's args.json."""
        return AutoencoderConfig(
            levels=args["max_training_level"],
            latent_channels=args["e_dim"],
            codes=args["n_e"],
            encoder_blocks=args.get("encoder_num_tran") or 0,
            decoder_blocks=args.get("decoder_num_tran") or 0,
            commitment=args.get("beta") or 0.25,
            normalized=args.get("normalize_latent") == "l2_norm",
            dropout=args.get("dropout") or 0.0,
        )


@dataclass(frozen=True)
class UVitConfig:
    """The denoiser.

    width, depth, heads: of the transformer; patch: side of a token in latent cells, divides 12.
    channels, residual_blocks: of the convolutions before and (as many) after the transformer.
    context_channels: of the condition tokens, None for an unconditional model.
    cross_attention: tokens attend to the condition in every block ("cross_dit").
    time_condition: the pooled condition is added to the time embedding.
    residual_condition: width of the pooled condition that scales the residual blocks, or None.
    skip_reduction: bottleneck of the learnable skip gates, None for plain skips.
    placed: the first (12 / patch)^3 tokens of a condition say something about the cells of one
    patch each; they are added where the cells are, and not attended to.
    margin: so many cells on every side, which no shape reaches, are not computed but learned.
    """

    width: int
    depth: int
    heads: int
    channels: int
    residual_blocks: int
    patch: int = 2
    latent_channels: int = 4
    context_channels: int | None = None
    cross_attention: bool = False
    registers: int = 0
    time_condition: bool = False
    residual_condition: int | None = None
    skip_reduction: int | None = None
    placed: bool = False
    margin: int = 0

    def __post_init__(self) -> None:
        if LATENT_SIDE % self.patch or self.side % self.patch or self.side < self.patch:
            raise ValueError(f"patch {self.patch} does not divide the latent side {self.side}")
        needs_context = self.cross_attention or self.time_condition or self.residual_condition
        needs_context = needs_context or self.placed
        if self.placed and (self.context_channels or 0) % self.patch**3:
            raise ValueError(f"{self.context_channels} channels do not fill {self.patch}^3 cells")
        if needs_context and self.context_channels is None:
            raise ValueError("a conditional U-ViT needs context_channels")

    @property
    def side(self) -> int:
        """Of the cells that are computed."""
        return LATENT_SIDE - 2 * self.margin

    @staticmethod
    def from_args(args: Mapping[str, Any]) -> UVitConfig:
        """From a model's args.json. Raises ValueError for the plain transformer "latent_dit"."""
        if args.get("network_type") == "latent_dit":
            raise ValueError("network_type latent_dit is not a U-ViT")
        return UVitConfig(
            width=args["att_hidden_size"],
            depth=args["transformer_num_blocks"],
            heads=args["transformer_num_heads"],
            channels=args["unet_model_channels"],
            residual_blocks=args["unet_num_res_blocks"][0],
            patch=args["att_patch_size"],
            latent_channels=args["e_dim"],
            context_channels=_context_channels(args),
            cross_attention=args["dit_block_type"] == "cross_dit",
            registers=args.get("transformer_add_num_register") or 0,
            time_condition=bool(args.get("add_condition_time_ch")),
            residual_condition=args.get("add_condition_res_ch"),
            skip_reduction=args.get("learnable_skip_r"),
        )


@dataclass(frozen=True)
class PointEncoderConfig:
    """PointNet with learned queries: `queries` tokens of `channels`. large: the larger variant."""

    channels: int
    width: int
    queries: int
    large: bool = False

    @staticmethod
    def from_args(args: Mapping[str, Any]) -> PointEncoderConfig:
        """From a model's args.json."""
        return PointEncoderConfig(
            channels=args["pc_output_dim"],
            width=args["pc_dims"],
            queries=args["num_inds"],
            large=args.get("pc_encoder_type") != "PointNet_Simple",
        )


@dataclass(frozen=True)
class VoxelEncoderConfig:
    """Occupancy of R^3 (16^3) -> (R / 2)^3 tokens of `channels`."""

    channels: int

    @staticmethod
    def from_args(args: Mapping[str, Any]) -> VoxelEncoderConfig:
        """From a model's args.json."""
        return VoxelEncoderConfig(channels=args["voxel_context_dim"])


@dataclass(frozen=True)
class ImageEncoderConfig:
    """DINOv2 with registers; the defaults are ViT-L/14, which the published image models use.

    position_side: patches along a side of the images that the position table was trained on.
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    registers: int = 4
    patch: int = 14
    position_side: int = 37


@dataclass(frozen=True)
class ConditionConfig:
    """Condition tokens on their way into the denoiser.

    tokens, channels: of one view. mapping_layers: learned layers before the position is added.
    cameras: rows of the camera table, None for none.
    training_views: the published cameras of the views, in the order in which views must be given;
    empty where the camera is looked up by number.
    """

    tokens: int
    channels: int
    mapping_layers: int = 0
    cameras: int | None = None
    training_views: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.training_views and self.cameras != len(self.training_views):
            raise ValueError(f"{self.cameras} cameras for views {self.training_views}")

    @staticmethod
    def from_args(args: Mapping[str, Any]) -> ConditionConfig:
        """From a model's args.json."""
        views = tuple(args.get("training_views") or ())
        with_camera = args.get("use_camera_index") or args.get("use_multiple_views_grids")
        channels = _context_channels(args)
        if channels is None:
            raise ValueError("an unconditional model has no condition tokens")
        return ConditionConfig(
            tokens=_context_tokens(args),
            channels=channels,
            mapping_layers=args.get("cond_num_mapping_layers") or 0,
            cameras=(len(views) or args.get("max_images_num") or 55) if with_camera else None,
            training_views=views if with_camera else (),
        )


@dataclass(frozen=True)
class ImaginedConfig:
    """What makes voxels of words, or of nothing; see imagined.py. components: principal ones of the
    voxels of shapes; width, depth: of the network over them. names: of things, as often as they
    were learned; one of them is said where nothing is."""

    components: int = 320
    width: int = 384
    depth: int = 4
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class JointConfig:
    """The encoder of a model that takes any of several conditions; see joint.py.

    channels: of its tokens, a multiple of 64. image_side: pixels of the pictures; image_width,
    image_depth, image_heads: of the transformer that reads what was seen in them.
    views: most pictures at a time. text: length of the vector of a sentence, 0 where it takes none.
    words: what single words are known, in the order of their rows; empty likewise.
    grid_width, grid_blocks: of the convolutions that read points and voxels.
    imagined: of what makes voxels where nothing says where the shape is; None where there is none.
    """

    channels: int = 256
    image_side: int = 112
    image_width: int = 256
    image_depth: int = 4
    image_heads: int = 4
    views: int = 6
    text: int = 0
    words: tuple[str, ...] = ()
    grid_width: int = 64
    grid_blocks: int = 2
    imagined: ImaginedConfig | None = None


@dataclass(frozen=True)
class WalaConfig:
    """A whole model. At most one of points, voxels, image, joint is given; none: unconditional.

    guided: trained with dropped conditions, so that classifier-free guidance works.
    pre_quantised: the diffusion was trained on latents before the codebook. Either way, generated
    latents go through it.
    """

    autoencoder: AutoencoderConfig
    denoiser: UVitConfig
    diffusion: Diffusion
    condition: ConditionConfig | None = None
    points: PointEncoderConfig | None = None
    voxels: VoxelEncoderConfig | None = None
    image: ImageEncoderConfig | None = None
    joint: JointConfig | None = None
    guided: bool = True
    pre_quantised: bool = True

    def __post_init__(self) -> None:
        if self.joint and not (self.denoiser.placed and self.denoiser.patch == 2):
            raise ValueError("joint conditions need a denoiser of placed tokens and patch 2")

    @staticmethod
    def from_args(args: Mapping[str, Any]) -> WalaConfig:
        """From a model's args.json."""
        conditional = _context_channels(args) is not None
        points = args.get("use_pointcloud_conditions")
        voxels = args.get("use_voxel_conditions")
        return WalaConfig(
            autoencoder=AutoencoderConfig.from_args(args),
            denoiser=UVitConfig.from_args(args),
            diffusion=diffusion_from_args(args),
            condition=ConditionConfig.from_args(args) if conditional else None,
            points=PointEncoderConfig.from_args(args) if points else None,
            voxels=VoxelEncoderConfig.from_args(args) if voxels else None,
            image=ImageEncoderConfig() if conditional and not points and not voxels else None,
            guided=args.get("dp_cond") is not None,
            pre_quantised=bool(args.get("pre_quant")),
        )

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` is its inverse."""
        record: dict[str, Any] = _plain(self)
        return record

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> WalaConfig:
        """From `to_dict`. Raises ValueError for what cannot be a configuration."""
        config: WalaConfig = _typed(WalaConfig, record, "config")
        return config


_PREDICTIONS = {
    "START_X": Prediction.START,
    "EPSILON": Prediction.NOISE,
    "PREVIOUS_X": Prediction.PREVIOUS,
}
_VARIANCES = {"FIXED_SMALL": Variance.SMALL, "FIXED_LARGE": Variance.LARGE}


def diffusion_from_args(args: Mapping[str, Any]) -> Diffusion:
    """The noise schedule and what the network predicts."""
    return Diffusion(
        schedule=args["diffusion_beta_schedule"],
        steps=args["diffusion_step"],
        scale=args.get("diffusion_scale_ratio") or 1.0,
        prediction=_PREDICTIONS[args["diffusion_model_mean_type"]],
        variance=_VARIANCES[args["diffusion_model_var_type"]],
    )


def _context_channels(args: Mapping[str, Any]) -> int | None:
    if args.get("use_pointcloud_conditions"):
        return args["pc_output_dim"]
    if args.get("use_voxel_conditions"):
        return args["voxel_context_dim"]
    if args.get("use_image_conditions") or args.get("use_depth_conditions"):
        # Published runs overwrite it with the width of the image encoder.
        return args.get("cond_grid_emb_size") or ImageEncoderConfig().width
    return None


def _context_tokens(args: Mapping[str, Any]) -> int:
    if args.get("use_pointcloud_conditions"):
        return args["num_inds"]
    if args.get("use_voxel_conditions"):
        return args["voxel_dim"] ** 3
    return args.get("cond_grid_size") or 256


# ------------------------------------------------------------------------------------ records

_LARGEST = 1 << 16
"""No width, depth or number in a configuration is larger: a broken file must not cost minutes."""


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {spec.name: _plain(getattr(value, spec.name)) for spec in fields}
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _typed(kind: Any, value: Any, name: str) -> Any:
    """`value` of JSON as a `kind`: a dataclass, an enumeration, a tuple, a number or None."""
    if isinstance(kind, types.UnionType):
        choices = typing.get_args(kind)
        if value is None and type(None) in choices:
            return None
        (kind,) = (choice for choice in choices if choice is not type(None))
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, name)
    if typing.get_origin(kind) is tuple:
        return _tuple(typing.get_args(kind), value, name)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind in (int, float) and not 0 <= value <= _LARGEST):
        raise ValueError(f"{name} is {value!r}")
    return value


def _record(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}")
    kinds = typing.get_type_hints(kind)
    unknown = sorted(value.keys() - kinds.keys())
    if unknown:
        raise ValueError(f"{name} has unknown entries: {', '.join(unknown)}")
    try:
        return kind(**{key: _typed(kinds[key], entry, key) for key, entry in value.items()})
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None


def _tuple(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    many = len(kinds) == 2 and kinds[1] is Ellipsis
    if not isinstance(value, (list, tuple)) or not (many or len(value) == len(kinds)):
        raise ValueError(f"{name} is {value!r}")
    return tuple(
        _typed(kinds[0 if many else index], entry, name) for index, entry in enumerate(value)
    )
