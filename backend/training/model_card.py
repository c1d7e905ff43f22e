"""The card of a trained model and the attribution of what it was trained on, from what is known.

Nothing in a card is typed in: numbers come from the checkpoints, the shapes and the evaluation.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import weights
from ..bench_tables import table
from ..errors import BadInput
from . import dataset, export
from .packed import Shape

LICENCES = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-3.0-US": "https://creativecommons.org/licenses/by/3.0/us/",
}
"""What shapes may be under, and where it is written."""

_BACKBONE = (
    "What sees pictures began with the weights of EfficientNet-Lite0 (M. Tan and Q. V. Le, Google;"
    " converted for PyTorch by ML Illustrated), under the Apache License, Version 2.0:"
    " https://www.apache.org/licenses/LICENSE-2.0. They were changed by further training."
)

_LIMITS = """\
- Small, and trained on few shapes: furniture and household things, some people and plants, few
  vehicles. Other things come out as furniture.
- Words name things of the data: others come out as the nearest of these. Without the reader of
  sentences, single words count. Where nothing is said, the model says one of its own names to
  itself. What words make lies nearer to training shapes than test shapes do (see the sets above).
- Parts thinner than two hundredths of the longest side get lost or frayed; surfaces are wavy. From
  pictures come bodies, seldom legs, handles or leaves.
- No textures, no materials, no people who can be told apart.
"""


_SETS = (
    "Shapes made of nothing and of words, as sets beside the test shapes (MMD, COV, 1-NNA, chamfer"
    " distance of 2048 points). To training: mean distance to the nearest training shape; copies:"
    " share of those that are nearer to one than 95 of 100 test shapes are."
)


def write(folder: Path, checkpoints: Path, target: Path, title: str, hardware: str) -> list[Path]:
    """README.md and ATTRIBUTION.md in `target`. Raises BadInput for shapes without a known licence.

    folder: of the shapes and, if there is one, the evaluation; checkpoints: of the trainings.
    """
    shapes = dataset.load(folder, "train").shapes
    sources = export.provenance(checkpoints)
    evaluation = folder / "evaluation" / "evaluation.json"
    measured = json.loads(evaluation.read_text("utf-8")) if evaluation.exists() else None
    target.mkdir(parents=True, exist_ok=True)
    files = {
        "README.md": card(title, _tasks_of(target), shapes, sources, measured, hardware),
        "ATTRIBUTION.md": attribution(shapes),
    }
    for name, text in files.items():
        (target / name).write_text(text, encoding="utf-8")
    return [target / name for name in files]


def _tasks_of(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(json.loads((folder / weights.DESCRIPTION).read_text("utf-8"))["tasks"])
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder} holds no model ({error}).", "Export it first.") from None


def card(
    title: str,
    tasks: Sequence[str],
    shapes: Sequence[Shape],
    sources: dict[str, Any],
    measured: dict[str, Any] | None,
    hardware: str,
) -> str:
    """Markdown. sources: as `export.provenance` gives them. measured: what `evaluate` wrote."""
    parts = [f"# {title}", _intended(tasks), _data(shapes), _training(sources, hardware)]
    if measured:
        parts.append(_quality(measured))
    return "\n\n".join([*parts, f"## Limits\n\n{_LIMITS}"])


def _intended(tasks: Sequence[str]) -> str:
    return (
        f"For {', '.join(tasks)}. A VQ-VAE of wavelet trees and one latent diffusion under any of"
        " several conditions, made and trained by the Fieldforge project, to work offline and on a"
        " processor.\n\n"
        "Licence of the weights: CC-BY 4.0. `ATTRIBUTION.md` names the makers of all shapes that"
        " they were trained on."
    )


def _data(shapes: Sequence[Shape]) -> str:
    counts = Counter((shape.source, licence_of(shape)) for shape in shapes)
    rows = [
        {"source": source, "licence": licence, "shapes": count}
        for (source, licence), count in sorted(counts.items())
    ]
    families = len({shape.family for shape in shapes})
    return (
        f"## Data\n\n{len(shapes)} shapes for training, of {families} families of near-duplicates;"
        " whole families are on one side of the split. The shapes of furniture are those of the"
        " Debian package sweethome3d-furniture 1.8.\n\n" + _markdown(rows)
    )


def _training(sources: dict[str, Any], hardware: str) -> str:
    rows = [
        {
            "training": name,
            "steps": entry["step"],
            "on top of": entry["settings"].get("start", 0),
            "hours": round(entry["seconds"] / 3600, 2),
            "batch": entry["settings"]["batch"],
            "seed": entry["settings"]["seed"],
        }
        for name, entry in sources.items()
    ]
    return (
        f"## Training\n\n{hardware}\n\n{_markdown(rows)}\n\n"
        "What sees pictures began with the weights of EfficientNet-Lite0, trained by Google on"
        " photographs (ImageNet) and published under the Apache License 2.0."
    )


def _quality(measured: dict[str, Any]) -> str:
    count = len(measured["shapes"])
    parts = [
        "## Quality",
        f"On {count} test shapes, which training never saw, against their closing TSDF; means."
        " IoU of volumes at 128^3; chamfer distance in units of the diagonal. Poisson is screened"
        " Poisson (Open3D, depth 8); the nearest training shape is the one whose pictures the"
        " model's own encoder finds most alike.",
    ]
    for name, words in (("inputs", ""), ("sets", _SETS)):
        if measured[name]:
            parts += [words, _markdown(measured[name])] if words else [_markdown(measured[name])]
    return "\n\n".join(parts)


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    return "```\n" + table(list(rows)) + "\n```"


def licence_of(shape: Shape) -> str:
    """The last part of its attribution; "Fieldforge" for what the project made itself."""
    if shape.source == "generated":
        return "Fieldforge"
    return shape.attribution.rpartition(",")[2].strip()


def attribution(shapes: Sequence[Shape]) -> str:
    """Markdown: every shape with its maker and licence.

    Raises BadInput for a shape under another licence than those of LICENCES.
    """
    groups: dict[str, list[str]] = {}
    for shape in shapes:
        licence = licence_of(shape)
        if licence == "Fieldforge":
            continue
        if licence not in LICENCES:
            raise BadInput(f"{shape.id} is under {licence!r}.", "Leave it out of the data.")
        groups.setdefault(licence, []).append(shape.attribution.rpartition(",")[0])
    parts = [f"# What these weights were made of\n\n{_BACKBONE}", "# Shapes"]
    for licence, entries in sorted(groups.items()):
        lines = "\n".join(f"- {entry}" for entry in sorted(entries))
        parts.append(f"## {licence}: {LICENCES[licence]}\n\n{lines}")
    return "\n\n".join(parts) + "\n"
