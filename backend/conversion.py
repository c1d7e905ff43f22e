"""A published checkpoint -> a model of the store. What a file must hold is said by its family."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import weights
from .checkpoints import Checkpoint
from .errors import BadInput, NotFound
from .tensor_files import LazyTensor
from .weights import Entry, Installed

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
MAX_ARGS_BYTES = 1 << 20

_TASKS = {"points": "points-to-mesh", "voxels": "voxels-to-mesh", "nothing": "shape"}


@dataclass(frozen=True)
class Conversion:
    """What a family makes of a checkpoint.

    config: for the family's configuration; tensors: by published name, exactly those of the model,
    read when they are written.
    kind: what it takes ("points", "voxels", "nothing"; other kinds need an entry of the registry).
    cameras: of its views, where it has several. notes: for "source" of model.json.
    """

    family: str
    config: dict[str, Any]
    tensors: dict[str, LazyTensor]
    kind: str = ""
    cameras: tuple[int, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


def convert(
    path: Path,
    *,
    model_id: str | None = None,
    args: Path | None = None,
    ema: bool = False,
    dtype: str | None = None,
    store: Path | None = None,
    ignore: Sequence[str] = (),
    source: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
    settings_of_run: Mapping[str, Any] | None = None,
    report: Callable[[float], None] | None = None,
) -> Installed:
    """Write the model that `path` holds into `store`/<id>; memory: about one piece of a tensor.

    path: a checkpoint, or the folder that the published training of ViewDiff saved.
    model_id: of the registry, or a new one for a model of one's own; None: the one of the registry
    that takes the same. args: its args.json; None: the one beside it, if there is one.
    ema: running averages instead of the last weights. dtype: a key of DTYPES, None keeps each.
    texts: further files by name, such as the licence.
    settings_of_run: of such a folder, what no file tells: `models.viewdiff.runs.SAYABLE`.
    report(fraction) is called meanwhile; what it raises ends the conversion and leaves nothing.
    Raises BadInput (nothing of the file is run), NotFound, StorageFailed.
    """
    if path.is_dir():
        from .models.viewdiff import runs  # here: torch takes a second to import

        if args or ema or dtype or ignore:
            raise BadInput(
                "A folder that a training saved is taken as it is.",
                "Leave --args, --ema, --dtype and --ignore out.",
            )
        name = model_id or path.name.lower()
        return runs.install(path, name, store=store, report=report, **(settings_of_run or {}))
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", "Check its name.")
    if settings_of_run:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in settings_of_run)
        raise BadInput(
            f"{path.name} is a file; {given} is said of a folder that ViewDiff's training saved.",
            f"Leave {given} out, or give such a folder.",
        )
    checkpoint = Checkpoint(path)
    entry = weights.entries().get(model_id) if model_id else None
    settings, settings_path = _read_args(path, args)
    tensor_type = DTYPES[dtype] if dtype else None
    family = entry.family if entry else _family_of(checkpoint)
    if family == "hyperdiffusion":
        return _convert_fields(
            checkpoint,
            path,
            model_id=model_id,
            ema=ema,
            dtype=dtype,
            store=store,
            ignore=ignore,
            source=source,
            texts=texts,
            report=report,
        )
    if family == "mvdream":
        made = _read_mvdream(checkpoint, entry, tensor_type, ema=ema, ignore=ignore)
    else:
        from .models.wala.checkpoint import read_checkpoint  # here: torch takes a second to import

        made = read_checkpoint(checkpoint, entry, settings, tensor_type, ema=ema, ignore=ignore)
    entry = entry or _entry_like(made)
    name = model_id or entry.id
    return weights.write_model(
        (store or weights.store()) / weights.check_id(name),
        id=name,
        title=entry.title if name == entry.id else name,
        summary=entry.summary,
        family=made.family,
        tasks=entry.tasks,
        config=made.config,
        tensors=made.tensors,
        steps=entry.steps,
        guidance=entry.guidance,
        views=len(made.cameras) or entry.views,
        view_kind=entry.view_kind,
        cameras=made.cameras or entry.cameras,
        license=entry.license if name == entry.id else "",
        needs=entry.needs,
        source={
            "checkpoint": path.name,
            "args": settings_path.name if settings_path else None,
            "weights": "average" if ema else "last",
            "dtype": dtype or "as published",
            **made.notes,
            **(source or {}),
        },
        texts=texts,
        report=report,
    )


def _read_args(path: Path, args: Path | None) -> tuple[dict[str, Any] | None, Path | None]:
    if args is None:
        args = path.with_name("args.json")
        if not args.is_file():
            return None, None
    try:
        if args.stat().st_size > MAX_ARGS_BYTES:
            raise ValueError("it is too large")
        record = json.loads(args.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"There is no file {args}.", "Check its name.") from None
    except OSError as error:
        raise BadInput(
            f"{args} cannot be read ({error.strerror or error}).",
            "Give the file args.json of the model, or leave --args out.",
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{args} cannot be read ({error}).", "Download it again, or remove it."
        ) from None
    if not isinstance(record, dict):
        raise BadInput(f"{args} holds no settings.", "Download it again, or remove it.")
    return record, args


_FIELDS_LICENSE = "CC-BY-NC-SA-3.0"
"""Of what HyperDiffusion's authors published, code and weights."""


