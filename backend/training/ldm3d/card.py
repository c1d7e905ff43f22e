"""What goes with our own model of rooms: how it was made, how good it is, whose works it saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...errors import BadInput
from ...weights import Installed
from ..model_card import LICENCES
from ..rooms import furnishings
from ..rooms.furnishings import TRAINING, Model

_LIMITS = """\
- Rooms as through frosted glass: floor, walls and their colour, ceiling, light of the day or the
  evening, windows, and how far all that is. Furniture is patches of colour that stand out from the
  wall and can seldom be named. For furniture get a larger model.
- Small, and trained on computed rooms alone: flat colours, simple light, furniture of one
  catalogue. It knows no people, no streets, no landscapes; words for those are ignored.
- Details below two or three pixels of 512 x 256 are lost, and the depth of small things with them.
- What words say of numbers and places ("two", "left") is followed loosely or not at all.
"""


def write(
    furniture: Path, installed: Installed, measured: dict[str, float], target: Path, hardware: str
) -> list[Path]:
    """README.md and ATTRIBUTION.md in `target`. Raises BadInput for a licence that is not known."""
    models = [item.model for item in furnishings.read(furniture, TRAINING)]
    files = {
        "README.md": card(installed, models, measured, hardware),
        "ATTRIBUTION.md": attribution(models),
    }
    for name, text in files.items():
        (target / name).write_text(text, encoding="utf-8")
    return [target / name for name in files]


def licence_of(model: Model) -> str:
    """The last part of its attribution."""
    return model.attribution.rpartition(",")[2].strip()


def attribution(models: Sequence[Model]) -> str:
    """Markdown: every model with its maker and licence. Raises BadInput for an unknown licence."""
    groups: dict[str, list[str]] = {}
    for model in models:
        licence = licence_of(model)
        if licence not in LICENCES:
            raise BadInput(f"{model.id} is under {licence!r}.", "Leave it out of the data.")
        groups.setdefault(licence, []).append(model.attribution.rpartition(",")[0])
    parts = ["# Furniture in the rooms that these weights were trained on"]
    for licence, entries in sorted(groups.items()):
        lines = "\n".join(f"- {entry}" for entry in sorted(entries))
        parts.append(f"## {licence}: {LICENCES[licence]}\n\n{lines}")
    return "\n\n".join(parts) + "\n"


def card(
    installed: Installed, models: Sequence[Model], measured: dict[str, float], hardware: str
) -> str:
    """Markdown."""
    licences = Counter(licence_of(model) for model in models)
    counts = ", ".join(f"{count} under {licence}" for licence, count in sorted(licences.items()))
    trainings = "\n".join(
        f"- {name}: {entry['step']} steps of {entry['settings']['batch']} in"
        f" {entry['settings']['processes']} processes, {entry['seconds'] / 3600:.2f} hours,"
        f" seed {entry['settings']['seed']}"
        for name, entry in installed.source.items()
        if isinstance(entry, dict) and "settings" in entry
    )
    rows = "\n".join(f"- {name}: {value:.4g}" for name, value in measured.items())
    return f"""# {installed.title}

{installed.summary} An autoencoder of six channels (colours, and inverse depth three times) and a
latent diffusion with a text encoder of its own, made and trained by the Fieldforge project.

Licence of the weights: CC-BY 4.0. `ATTRIBUTION.md` names the makers of the furniture.

## Data

Rooms from numbers (`backend/training/rooms`), 512 x 256, ray cast with exact distances, captions of
what is seen. {len(models)} models of furniture of the Debian package sweethome3d-furniture 1.8:
{counts}. Only furniture of the training side; the figures below are of rooms with other furniture.

## Training

{hardware}

{trainings}

## Quality

The autoencoder on evaluation rooms: PSNR of colours (dB), error of the distance relative and in
metres, the step at the seam beside those at other borders of cells (1: none), how much the rows
at the poles vary (0 to 1). `samples.png` shows the first
captions of the evaluation rooms, not chosen.

{rows}

## Limits

{_LIMITS}"""
