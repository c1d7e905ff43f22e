"""Everything that WaLa generates, on one road: from points, voxels, pictures, words or nothing.

prepare -> encode -> sample (previews on the way) -> decode -> refine -> surface -> place
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import device as devices
from .. import sampling, weights
from ..conditions import words
from ..errors import BadInput, InternalError, OutOfMemory
from ..geometry import wavelets
from ..geometry.components import without_specks
from ..geometry.isosurface import marching_cubes
from ..geometry.transforms import (
    apply_to_faces,
    apply_to_normals,
    apply_to_points,
    compose,
    fine_dtype,
    index_to_cube,
    inverse,
)
from ..models import refine
from ..models.wala import acceleration
from ..models.wala.config import LATENT_SIDE, AutoencoderConfig, JointConfig, WalaConfig
from ..models.wala.model import RESOLUTION
from ..models.wala.pictures import picture_tokens
from ..models.wala.uvit import KEPT_BYTES
from ..protocol import (
    Generation,
    MeshResult,
    MeshSet,
    PointsToMesh,
    Preview,
    Progress,
    Result,
    Task,
    ViewsToMesh,
    VoxelsToMesh,
)
from ..weights import Installed
from . import Context, framing, resident, surface_colors
from .points_to_mesh import carried_over
from .preparation import Prepared, Source, prepare, voxels_in_cube
from .previews import Previewer
from .regions import Region, region_of
from .stages import Stages

PUBLISHED_GUIDANCE = 3.0
"""Of point clouds and voxels in the published command, whatever scale it is given."""
SPECK = 2.0
"""Parts of a surface that are smaller than so many nodes are noise of the decoder."""

_GRID_BYTES = 40 << 20  # of the grid on which points are counted

# Where the job stands at the end of each part of it.
_PREPARED, _LOADED, _ENCODED, _SAMPLED = 0.03, 0.08, 0.12, 0.75


class EmptyShape(BadInput):
    """What was generated has no surface."""


@dataclass(frozen=True)
class Settings:
    """What of a task and its model the sampler goes by."""

    steps: int
    guidance: float
    seed: int
    variations: int
    as_published: bool


def generate(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Generate, decode and place. Shapes come back in the frame of the source.

    Raises OutOfMemory with what to lower, and BadInput for a source that the model was not made
    for.
    """
    assert isinstance(task, Generation)  # noqa: S101 - the table of pipelines says so
    try:
        yield from _Generator(task, context).run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        resident.unload()
        raise OutOfMemory("The shape did not fit into memory.", lower(task)) from None
    finally:
        resident.unload_when_short()


def lower(task: Generation) -> str:
    """What to change in a task that did not fit into memory."""
    ways = []
    if task.variations > 1:
        ways.append(f"lower the variations from {task.variations} to {task.variations // 2}")
    if task.preview:
        ways.append("turn the preview off")
    ways += ["choose a smaller model", "close other programs"]
    return f"{', '.join(ways[:-1])}, or {ways[-1]}.".capitalize()


