"""Blender's lenses and background images <-> intrinsics. No bpy.

Intrinsics are fx, fy, cx, cy in pixels; x goes to the right, y down, and the centre of the first
pixel is at 0. Blender measures in a plane before the camera whose unit is the width of one pixel of
the render (`_Plane`): pixels there are `ratio` high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...backend.errors import BadInput

SENSOR = 36.0  # millimetres, of the cameras that are made
_FOCAL = (1.0, 5000.0)  # millimetres that Blender allows


@dataclass(frozen=True)
class Lens:
    """Of a perspective camera, as Blender names it. focal, sensor_*: millimetres; fit: "AUTO",
    "HORIZONTAL" or "VERTICAL"; shift_*: in the larger side of the frame."""

    focal: float
    sensor_width: float = SENSOR
    sensor_height: float = 24.0
    fit: str = "AUTO"
    shift_x: float = 0.0
    shift_y: float = 0.0


@dataclass(frozen=True)
class Frame:
    """What a scene renders: width, height in pixels; aspect_*: of one pixel."""

    width: int
    height: int
    aspect_x: float = 1.0
    aspect_y: float = 1.0

    @property
    def aspect(self) -> float:
        """Width through height as it is seen."""
        return self.width * self.aspect_x / (self.height * self.aspect_y)


@dataclass(frozen=True)
class Backdrop:
    """A background image of a camera: width, height in pixels; aspect: of one pixel, its width
    through its height; method: "STRETCH", "FIT" or "CROP"; scale, offset: as Blender has them."""

    width: int
    height: int
    aspect: float = 1.0
    method: str = "FIT"
    scale: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def ratio(self) -> float:
        return self.width * self.aspect / self.height


@dataclass(frozen=True)
class _Plane:
    """focal, width, height: of the frame; middle: of the frame, from the camera's axis, y up."""

    focal: float
    width: float
    height: float
    middle: tuple[float, float]


def _plane(lens: Lens, frame: Frame) -> _Plane:
    ratio = frame.aspect_y / frame.aspect_x
    width, height = float(frame.width), frame.height * ratio
    fit = lens.fit if lens.fit != "AUTO" else "HORIZONTAL" if width >= height else "VERTICAL"
    side = width if fit == "HORIZONTAL" else height
    # With an automatic fit the width of the sensor is meant, whichever side it lies along.
    sensor = lens.sensor_height if lens.fit == "VERTICAL" else lens.sensor_width
    middle = (lens.shift_x * side, lens.shift_y * side)
    return _Plane(lens.focal / sensor * side, width, height, middle)


def intrinsics_of(lens: Lens, frame: Frame) -> np.ndarray:
    """(4,) float64: of what the camera renders."""
    plane = _plane(lens, frame)
    return _of_rectangle(plane, plane.middle, (plane.width, plane.height), frame)


def intrinsics_of_square(lens: Lens, frame: Frame, side: int) -> np.ndarray:
    """(4,) float64: of the smallest square picture that has all of the frame in it, `side` pixels
    wide."""
    plane = _plane(lens, frame)
    longest = max(plane.width, plane.height)
    return _of_rectangle(plane, plane.middle, (longest, longest), Frame(side, side))


def intrinsics_of_backdrop(lens: Lens, frame: Frame, image: Backdrop) -> np.ndarray:
    """(4,) float64: of a background image, where Blender draws it."""
    plane = _plane(lens, frame)
    aspect = plane.width / plane.height
    if image.method == "STRETCH":
        width, height = plane.width, plane.height
    elif (image.ratio > aspect) == (image.method == "FIT"):
        width, height = plane.width, plane.width / image.ratio
    else:
        width, height = plane.height * image.ratio, plane.height
    # The unit of the offset is the longer side of the frame; upwards it shrinks with the picture.
    longest = max(plane.width, plane.height)
    right = image.offset[0] * min(1.0, aspect)
    up = image.offset[1] / (max(1.0, aspect) * (image.ratio / aspect))
    middle = (plane.middle[0] + right * longest, plane.middle[1] + up * longest)
    size = (width * image.scale, height * image.scale)
    return _of_rectangle(plane, middle, size, image)


def _of_rectangle(
    plane: _Plane, middle: tuple[float, float], size: tuple[float, float], image: Frame | Backdrop
) -> np.ndarray:
    """Of a picture that fills a rectangle of the plane."""
    across, down = image.width / size[0], image.height / size[1]
    return np.array(
        [
            plane.focal * across,
            plane.focal * down,
            (image.width - 1) / 2 - middle[0] * across,
            (image.height - 1) / 2 + middle[1] * down,
        ]
    )


def lens_of(intrinsics: np.ndarray, image: Backdrop, frame: Frame) -> tuple[Lens, Backdrop]:
    """The lens that sees a picture of (4,) intrinsics as its background image, whole in the frame;
    its pixels get the aspect that the intrinsics tell. Raises BadInput."""
    fx, fy, cx, cy = (float(value) for value in intrinsics)
    if not (fx > 0 and fy > 0 and np.isfinite([fx, fy, cx, cy]).all()):
        raise BadInput("A view has no focal length.", "Make the views once more.")
    shown = Backdrop(image.width, image.height, fy / fx)
    right, up = (image.width - 1) / 2 - cx, cy - (image.height - 1) / 2
    if frame.aspect >= shown.ratio:  # the picture is as high as the frame
        fit, side = "VERTICAL", image.height / fy
    else:
        fit, side = "HORIZONTAL", image.width / fx
    # Of a view that is nearly half of the world, the sensor grows: no lens is shorter.
    focal = min(max(SENSOR / side, _FOCAL[0]), _FOCAL[1])
    lens = Lens(
        focal=focal,
        sensor_width=focal * side,
        sensor_height=focal * side,
        fit=fit,
        shift_x=right / fx / side,
        shift_y=up / fy / side,
    )
    return lens, shown
