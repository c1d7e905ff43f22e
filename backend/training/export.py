"""From checkpoints of a training to a model as `backend.weights` knows it, and to pieces of it.

Only averaged weights go out, as float16 (the codebook float32: codes are told apart by distance).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import weights
from ..errors import BadInput
from ..models.wala.config import ImaginedConfig, JointConfig, UVitConfig, WalaConfig
from ..models.wala.model import Wala
from ..sampling import Diffusion
from ..weights import Installed
from . import autoencoder, diffusion, imagining, seeing
from .conditions import VIEW_CAMERAS
from .loops import read_checkpoint

PIECE_BYTES = 15 << 20
FILE_BYTES = 45 << 20
TASKS = (
    "points-to-mesh",
    "voxels-to-mesh",
    "image-to-mesh",
    "sketch-to-mesh",
    "depth-to-mesh",
    "views-to-mesh",
    "text-to-mesh",
    "shape",
)
_FLOAT32 = ("autoencoder.quantize.", "autoencoder.basis.")


def model_of(folder: Path) -> Wala:
    """The averaged model of FOLDER/autoencoder.pt and FOLDER/diffusion.pt, on the CPU; and of
    FOLDER/imagining.pt, if it is there.

    Raises BadInput when one of them is missing or of another kind.
    """
    state = read_checkpoint(folder / diffusion.CHECKPOINT)
    settings = json.loads(state["settings"])
    coder = autoencoder.trained(folder / autoencoder.CHECKPOINT)
    joint = {**settings["joint"], "words": tuple(settings["joint"]["words"])}
    joint["imagined"] = None
    imagined = _imagined(folder, joint)
    config = WalaConfig(
        autoencoder=coder.config,
        denoiser=UVitConfig(**settings["denoiser"]),
        diffusion=Diffusion(),
        joint=JointConfig(**joint),
    )
    model = Wala(config)
    averaged = {f"autoencoder.{name}": value for name, value in coder.state_dict().items()}
    averaged |= state["average"] | imagined
    model.load_state_dict(averaged)
    return model.eval().requires_grad_(False)


def _imagined(folder: Path, joint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights of what imagines, its configuration put into `joint`; none where it was not trained.

    Raises BadInput where it was trained for other words.
    """
    path = folder / imagining.CHECKPOINT
    if not path.exists():
        return {}
    state = read_checkpoint(path)
    settings = json.loads(state["settings"])
    if [settings["text"], settings["words"]] != [joint["text"], list(joint["words"])]:
        raise BadInput(
            f"{path} was trained for other words than the diffusion.",
            "Train both on the same shapes, with the same reader of sentences.",
        )
    names = tuple(state["extra"].get("names", ()))
    joint["imagined"] = ImaginedConfig(**settings["imagined"], names=names)
    weights = imagining.trained(path)
    return {f"joint.imagined.{name}": value for name, value in weights.items()}


def tensors_of(model: Wala, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """The weights by their published names, in the order of their names."""
    return {
        name: tensor if name.startswith(_FLOAT32) else tensor.to(dtype)
        for name, tensor in sorted(model.published_state_dict().items())
    }


def export(
    folder: Path,
    target: Path,
    *,
    title: str,
    license: str,
    source: Mapping[str, Any],
    card: str,
    steps: int = 8,
    guidance: float = 1.5,
    tasks: tuple[str, ...] = TASKS,
    default_for: tuple[str, ...] = (),
) -> Installed:
    """Write the trained model into `target`, named as its id, in files of at most FILE_BYTES.

    tasks: those that it does well enough to be offered. default_for: tasks for which it is to be
    taken when none is chosen; see weights.Installed.
    """
    model = model_of(folder)
    cameras = VIEW_CAMERAS[: model.config.joint.views] if model.config.joint else ()
    return weights.write_model(
        target,
        id=target.name,
        title=title,
        family="wala",
        tasks=tasks,
        config=model.config.to_dict(),
        tensors=tensors_of(model),
        steps=steps,
        guidance=guidance,
        views=len(cameras),
        view_kind="image" if cameras else "",
        cameras=cameras,
        license=license,
        default_for=default_for,
        source={**source, **provenance(folder)},
        texts={"README.md": card} if card else None,
        most_file_bytes=FILE_BYTES,
    )


def provenance(folder: Path) -> dict[str, Any]:
    """Steps and seconds of the trainings, and their settings."""
    found = {}
    optional = (seeing.CHECKPOINT, imagining.CHECKPOINT)
    for name in (autoencoder.CHECKPOINT, diffusion.CHECKPOINT, *optional):
        if name in optional and not (folder / name).exists():
            continue  # what seeing learned is in the diffusion, too
        state = read_checkpoint(folder / name)
        found[Path(name).stem] = {**state["numbers"], "settings": json.loads(state["settings"])}
    return found


# ------------------------------------------------------------------------------------------ pieces


def averaged_only(checkpoint: Path, target: Path) -> None:
    """A checkpoint without what only training needs; `model_of` reads it. Weights are float16."""
    state = read_checkpoint(checkpoint)
    average = {
        name: value if name.startswith("quantize.") else value.half()
        for name, value in state["average"].items()
    }
    torch.save({**state, "module": {}, "optimizer": {}, "average": average}, target)


def split(path: Path, folder: Path, size: int = PIECE_BYTES) -> list[Path]:
    """Copies of the bytes of `path`, at most `size` each, named so that `join` knows them."""
    content = path.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()[:16]
    count = max(1, -(-len(content) // size))
    pieces = []
    for number in range(count):
        piece = folder / f"{path.name}.{digest}.{number + 1}-{count}"
        piece.write_bytes(content[number * size : (number + 1) * size])
        pieces.append(piece)
    return pieces


def join(folder: Path, name: str, target: Path) -> Path:
    """TARGET/name of the pieces in `folder`. Raises BadInput unless all are there, unchanged."""
    found = sorted(folder.glob(f"{name}.*"), key=lambda p: int(p.suffix[1:].partition("-")[0]))
    marks = {piece.name.removeprefix(name + ".").partition(".")[0] for piece in found}
    content = b"".join(piece.read_bytes() for piece in found)
    if len(marks) != 1 or hashlib.sha256(content).hexdigest()[:16] not in marks:
        raise BadInput(
            f"The pieces of {name} in {folder} are not complete.", "Fetch all of them again."
        )
    target.mkdir(parents=True, exist_ok=True)
    (target / name).write_bytes(content)
    return target / name