def _convert_fields(
    checkpoint: Checkpoint,
    path: Path,
    *,
    model_id: str | None,
    ema: bool,
    dtype: str | None,
    store: Path | None,
    ignore: Sequence[str],
    source: Mapping[str, Any] | None,
    texts: Mapping[str, str] | None,
    report: Callable[[float], None] | None,
) -> Installed:
    """A model of neural fields, which its weights tell all of; named like the file by default."""
    from .models.hyperdiffusion import loading  # here: torch takes a second
    from .models.hyperdiffusion.checkpoint import contents

    if ema:
        raise BadInput("This checkpoint holds no averaged weights.", "Leave --ema out.")
    made = contents(checkpoint, DTYPES[dtype] if dtype else None, ignore)
    stem = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "fields"
    name = model_id or f"hyperdiffusion-{stem}"[:60]
    return weights.write_model(
        (store or weights.store()) / weights.check_id(name),
        id=name,
        title=f"HyperDiffusion {path.stem}"[:80],
        summary="Makes neural fields out of noise: shapes in motion."
        if made.moving
        else "Makes neural fields out of noise: shapes.",
        family="hyperdiffusion",
        tasks=("animation" if made.moving else "shape",),
        config=made.config,
        tensors=made.tensors,
        steps=made.config["model"]["steps"],
        license=_FIELDS_LICENSE,
        source={
            "checkpoint": path.name,
            "dtype": dtype or "as published",
            "assumed": {"heads of the denoiser": loading.HEADS},
            **(source or {}),
        },
        texts=texts,
        report=report,
    )


def _family_of(checkpoint: Checkpoint) -> str:
    names = checkpoint.state_dict()
    if any("decoder.input_parameter_projections." in name for name in names):
        return "hyperdiffusion"
    return "mvdream" if any("model.diffusion_model." in name for name in names) else "wala"


def _read_mvdream(
    checkpoint: Checkpoint,
    entry: Entry | None,
    dtype: str | None,
    *,
    ema: bool,
    ignore: Sequence[str],
) -> Conversion:
    from .models.mvdream.checkpoint import contents

    if entry is None:
        raise _unsure("mvdream")
    state = "state_dict_ema" if ema else "state_dict"
    config, tensors = contents(checkpoint, entry, dtype, state, ignore=ignore)
    return Conversion("mvdream", config.to_dict(), tensors, cameras=entry.cameras)


def _entry_like(made: Conversion) -> Entry:
    """The entry of the registry for the same task: its steps and guidance are taken over."""
    task = _TASKS.get(made.kind)
    able = [entry for entry in weights.entries().values() if entry.family == made.family]
    for entry in able:
        if task in entry.tasks:
            return entry
    raise _unsure(made.family)


def _unsure(family: str) -> BadInput:
    obvious = set(_TASKS.values())
    choices = [
        entry.id
        for entry in weights.entries().values()
        if entry.family == family and not obvious & set(entry.tasks)
    ]
    return BadInput(
        "What this model takes cannot be told from its weights alone.",
        f"Say which model it is: --id followed by one of {', '.join(choices)}.",
    )
