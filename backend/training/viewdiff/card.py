"""What goes with our own model of views: how it was made, how good it is, whose works it saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...bench_tables import table
from ...weights import Installed
from .. import model_card
from ..packed import Shape
from .scenes import VIEWS, Record

_LIMITS = """\
- Small: 64 pixels, and trained little (above). What one picture does not show is guessed,
  and blurred or plain where the guess is bad.
- It has seen furniture, household things, some people and plants, and simple solids, in plain
  light, alone. Of other things it makes something that looks like those.
- Thin parts vary between views or get lost. Writing, faces and fine patterns are not kept.
- It knows no words, and takes no account of what is behind a thing.
"""

_MEANINGS = {
    "psnr": "decibels of the pictures on white",
    "psnr of the thing": "the same where the true or the made view shows the thing",
    "outline overlap": "intersection over union of outlines",
    "reprojection": "decibels between neighbouring views at the same place of the true surface",
    "reprojection of the truth": "the same of the true views: what is to be had",
    "depth error": "mean, the thing being 1.8 long",
    "solid of outlines": "intersection over union of the solid within all outlines and the shape",
    "solid of depth": "the same with the depth that the model tells",
    "solid of true views": "the same of the true views with true depth: what is to be had",
}
_GUESSED = (
    " Before it, {step} steps of {scenes} scenes in each process, {hours:.2f} hours, of a first"
    " guess: of the given picture a coarse shape with colours, in space, of which the diffusion is"
    " told what every camera would see."
)
_BEFORE = (
    " {what} began with the weights of one {layers} layers in space{apart}, after {step} steps,"
    " {hours:.2f} hours, rate {rate:g}, seed {seed}."
)
_CARVED = " It learned what is solid from volumes that were carved out of the views."
_BEGUN = (
    " What the guess sees began with the weights of EfficientNet-Lite0, trained by Google on"
    " photographs (ImageNet) and published under the Apache License 2.0."
)


def write(
    installed: Installed,
    records: Sequence[Record],
    measured: Mapping[str, float],
    beside: Mapping[str, Mapping[str, float]],
    target: Path,
    hardware: str,
) -> list[Path]:
    """README.md and ATTRIBUTION.md in `target`. Raises BadInput for a licence that is not known.

    beside: what was measured in the same way of others, by what they are called.
    """
    shapes = list({record.shape.id: record.shape for record in records}.values())
    files = {
        "README.md": card(installed, shapes, measured, beside, hardware),
        "ATTRIBUTION.md": attribution(shapes, sees=_sees(installed)),
    }
    for name, text in files.items():
        (target / name).write_text(text, encoding="utf-8")
    return [target / name for name in files]


def _sees(installed: Installed) -> bool:
    """Whether pictures are seen by what was trained on photographs."""
    return bool((installed.config["denoiser"].get("guess") or {}).get("sight"))


def attribution(shapes: Sequence[Shape], sees: bool) -> str:
    """Markdown: every shape with its maker and licence; sees: and the network that pictures were
    first seen with. Raises BadInput for an unknown licence."""
    found = model_card.attribution(shapes)
    if sees:
        return found
    return "# What these weights were made of\n\n" + found[found.index("# Shapes") :]


def card(
    installed: Installed,
    shapes: Sequence[Shape],
    measured: Mapping[str, float],
    beside: Mapping[str, Mapping[str, float]],
    hardware: str,
) -> str:
    """Markdown."""
    return "\n\n".join(
        [
            f"# {installed.title}",
            "Views around a thing, and what is background in them, from one picture of it (or"
            " several, with their cameras): a multi-view diffusion after ViewDiff (Höllein et"
            " al. 2024) on pixels, 64 x 64, made and trained by the Fieldforge project, to work"
            " offline and on a processor. Nothing of the published code or of Stable Diffusion is"
            " in it.",
            "Licence of the weights: CC-BY 4.0. `ATTRIBUTION.md` names the makers of the shapes.",
            _data(shapes),
            _training(installed.source, hardware) + (_BEGUN if _sees(installed) else ""),
            _quality(measured, beside),
            f"## Limits\n\n{_LIMITS}",
        ]
    )


def _data(shapes: Sequence[Shape]) -> str:
    licences = Counter(model_card.licence_of(shape) for shape in shapes)
    rows = [{"licence": name, "shapes": count} for name, count in sorted(licences.items())]
    return (
        f"## Data\n\n{len(shapes)} shapes of the training side, each from {VIEWS} cameras on three"
        " rings and anywhere, with their own colours, simple light, alpha and exact depth; those"
        " of furniture also stretched and recoloured. They are those of the Debian package"
        " sweethome3d-furniture 1.8, and solids that the project makes from numbers.\n\n```\n"
        + table(rows)
        + "\n```"
    )


def _training(source: Mapping[str, Any], hardware: str) -> str:
    entry = source["training"]
    recipe, guess = entry["recipe"], entry.get("guess")
    return (
        f"## Training\n\n{hardware}\n\n"
        f"{entry['step']} steps of {recipe['scenes'] * recipe['parts']} scenes of"
        f" {recipe['views']} views in {entry['processes']} processes,"
        f" {entry['seconds'] / 3600:.2f} hours, rate {entry['rate']:g}, seed {entry['seed']}."
        + _before(entry, "It")
        + (_GUESSED.format(**guess, hours=guess["seconds"] / 3600) if guess else "")
        + (_CARVED if guess and guess.get("carved") else "")
    )


def _before(training: Mapping[str, Any], what: str) -> str:
    """The trainings that one began with, the last one first."""
    before = training.get("begun with")
    if not before:
        return ""
    layers = "with" if before["projection"] else "without"
    apart = "" if before.get("agreement") else ", whose views did not agree in space"
    told = _BEFORE.format(
        **before, what=what, layers=layers, apart=apart, hours=before["seconds"] / 3600
    )
    return told + _before(before, "That one")


def _quality(measured: Mapping[str, float], beside: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for name, meaning in _MEANINGS.items():
        if name in measured:
            others = {
                title: round(other.get(name, float("nan")), 3) for title, other in beside.items()
            }
            rows.append(
                {"measure": name, "value": round(measured[name], 3), **others, "meaning": meaning}
            )
    also = "".join(f" Beside it, {_other(title, beside[title])}." for title in beside)
    return (
        f"## Quality\n\n{measured['shapes']:.0f} shapes that training never saw; one picture is"
        " given, and nine views are made: seven on its ring, one from above, one from below."
        f"{also} Means; `samples.png` shows the first shapes, not chosen.\n\n```\n"
        + table(rows)
        + "\n```"
    )


def _other(title: str, measured: Mapping[str, float]) -> str:
    """What else was measured, and how long it was trained if that is known."""
    steps = measured.get(STEPS)
    return _BESIDE[title] + (f", trained {steps:.0f} steps" if steps else "")


FIRST_GUESS, APART, NO_LAYERS = "first guess", "apart", "no layers"
NO_GUESS, NEITHER = "no guess", "neither"
_BESIDE = {
    FIRST_GUESS: "what its first guess shows by itself, before anything is sampled",
    APART: "the same weights, trained with views that agree in space, painting without that",
    NO_LAYERS: "a model with its first guess but no layers in space",
    NO_GUESS: "one with layers in space but no first guess",
    NEITHER: "one with neither: attention alone between views",
}
STEPS = "trained steps"
"""Beside what is measured: how long what it is of was trained."""
