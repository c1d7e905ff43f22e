"""The Fieldforge extension for Blender; everything is in `blender_addon`."""

from .blender_addon import register, unregister  # noqa: F401
