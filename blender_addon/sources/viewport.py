"""What the 3D view shows now, as a picture."""

from __future__ import annotations

from ...backend.errors import BadInput
from ..capture import Facts
from ..pictures import LONGEST_PICTURE, ImageCapture, fitted
from . import cameras, offscreen

_SHADING_WORDS = {
    "SOLID": "Solid",
    "MATERIAL": "Material Preview",
    "RENDERED": "Rendered",
}


def facts(context) -> Facts:
    if not offscreen.available(context):
        reason = "There is no 3D viewport to look at"
        return Facts(f"{reason}.", reason, "Open one in Blender's window, or choose Image.")
    space, region = cameras.viewport(context)
    words = _SHADING_WORDS[offscreen.shading_of(context, space)]
    return Facts(f"{region.width:,} x {region.height:,} pixels, {words}")


def capture(context) -> ImageCapture:
    """Draw the view once more, without what is not part of the scene. Raises BadInput."""
    seen = cameras.of_view(context)
    longest = min(LONGEST_PICTURE, max(seen.size))
    image, _ = offscreen.draw(context, seen.view, seen.projection, fitted(seen.size, longest))
    if not image[..., 3].any():
        raise BadInput(
            "The view shows nothing.", "Turn it so that the object is in it (View > Frame All)."
        )
    return ImageCapture(
        name="Viewport",
        pixels=image,
        matrix_world=cameras.at_cursor(context),
        drawn=True,
    )
