"""What goes with our own models of fields: what they were made of, how good they are, and how near
to their training shapes what they make lies. Nothing in a card is typed in that was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...bench_tables import table
from ...weights import Installed
from .. import model_card
from . import evaluate
from .data import STRETCHED, THICKER, Item

_FRECHET = "; FPD by features of {features}, so only comparable here, with the training shapes' own"
_LIMITS = """\
- It makes variations of its training shapes, nothing new: see "to training" and "copies" above.
  Models over weights of fields are known to remember what they were trained on (Zeng et al.,
  "Generative Modeling of Weights: Generalization or Memorization?", 2025), also the published ones.
- It knows no words beyond the names in its list, if it has any, and takes no pictures.
- Edges are rounded, thin parts lumpy or in places broken; no textures.
"""

_SETS = (
    "As sets beside the test shapes, which training never saw, as HyperDiffusion measures them:"
    " MMD, COV, 1-NNA by the chamfer distance of {points} points on the surface, of moving things"
    " the mean over frames{frechet}.{jumps}"
    " Of 1-NNA (0.5 is best) both halves are given. To training: mean distance to the nearest"
    " training shape; copies: share of those nearer to one than 95 of 100 test shapes are."
)
_JUMPS = (
    " Jumps: the mean distance from frame to frame, in that of the training set, of things of the"
    " same names where a model was told names."
)
_BASELINE = (
    " Voxels: the paper's baseline, diffusion of 24^3 cells by a 3D U-Net, which is told no names,"
    " trained for {baseline:.2f} hours; fields and their diffusion took {own:.2f}."
)
_NO_BASELINE = " No baseline was trained, so nothing here compares methods."


def write(
    installed: Installed,
    items: Sequence[Item],
    measured: Mapping[str, Any],
    target: Path,
    hardware: str,
) -> list[Path]:
    """README.md and ATTRIBUTION.md in `target`. Raises BadInput for an unknown licence.

    items: what it was trained on. measured: what `fields evaluate` wrote.
    """
    files = {
        "README.md": card(installed, items, measured, hardware),
        "ATTRIBUTION.md": attribution(items),
    }
    for name, text in files.items():
        (target / name).write_text(text, encoding="utf-8")
    return [target / name for name in files]


def attribution(items: Sequence[Item]) -> str:
    """Markdown: every shape with its maker and licence, stretched ones with the shape they are of.

    Raises BadInput for an unknown licence.
    """
    shapes = {item.shape.attribution: item.shape for item in items}
    if all(shape.source == "generated" for shape in shapes.values()):
        return (
            "# What these weights were made of\n\nOnly of things that the Fieldforge project makes"
            " itself from numbers, CC0-1.0.\n"
        )
    found = model_card.attribution(list(shapes.values()))
    # Of the other model's card, whose pictures were first seen by a published network.
    return "# What these weights were made of\n\n" + found[found.index("# Shapes") :]


def card(
    installed: Installed, items: Sequence[Item], measured: Mapping[str, Any], hardware: str
) -> str:
    """Markdown."""
    return "\n\n".join(
        [
            f"# {installed.title}",
            f"{installed.summary} A diffusion over the weights of neural fields after"
            " HyperDiffusion (Erkoç et al. 2023), made and trained by the Fieldforge"
            " project from nothing, to work offline and on a processor. Nothing of the published"
            " code or weights is in it.",
            "Licence of the weights: CC-BY 4.0. `ATTRIBUTION.md` names the makers of the shapes.",
            _data(items),
            _training(installed, measured, hardware),
            _quality(measured, installed.source["training"]["seconds"]),
            f"## Limits\n\n{_LIMITS}{_left_out(installed)}",
        ]
    )


def _data(items: Sequence[Item]) -> str:
    counts = Counter(
        (item.kind, item.shape.attribution.rpartition(",")[2].strip()) for item in items
    )
    rows = [
        {"kind": kind, "licence": licence, "shapes": count}
        for (kind, licence), count in sorted(counts.items())
    ]
    words = f"{len(items)} shapes of the training side."
    if any(item.shape.source != "generated" for item in items):
        words += (
            " Furniture is that of the Debian package sweethome3d-furniture 1.8, each as it is and"
            f" {STRETCHED} times stretched, its surfaces moved outwards by {THICKER / 1.8:.1%} of"
            " the longest side, for wires and sheets are thinner than a small field can hold."
        )
    return f"## Data\n\n{words}\n\n{_markdown(rows)}"


def _training(installed: Installed, measured: Mapping[str, Any], hardware: str) -> str:
    entry = installed.source["training"]
    lines = [
        hardware,
        f"Fields: overlap (IoU) with their shapes {measured['overlap']:.3f} in the mean,"
        f" {measured['least overlap']:.3f} at least"
        + (
            f"; all fitted together as a mean and {measured['components']} others,"
            f" {measured['fitting seconds'] / 3600:.2f} hours."
            if measured.get("together")
            else "; fitted one by one."
        ),
        _by_kind(measured.get("overlap by kind", {})),
        f"Diffusion: {entry['step']} steps of {entry['recipe']['batch']},"
        f" {entry['seconds'] / 3600:.2f} hours, seed {entry['seed']}.",
    ]
    return "## Training\n\n" + "\n\n".join(line for line in lines if line)


def _left_out(installed: Installed) -> str:
    names = installed.source.get("left_out", [])
    if not names:
        return ""
    return (
        f"- Trained on, but not to be asked for, as they came out badly: {', '.join(names)}. Where"
        " nothing is asked for, they may come.\n"
    )


def _by_kind(overlaps: Mapping[str, float]) -> str:
    """What the fields hold well, and what they do not."""
    if len(overlaps) < 2:
        return ""
    ranked = sorted(overlaps.items(), key=lambda pair: -pair[1])
    return "Overlap by kind: " + ", ".join(f"{kind} {value:.2f}" for kind, value in ranked) + "."


def _quality(measured: Mapping[str, Any], seconds: float) -> str:
    """seconds: of the diffusion."""
    rows = [
        {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in measured["sets"]
    ]
    sets = _SETS.format(
        points=f"{measured['points']:,}",
        frechet=_FRECHET.format(features=measured.get("features", "a network"))
        if any("FPD" in row for row in rows)
        else "",
        jumps=_JUMPS if any("jumps / training's" in row for row in rows) else "",
    )
    if any(row["set"] == "voxels" for row in rows):
        own = (seconds + measured.get("fitting seconds", 0)) / 3600
        sets += _BASELINE.format(baseline=measured["voxels seconds"] / 3600, own=own)
    else:
        sets += _NO_BASELINE
    parts = [f"## Quality\n\n{sets}", _markdown(rows)]
    if measured.get("between"):
        shares = dict(measured["between"])
        kept = shares.pop(evaluate.KEPT_AS_FIELDS)
        said = ", ".join(f"{share:.0%} {name}" for name, share in shares.items())
        parts.append(
            "Between the weights of pairs that it made, a quarter, a half and three quarters of the"
            f" way, these were whole shapes: {said}. Fieldforge looks closer: it mixed the weights"
            f" of {kept:.0%} of the pairs, and the surfaces of the others."
        )
    if measured.get("weights to training"):
        parts.append(
            "Weights of what it made lie"
            f" {measured['weights to training']:.2f} times as far from the nearest training field"
            " as training fields lie from each other, in the middle."
        )
    parts.append("`samples.png` shows the first of them, not chosen.")
    return "\n\n".join(parts)


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    return "```\n" + table([dict(row) for row in rows]) + "\n```"
