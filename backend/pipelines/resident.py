"""Models stay loaded between the jobs of a worker, as long as there is room for them.

FIELDFORGE_PRECISION: "bfloat16", "float16" or "float32"; by default bfloat16 on a graphics card
(text models: float16) and float32 on a processor.
FIELDFORGE_CUDA_GRAPHS=1: steps on a card are recorded and replayed. Recording takes about three
steps, so it pays from about six on.
"""

from __future__ import annotations

import gc
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from .. import device as devices
from .. import environment, sampling, weights
from ..errors import BadInput
from ..geometry import wavelets
from ..models.wala import acceleration, loading
from ..models.wala.imagined import SAID, Known
from ..models.wala.model import RESOLUTION, Wala
from ..models.wala.preview_decoder import PreviewDecoder
from ..tensor_files import SIZES, read_header
from ..weights import DESCRIPTION, Installed
from . import Context, memory

if TYPE_CHECKING:
    from ..models.hyperdiffusion.model import FieldModel
    from ..models.ldm3d.model import Ldm3d
    from ..models.mvadapter.model import MVAdapter
    from ..models.mvdream.model import MVDream
    from ..models.viewdiff.painter import ViewPainter

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_TEXT = torch.float16
"""Of text models on a graphics card: strong guidance over many steps shows what bfloat16 rounds."""
SPARE = 0.1
"""Share of the memory that stays free for others: models that eat into it are unloaded."""

Key = tuple[str, str, torch.dtype, tuple[tuple[int, int], ...]]