def is_out_of_memory(error: BaseException) -> bool:
    """What Python, torch on a card, and torch on a processor raise."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def settings_of(task: Generation, model: Installed) -> Settings:
    """The task's wishes, and where it has none, what the model's authors found best."""
    guidance = model.guidance if task.guidance is None else task.guidance
    if task.as_published and isinstance(task, PointsToMesh | VoxelsToMesh):
        guidance = PUBLISHED_GUIDANCE
    return Settings(
        steps=task.steps or model.steps,
        guidance=1.0 if guidance is None else float(guidance),
        seed=task.seed,
        variations=task.variations,
        as_published=task.as_published,
    )


def noise_of(
    settings: Settings, shape: tuple[int, ...], device: torch.device
) -> Iterator[torch.Tensor]:
    """Draws of noise, (variations, *shape) float32 on `device`, without end.

    Variation k has a generator of its own, of seed + k, on the processor: the same shape comes
    alone, in a batch, and on every device. As published: one generator on the device itself.
    """
    if settings.as_published:
        generator = torch.Generator(device).manual_seed(settings.seed)
        yield from sampling.gaussian((settings.variations, *shape), generator, device)
    seeds = range(settings.seed, settings.seed + settings.variations)
    streams = [sampling.gaussian(shape, torch.Generator().manual_seed(seed)) for seed in seeds]
    while True:
        yield torch.stack([next(stream) for stream in streams]).to(device)


def sample(
    loaded: resident.Loaded,
    features: torch.Tensor | None,
    settings: Settings,
    noise: Iterator[torch.Tensor],
    region: Region | None = None,
) -> Iterator[sampling.Step]:
    """Steps of all variations from noise to latents. features: (1, ...), one condition for all, or
    (variations, ...)."""
    if features is not None:
        features = features.expand(settings.variations, *features.shape[1:])
    denoise = loaded.denoiser(features, settings.guidance)
    correct = region.correct if region else None
    yield from loaded.model.sample(denoise, settings.steps, noise, correct)


class _Generator:
    """One job. Its parts share the stages and what was loaded."""

    def __init__(self, task: Generation, context: Context) -> None:
        self.task = task
        self.context = context
        self.stages = Stages(context)
        self.device = torch.device(devices.pick(context.device))
        self.installed = weights.require(task.model)
        self.settings = settings_of(task, self.installed)
        self.began = time.perf_counter()
        self.previews: Previewer | None = None
        self.earlier: np.ndarray | None = None
        self.names: list[str] = []
        self.colored: surface_colors.ColoredViews | None = None
        self.notes: list[str] = []

    def run(self) -> Iterator[Progress | Result]:
        yield self.stages.at("Preparing the input", 0.0)
        config = config_of(self.installed)
        check_latent(self.task, config, self.installed)
        prepared = prepare(self.task, self.installed, config.joint)
        check_fit(self.task, prepared, config, self.installed)
        check_steps(self.settings, config, self.installed)
        self.colored, told = surface_colors.views_of(self.task, self.installed)
        self.notes += told
        yield self.stages.at("Loading the model", _PREPARED)
        needed = working_bytes(config, self.settings, prepared)
        loaded = resident.load(self.installed, self.device, needed)
        with resident.interruptible(loaded.model, self.context):
            if framing.may_be_off(self.task, config):
                yield self.stages.at("Finding the whole shape's frame", _LOADED)
                prepared = self.framed(loaded, prepared)
            region = region_of(self.task, prepared.to_source, self.device)
            latents = yield from self.sampled(loaded, prepared, region)
            meshes = yield from self.meshes(loaded, prepared, latents, region)
        loaded.previews.save()
        yield self.result(meshes, prepared, loaded)

    def framed(self, loaded: resident.Loaded, prepared: Prepared) -> Prepared:
        """`prepared` in the frame of the whole shape, as far as a first draft of it tells.

        The same for every seed and setting: a region made anew lies in the frame of its shape.
        """
        drafting = dataclasses.replace(self.task, seed=0, variations=1, steps=None, guidance=None)
        settings = settings_of(drafting, self.installed)
        for _ in range(framing.ROUNDS):
            features = loaded.encode(prepared.source) if prepared.source is not None else None
            noise = noise_of(settings, loaded.model.latent_shape()[1:], self.device)
            *_, step = sample(loaded, features, settings, noise)
            draft = framing.box_of(self.field(loaded, step.sample[0]))
            moved = framing.in_frame_of(prepared, draft)
            if moved is prepared:
                break
            prepared = moved
        return prepared

    # ------------------------------------------------------------------------------- sampling

    def sampled(
        self, loaded: resident.Loaded, prepared: Prepared, region: Region | None
    ) -> Generator[Progress, None, torch.Tensor]:
        """Yields progress and previews; returns latents (variations, C, 12, 12, 12) float32."""
        settings, source = self.settings, prepared.source
        features: torch.Tensor | None = None
        if loaded.imagines(source):
            yield self.stages.at("Imagining the shape", _LOADED)
            features = self.imagined(loaded, source or {}, region)
        else:
            yield self.stages.at("Reading the input", _LOADED)
            features = None if source is None else loaded.encode(source)
        noise = noise_of(settings, loaded.model.latent_shape()[1:], self.device)
        if self.task.preview:
            elapsed = time.perf_counter() - self.began
            self.previews = Previewer(loaded, prepared.to_source, settings.variations, elapsed)
        yield self.stages.at("Sampling", _ENCODED)
        for step in sample(loaded, features, settings, noise, region):
            done = (step.number + 1) / step.count
            progress = self.stages.at("Sampling", _ENCODED + done * (_SAMPLED - _ENCODED))
            words = f"{progress.stage}, step {step.number + 1} of {step.count}"
            progress = Progress(words, progress.fraction)
            meshes = self.previews.after(step) if self.previews else ()
            yield Preview(progress.stage, progress.fraction, meshes) if meshes else progress
        if not bool(torch.isfinite(step.sample).all()):
            raise InternalError(
                "The model computed values that are no numbers.",
                "Set FIELDFORGE_PRECISION=float32 and run it again; if that does not help, get the"
                " model again.",
            )
        return step.sample

    def imagined(
        self, loaded: resident.Loaded, source: Source, region: Region | None
    ) -> torch.Tensor:
        """Features of voxels that fit the words, of each variation others; of a shape of which a
        region is made anew, its own beyond that region. Where no words are given, the model says
        the name of a thing to itself, by the seed."""
        assert not isinstance(source, np.ndarray)  # noqa: S101 - `imagines` says so
        settings, joint = self.settings, loaded.model.config.joint
        seeds = range(settings.seed, settings.seed + settings.variations)
        said = {name: array[None] for name, array in source.items()}
        if not said and joint is not None and joint.imagined and joint.imagined.names:
            names = joint.imagined.names
            self.names = [names[np.random.default_rng(k).integers(len(names))] for k in seeds]
            vectors = [words.model_words(name, joint.words).vector for name in self.names]
            said = {"words": np.stack(vectors)}
        known = None
        if region is not None:
            self.earlier = self.field(loaded, region.latent)
            known = region.known_voxels(self.earlier)
        return loaded.imagined(said, seeds, settings.guidance, known)

    # ------------------------------------------------------------------------------- surfaces

    def meshes(
        self,
        loaded: resident.Loaded,
        prepared: Prepared,
        latents: torch.Tensor,
        region: Region | None,
    ) -> Generator[Progress, None, list[MeshResult]]:
        """Yields progress; returns a MeshResult per latent."""
        found = []
        share = (1 - _SAMPLED) / len(latents)
        for number, latent in enumerate(latents):
            at = _SAMPLED + share * number
            yield self.stages.at("Decoding", at)
            if region is not None and self.earlier is None:
                self.earlier = self.field(loaded, region.latent)
                self.context.check_cancelled()
            began = time.perf_counter()
            field = self.field(loaded, latent)
            loaded.pace["decode"] = time.perf_counter() - began
            if region is not None and self.earlier is not None:
                field = region.blended(self.earlier, field)
            steps = scaled(self.refined(field, prepared), at + 0.4 * share, 0.3 * share)
            field = yield from self.stages.of(steps)
            yield self.stages.at("Extracting the surface", at + 0.7 * share)
            mesh = self.mesh(field, prepared, latent, number)
            if self.colored is not None and len(mesh.faces):
                yield self.stages.at("Colouring", at + 0.85 * share)
                mesh = self.painted(mesh, self.colored)
            found.append(mesh)
        if not any(len(mesh.faces) for mesh in found):
            raise EmptyShape(
                "The model made an empty shape of this.",
                "Try another seed or guidance, or check what the source shows.",
            )
        return found

    def field(self, loaded: resident.Loaded, latent: torch.Tensor) -> np.ndarray:
        """Distances (256, 256, 256) of one latent (C, 12, 12, 12)."""
        tree = loaded.tree(latent[None])
        loaded.previews.learn(loaded.codes(latent[None])[0], tree.low[0])
        return acceleration.on_host(wavelets.inverse(tree, RESOLUTION)[0])

    def refined(self, field: np.ndarray, prepared: Prepared) -> Steps:
        """`field` led through what is known of the shape, where the task wants that."""
        task, check = self.task, self.context.check_cancelled
        if isinstance(task, PointsToMesh) and task.refine and prepared.points is not None:
            normals = task.normals
            if normals is not None:
                normals = apply_to_normals(inverse(prepared.to_source), normals)
            return refine.refine_to_points(field, prepared.points, normals, self.device, check)
        if isinstance(task, VoxelsToMesh) and task.refine:
            grid = voxels_in_cube(task, prepared.to_source)
            return refine.refine_to_voxels(field, *grid, check)
        return _as_it_is(field)

    def mesh(
        self, field: np.ndarray, prepared: Prepared, latent: torch.Tensor, number: int
    ) -> MeshResult:
        """The surface of `field`, placed in the frame of the source."""
        task, to_source = self.task, prepared.to_source
        vertices, faces = marching_cubes(field, closed=True)
        if not task.as_published:
            vertices, faces = without_specks(vertices, faces, SPECK)
        colors = None
        if isinstance(task, PointsToMesh) and task.colors is not None and len(vertices):
            assert prepared.points is not None  # noqa: S101 - a point cloud always has them
            in_cube = apply_to_points(index_to_cube(RESOLUTION), vertices)
            colors = carried_over(in_cube, prepared.points, task.colors, RESOLUTION)
        placed = compose(to_source, index_to_cube(RESOLUTION))
        return MeshResult(
            name=task.name,
            vertices=apply_to_points(placed, vertices, self._dtype(to_source)),
            faces=np.ascontiguousarray(apply_to_faces(placed, faces), np.int32),
            colors=colors,
            to_source=to_source,
            latent=latent.float().cpu().numpy(),
            report={
                "seed": self.settings.seed + number,
                "vertices": len(vertices),
                "faces": len(faces),
            },
        )

    def painted(self, mesh: MeshResult, views: surface_colors.ColoredViews) -> MeshResult:
        """The mesh in the colours of the views that it was made of."""
        assert isinstance(self.task, ViewsToMesh)  # noqa: S101 - only these have such views
        cell = 2 / RESOLUTION
        found = surface_colors.painted(views, mesh.vertices, mesh.faces, cell, self.task)
        if surface_colors.roughly(found) and surface_colors.ROUGH not in self.notes:
            self.notes.append(surface_colors.ROUGH)
        return dataclasses.replace(
            mesh, colors=found.colors, report={**mesh.report, **found.report}, **found.texture
        )

    def _dtype(self, to_source: np.ndarray) -> type[np.floating]:
        points = getattr(self.task, "points", None)
        single = isinstance(points, np.ndarray) and points.dtype != np.float64
        return np.float32 if single else fine_dtype(to_source)

    def result(
        self, meshes: list[MeshResult], prepared: Prepared, loaded: resident.Loaded
    ) -> Result:
        """One mesh as it is, several as a set."""
        report = self.report(meshes, prepared, loaded)
        if len(meshes) == 1:
            return dataclasses.replace(meshes[0], report={**meshes[0].report, **report})
        return MeshSet(name=self.task.name, meshes=tuple(meshes), report=report)

    def report(
        self, meshes: list[MeshResult], prepared: Prepared, loaded: resident.Loaded
    ) -> dict[str, Any]:
        settings = self.settings
        total = time.perf_counter() - self.began
        report: dict[str, Any] = {
            "seconds": self.stages.seconds(),
            "total_seconds": round(total, 3),
            "device": str(self.device),
            "precision": str(loaded.dtype).removeprefix("torch."),
            "model": self.task.model,
            "seed": settings.seed,
            "steps": settings.steps,
            "guidance": settings.guidance if prepared.source is not None else None,
            "variations": settings.variations,
            "vertices": sum(len(mesh.vertices) for mesh in meshes),
            "faces": sum(len(mesh.faces) for mesh in meshes),
        }
        if settings.as_published:
            report["as_published"] = True
        notes = [
            *prepared.notes,
            *self.notes,
            *(f"The model chose: {name}." for name in self.names),
        ]
        if notes:
            report["notes"] = notes
        if self.previews is not None:
            report["previews"] = self.previews.shown
            report["preview_seconds"] = round(self.previews.seconds, 3)
            report["preview_share"] = round(self.previews.seconds / total, 4)
        return report


Steps = Generator[tuple[str, float], None, np.ndarray]


def _as_it_is(field: np.ndarray) -> Steps:
    return field
    yield


def scaled(steps: Steps, begin: float, share: float) -> Steps:
    """`steps` with fractions that go from `begin` over `share` of the job."""
    while True:
        try:
            stage, fraction = next(steps)
        except StopIteration as end:
            field: np.ndarray = end.value
            return field
        yield stage, begin + share * fraction


def config_of(model: Installed) -> WalaConfig:
    """Raises BadInput for a description that is none."""
    try:
        return WalaConfig.from_dict(model.config)
    except ValueError as error:
        raise BadInput(
            f"The model {model.id} has a description that cannot be used: {error}.",
            "Get it again: Preferences > Models.",
        ) from None


def check_latent(task: Generation, config: WalaConfig, model: Installed) -> None:
    """Raise BadInput for a region of a shape that a model of other latents made."""
    channels = config.autoencoder.latent_channels
    if task.latent is not None and len(task.latent) != channels:
        raise BadInput(
            f"{model.title} did not make the shape of which a region is to be made anew: that has"
            f" {len(task.latent)} numbers in each cell, shapes of {model.title} have {channels}.",
            "Choose the model that made the shape, or make a new shape with this one.",
        )


def check_fit(task: Generation, prepared: Prepared, config: WalaConfig, model: Installed) -> None:
    """Raise BadInput when the networks take something else than the task gives."""
    source = prepared.source
    if config.joint is not None:
        fits = source is None or _fits_jointly(source, config.joint)
    else:
        fits = _fits_alone(task, source, config)
    if not fits:
        raise BadInput(
            f"The networks of {model.title} are not made for {task.kind}.",
            "Choose another model, or get this one again.",
        )


def _fits_jointly(source: Source, joint: JointConfig) -> bool:
    if not isinstance(source, Mapping):
        return False
    views = len(source["views"]) if "views" in source else 0
    said = {"words": len(joint.words), "text": joint.text}
    return views <= joint.views and all(said[kind] for kind in said.keys() & source.keys())


def _fits_alone(task: Generation, source: Source | None, config: WalaConfig) -> bool:
    if isinstance(source, Mapping):
        return False
    views = len(config.condition.training_views) if config.condition else 0
    if isinstance(task, PointsToMesh):
        return config.points is not None
    if isinstance(task, VoxelsToMesh):
        return config.voxels is not None
    if source is None:
        return config.condition is None
    return config.image is not None and (views or 1) == (len(source) if source.ndim > 3 else 1)


def check_steps(settings: Settings, config: WalaConfig, model: Installed) -> None:
    """Raise BadInput when there are more steps than the model knows levels of noise."""
    most = config.diffusion.steps
    if settings.steps > most:
        raise BadInput(
            f"{model.title} was trained with {most} steps; {settings.steps} are more.",
            f"Use at most {most} steps.",
        )


def working_bytes(config: WalaConfig, settings: Settings, prepared: Prepared) -> int:
    """Roughly what a job needs besides the weights, in float32."""
    denoiser = config.denoiser
    batch = 2 * settings.variations
    tokens = (LATENT_SIDE // denoiser.patch) ** 3 + denoiser.registers
    context = _context_tokens(config, prepared.source)
    sampling_bytes = 4 * batch * (24 * tokens + 6 * context) * denoiser.width
    if denoiser.cross_attention:  # keys and values stay over the steps
        rows = 2 if config.guided and settings.guidance != 1 else 1
        kept = rows * 2 * denoiser.depth * 4 * context * denoiser.width
        sampling_bytes += kept if kept <= KEPT_BYTES else 0
    field_bytes = 4 * 4 * RESOLUTION**3
    encoding_bytes = _encoding_bytes(config, settings, prepared)
    return max(sampling_bytes, _decoding_bytes(config.autoencoder) + field_bytes, encoding_bytes)


def _context_tokens(config: WalaConfig, source: Source | None) -> int:
    """Of the condition of one shape, as the denoiser attends to it."""
    joint, condition = config.joint, config.condition
    if joint is None:
        return condition.tokens * (len(condition.training_views) or 1) if condition else 0
    pictures = picture_tokens(joint)
    # What is placed is not attended to, and numbers of views belong to the views.
    said = {"points": 1, "voxels": 1, "words": 4, "text": 4, "view_numbers": 0}
    return 1 + sum(
        said.get(kind, 1 + pictures * (len(array) if kind == "views" else 1))
        for kind, array in (source.items() if isinstance(source, Mapping) else ())
    )


def _decoding_bytes(autoencoder: AutoencoderConfig) -> int:
    fine, volume = autoencoder.widths[0], autoencoder.volume_channels
    if autoencoder.compact is not None:  # wide layers at half the side only
        wide = 6 * autoencoder.compact.widths[0] + 2 * autoencoder.compact.components
        return 4 * (24**3 * (wide + 3 * 8 * volume) + 46**3 * 3 * volume)
    return 4 * 46**3 * (6 * fine + 3 * volume)


def _encoding_bytes(config: WalaConfig, settings: Settings, prepared: Prepared) -> int:
    points = 0 if prepared.points is None else len(prepared.points)
    if config.joint is not None:
        tokens = _context_tokens(config, prepared.source)
        return _GRID_BYTES + 4 * tokens * 12 * config.joint.image_width
    if config.points is None:
        return 0
    seen = points if settings.as_published else min(points, 25_000)
    return 4 * seen * 6 * config.points.width
