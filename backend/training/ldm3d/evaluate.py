"""What the autoencoder keeps of rooms it never saw; what the diffusion makes of their captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from ...depth_meanings import DepthMeaning, radii
from ...models.ldm3d import images
from ..rooms.dataset import Rooms, metres
from . import autoencoder, pictures


@torch.no_grad()
def of_autoencoder(
    coder: Any, rooms: Rooms, device: torch.device, most: int, layout: str = autoencoder.LAYOUT
) -> dict[str, float]:
    """Means over rooms: PSNR of colours (dB), AbsRel and RMSE (metres) of the distance where it is
    finite and within what inverse depth can say, and how visible the seam is (`seam`)."""
    rows: list[dict[str, float]] = []
    for number in range(min(most, len(rooms))):
        latent = autoencoder.latent_of(coder, rooms, number, device, layout=layout)
        decoded = coder.decode(latent[None]).sample[0].float().cpu().numpy()
        picture, depth = images.split(decoded, layout)
        cell = picture.shape[1] // latent.shape[-1]
        rows.append(
            {
                "psnr": psnr(picture, rooms.rgb(number) / np.float32(255)),
                **of_depth(depth, metres(rooms.levels(number)), pictures.MEANING),
                "seam": seam(picture, cell),
                "seam of the room": seam(rooms.rgb(number) / np.float32(255), cell),
                "pole": pole(picture),
                "pole of the room": pole(rooms.rgb(number) / np.float32(255)),
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} | {
        "rooms": float(len(rows))
    }


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    """Of (H, W, 3), 0..1, in dB, by solid angle."""
    weight = np.sin(np.pi * (np.arange(len(truth)) + 0.5) / len(truth))[:, None, None]
    error = float((np.square(picture - truth) * weight).mean() / weight.mean())
    return float(-10 * np.log10(max(error, 1e-12)))


def of_depth(depth: np.ndarray, truth: np.ndarray, meaning: DepthMeaning) -> dict[str, float]:
    """depth: (H, W) 0..1; truth: (H, W) metres, inf for the sky. By solid angle."""
    weight = np.sin(np.pi * (np.arange(len(truth)) + 0.5) / len(truth))[:, None]
    known = np.isfinite(truth) & (truth > meaning.near) & (truth < meaning.far)
    weight = np.where(known, weight, 0)
    truth = np.where(known, truth, 1)
    found = np.where(known, radii(depth, meaning), 1)
    total = weight.sum()
    return {
        "absrel": float((np.abs(found - truth) / truth * weight).sum() / total),
        "rmse": float(np.sqrt((np.square(found - truth) * weight).sum() / total)),
    }


def seam(picture: np.ndarray, cell: int = 1) -> float:
    """How much more the first and the last column differ than neighbours elsewhere do: 1 for a
    picture without a seam, on the average. cell: columns between two borders of cells of latents,
    which the seam, being one, is held against."""
    steps = np.abs(picture - np.roll(picture, 1, axis=1)).mean(axis=(0, 2))[::cell]
    return float(steps[0] / max(steps[1:].mean(), 1e-6))


def pole(picture: np.ndarray) -> float:
    """How much the highest and the lowest row, each of which is nearly one place, vary: the mean
    distance of their values from their mean."""
    rows = picture[[0, -1]]
    return float(np.abs(rows - rows.mean(axis=1, keepdims=True)).mean())


def samples(
    model: Any, captions: Sequence[str], steps: int, guidance: float, seed: int,
    report: Callable[[str], None],
) -> list[tuple[str, np.ndarray, np.ndarray]]:  # fmt: skip
    """Of a loaded `models.ldm3d` model: caption, picture (H, W, 3), depth (H, W), 0..1."""
    from ...models.ldm3d.model import first_noise

    found = []
    for number, caption in enumerate(captions):
        noise = first_noise(model, model.config.width, model.config.height, seed + number)
        latents = noise
        for taken in model.sample(caption, noise, steps, guidance, seed=seed + number):
            latents = taken.sample
        found.append((caption, *model.decode(latents)))
        report(f"samples: {number + 1} of {len(captions)}")
    return found


def sheet(rows: Sequence[tuple[str, np.ndarray, np.ndarray]], path: Path) -> None:
    """A PNG: caption, picture and depth (near is bright), one below the other."""
    height, width = rows[0][2].shape
    line = 16
    page = Image.new("RGB", (2 * width, len(rows) * (height + line)), "white")
    draw = ImageDraw.Draw(page)
    for number, (caption, picture, depth) in enumerate(rows):
        top = number * (height + line)
        draw.text((4, top + 2), caption, fill="black")
        page.paste(Image.fromarray(images.to_bytes(picture)), (0, top + line))
        grey = images.to_bytes(np.sqrt(np.clip(depth, 0, 1)))
        page.paste(Image.fromarray(grey).convert("RGB"), (width, top + line))
    page.save(path)


def room_rows(rooms: Rooms, numbers: Sequence[int]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Rooms as `sheet` shows them."""
    return [
        (
            rooms.captions[number],
            rooms.rgb(number) / np.float32(255),
            pictures.depth_of(rooms.levels(number)),
        )
        for number in numbers
    ]