@dataclass(eq=False)
class Loaded:
    """A model in memory. Its networks compute in `dtype`; latents are float32 throughout.

    previews: the quick decoder that learns from what the model decodes.
    pace: seconds of stages as they were measured last, by name.
    """

    model: Wala
    installed: Installed
    device: torch.device
    dtype: torch.dtype
    nbytes: int
    previews: PreviewDecoder
    pace: dict[str, float] = field(default_factory=dict)
    used_at: float = 0.0

    def encode(self, source: np.ndarray | Mapping[str, np.ndarray]) -> torch.Tensor:
        """As Wala.encode, of one shape: float32 without the batch axis."""
        if isinstance(source, Mapping):
            # The joint encoder counts points in cells, which in half precision they would miss.
            exact = {"points": torch.float32, "view_numbers": torch.int64}
            return self.model.encode(
                {name: self._one(array, exact.get(name)) for name, array in source.items()}
            )
        return self.model.encode(self._one(source))

    def imagines(self, source: np.ndarray | Mapping[str, np.ndarray] | None) -> bool:
        """Whether, of this source, the model first makes voxels: `imagined` instead of `encode`."""
        joint = self.model.joint
        if joint is None or joint.imagined is None or isinstance(source, np.ndarray):
            return False
        return source is None or source.keys() <= set(SAID)

    def imagined(
        self,
        source: Mapping[str, np.ndarray],
        seeds: Sequence[int],
        guidance: float,
        known: Known | None = None,
    ) -> torch.Tensor:
        """What the model is told of voxels that it makes of words, or of nothing: (len(seeds), ...)
        as of `encode`. source: (B, ...) by name, B being 1 or the number of seeds, or empty.
        known: of those voxels."""
        joint = self.model.joint
        assert joint is not None and joint.imagined is not None  # noqa: S101, PT018 - `imagines`
        said = {
            name: torch.from_numpy(array).to(self.device, self.dtype)
            for name, array in source.items()
        }
        cells = joint.imagined.imagine(said, seeds, guidance, known)
        return self.model.encode({"voxels": cells.to(self.dtype)})

    def _one(self, array: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.from_numpy(array)[None].to(self.device, dtype or self.dtype)

    def denoiser(self, features: torch.Tensor | None, guidance: float) -> sampling.Denoiser:
        """As Wala.guided_denoiser, of float32 latents."""
        inner = self.model.guided_denoiser(features, guidance)

        def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return inner(x.to(self.dtype), timesteps).float()

        return acceleration.graphed(denoise) if _wants_graphs() else denoise

    def codes(self, latent: torch.Tensor) -> torch.Tensor:
        """Generated latents (B, C, 12, 12, 12) on the codebook."""
        return self.model.autoencoder.quantize(latent.float()).latent

    def tree(self, latent: torch.Tensor) -> wavelets.Tree:
        """As Wala.tree, of float32 latents into float32 bands."""
        packed = self.model.autoencoder.decode(self.codes(latent).to(self.dtype)).float()
        return wavelets.unpack(packed, RESOLUTION, depth=self.model.config.autoencoder.levels)


@dataclass(eq=False)
class LoadedText:
    """A text model in memory."""

    model: MVDream
    installed: Installed
    device: torch.device
    dtype: torch.dtype
    nbytes: int
    used_at: float = 0.0


@dataclass(eq=False)
class LoadedPanorama:
    """A model that paints panoramas, in memory. dtype: of its denoiser."""

    model: Ldm3d
    installed: Installed
    device: torch.device
    dtype: torch.dtype
    nbytes: int
    used_at: float = 0.0


@dataclass(eq=False)
class LoadedViews:
    """A model that paints views, in memory. dtype: of its denoiser."""

    model: ViewPainter
    installed: Installed
    device: torch.device
    dtype: torch.dtype
    nbytes: int
    used_at: float = 0.0


@dataclass(eq=False)
class LoadedAdapter:
    """A Stable Diffusion with what makes it paint views, in memory. dtype: of its denoiser."""

    model: MVAdapter
    installed: Installed
    device: torch.device
    dtype: torch.dtype
    nbytes: int
    used_at: float = 0.0


@dataclass(eq=False)
class LoadedFields:
    """A model that makes neural fields, in memory. It computes in float32."""

    model: FieldModel
    installed: Installed
    device: torch.device
    dtype: torch.dtype
    nbytes: int
    used_at: float = 0.0


Kept = TypeVar("Kept", Loaded, LoadedText, LoadedPanorama, LoadedViews, LoadedAdapter, LoadedFields)
_models: dict[Key, Any] = {}


def precision(device: torch.device, on_card: torch.dtype = torch.bfloat16) -> torch.dtype:
    """What models compute in on `device`; on_card: what is best on a graphics card.

    Raises BadInput for an unknown FIELDFORGE_PRECISION.
    """
    wanted = os.environ.get("FIELDFORGE_PRECISION", "")
    if wanted and wanted not in PRECISIONS:
        raise BadInput(
            f"FIELDFORGE_PRECISION is {wanted!r}.", f"Use one of {', '.join(PRECISIONS)}."
        )
    if wanted:
        return PRECISIONS[wanted]
    return on_card if device.type == "cuda" else torch.float32


def _wants_graphs() -> bool:
    return os.environ.get("FIELDFORGE_CUDA_GRAPHS", "") not in ("", "0")


def load(installed: Installed, device: torch.device, working_bytes: int) -> Loaded:
    """The model, loaded now or still there from an earlier job.

    working_bytes: what the job needs besides. Other models make room for it. Raises OutOfMemory
    before anything is loaded when it cannot fit, BadInput when files and description disagree.
    """
    return _kept(installed, device, precision(device), working_bytes, _read)


def load_text_model(installed: Installed, device: torch.device, working_bytes: int) -> LoadedText:
    """As `load`, of a model that paints views of words."""
    return _kept(installed, device, precision(device, _TEXT), working_bytes, _read_text_model)


def load_panorama_model(
    installed: Installed, device: torch.device, working_bytes: int
) -> LoadedPanorama:
    """As `load`, of a model that paints panoramas of words."""
    return _kept(installed, device, precision(device, _TEXT), working_bytes, _read_panorama_model)


def load_views_model(installed: Installed, device: torch.device, working_bytes: int) -> LoadedViews:
    """As `load`, of a model that paints views of pictures or words."""
    return _kept(installed, device, precision(device, _TEXT), working_bytes, _read_views_model)


def load_views_adapter(
    installed: Installed, device: torch.device, working_bytes: int
) -> LoadedAdapter:
    """As `load`, of a Stable Diffusion with what makes it paint views."""
    return _kept(installed, device, precision(device, _TEXT), working_bytes, _read_adapter)


def load_field_model(
    installed: Installed, device: torch.device, working_bytes: int
) -> LoadedFields:
    """As `load`, of a model that makes neural fields. Its weights are what is diffused, of which
    half precision keeps too little."""
    return _kept(installed, device, torch.float32, working_bytes, _read_field_model)


def _read(installed: Installed, device: torch.device, dtype: torch.dtype, nbytes: int) -> Loaded:
    model = loading.load(installed, device, dtype)
    acceleration.to_channels_last(model.autoencoder)
    # Codes are compared by distance, for which half the digits are too few.
    model.autoencoder.quantize.float()
    channels = model.config.autoencoder.latent_channels
    previews = PreviewDecoder(_previews_file(installed), channels)
    return Loaded(model, installed, device, dtype, nbytes, previews)


def _read_text_model(
    installed: Installed, device: torch.device, dtype: torch.dtype, nbytes: int
) -> LoadedText:
    from ..models.mvdream.loading import load as read  # here: its libraries take seconds to import

    return LoadedText(read(installed, device, dtype), installed, device, dtype, nbytes)


def _read_panorama_model(
    installed: Installed, device: torch.device, dtype: torch.dtype, nbytes: int
) -> LoadedPanorama:
    from ..models.ldm3d.loading import load as read  # here: its libraries take seconds to import

    return LoadedPanorama(read(installed, device, dtype), installed, device, dtype, nbytes)


def _read_views_model(
    installed: Installed, device: torch.device, dtype: torch.dtype, nbytes: int
) -> LoadedViews:
    from ..models.viewdiff.painter_files import load as read  # here: its libraries take seconds

    return LoadedViews(read(installed, device, dtype), installed, device, dtype, nbytes)


def _read_adapter(
    installed: Installed, device: torch.device, dtype: torch.dtype, nbytes: int
) -> LoadedAdapter:
    from ..models.mvadapter.loading import load as read  # here: its libraries take seconds

    return LoadedAdapter(read(installed, device, dtype), installed, device, dtype, nbytes)


def _read_field_model(
    installed: Installed, device: torch.device, dtype: torch.dtype, nbytes: int
) -> LoadedFields:
    from ..models.hyperdiffusion.model import load as read  # here: not every worker needs it

    model = read(installed.folder).to(device)
    return LoadedFields(model, installed, device, dtype, nbytes)


def _kept(
    installed: Installed,
    device: torch.device,
    dtype: torch.dtype,
    working_bytes: int,
    read: Callable[[Installed, torch.device, torch.dtype, int], Kept],
) -> Kept:
    key = _key(installed, device, dtype)
    loaded: Kept | None = _models.get(key)
    size = _weight_bytes(installed, dtype)
    needed = working_bytes if loaded else working_bytes + size
    _make_room(needed, device, keep=key)
    memory.require(needed, device.type, LOWER)
    if loaded is None:
        for stale in [old for old in _models if old[:2] == key[:2]]:
            del _models[stale]  # its files were replaced, so no job will ask for it again
        loaded = _models[key] = read(installed, device, dtype, size)
    loaded.used_at = time.monotonic()
    return loaded


LOWER = (
    "Ask for fewer variations or a smaller picture, choose a smaller model, or close other"
    " programs."
)


def unload_when_short() -> None:
    """After a job: give models back where they leave others too little memory."""
    for kind in {loaded.device.type for loaded in _models.values()}:
        if not _is_free(0, kind):
            unload(kind)


def unload(kind: str | None = None) -> None:
    """Give back the memory of all models on a kind of device, or everywhere."""
    for key, loaded in list(_models.items()):
        if kind in (None, loaded.device.type):
            del _models[key]
    _collect()


def _make_room(needed: int, device: torch.device, keep: Key) -> None:
    """Unload other models, those first that were not used for longest, until `needed` fits."""
    others = sorted((key for key in _models if key != keep), key=lambda key: _models[key].used_at)
    if not others:
        _is_free(needed, device.type)  # if not, what earlier jobs left behind is given back
    for key in others:
        if _is_free(needed, device.type):
            return
        if _models[key].device.type == device.type:
            del _models[key]
            _collect()


def _is_free(needed: int, kind: str) -> bool:
    """Whether `needed` bytes are free beside what is to stay for others.

    If not at once, then after giving back what torch keeps of earlier jobs.
    """
    for attempt in range(2):
        place = devices.describe(kind)
        if not place.total_bytes or needed + SPARE * place.total_bytes <= place.free_bytes:
            return True
        if not attempt:
            _collect()
    return False


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _key(installed: Installed, device: torch.device, dtype: torch.dtype) -> Key:
    """Another one when the files were replaced meanwhile."""
    files = tuple((s.st_size, s.st_mtime_ns) for s in (path.stat() for path in installed.files))
    return str(installed.folder), str(device), dtype, files


def _previews_file(installed: Installed) -> Path:
    """Where what previews have learned of exactly this model is kept."""
    digest = hashlib.sha256((installed.folder / DESCRIPTION).read_bytes()).hexdigest()[:16]
    return environment.home() / "cache" / "previews" / f"{installed.id}-{digest}.npz"


def _weight_bytes(installed: Installed, dtype: torch.dtype) -> int:
    """Of all that is loaded: what is added to another model is loaded with it."""
    size = dtype.itemsize
    added_to = installed.needs if installed.family == "mv-adapter" else ()
    paths = [path for name in added_to for path in weights.require(name).files]
    return sum(
        info.nbytes // SIZES[info.dtype] * size
        for path in (*installed.files, *paths)
        for info in read_header(path).values()
    )


def interruptible(model: Wala, context: Context) -> AbstractContextManager[None]:
    """Within, the networks ask between their layers whether the job is still wanted."""
    return asking(_layers(model), next(model.parameters()).device, context)


@contextmanager
def asking(
    layers: Iterable[torch.nn.Module], device: torch.device, context: Context
) -> Iterator[None]:
    """Within, each of `layers` asks before it works whether the job is still wanted.

    On a processor only: there a step takes seconds, on a graphics card milliseconds.
    """

    def ask(*_: object) -> None:
        context.check_cancelled()

    asked = list(layers) if device.type == "cpu" else []
    hooks = [layer.register_forward_pre_hook(ask) for layer in asked]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layers(model: Wala) -> Iterator[torch.nn.Module]:
    """The parts of the networks that take long."""
    denoiser = model.denoiser
    yield from (*denoiser.blocks, *denoiser.input_blocks, *denoiser.output_blocks)
    yield from model.autoencoder.decoder.children()
    if model.image_encoder is not None:
        yield from model.image_encoder.blocks
    for encoder in (model.encoder, model.joint):
        if encoder is not None:
            yield from encoder.children()
