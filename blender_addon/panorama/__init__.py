"""Panoramas: 360-degree pictures with depth, and the spheres that they become in the scene.

`source` reads what the panel chooses, `captures` makes tasks of it, `arrival` prepares results in a
thread, `scene` and `images` put them into the file, `live` moves the vertices of a sphere while a
person turns its controls, `stereo` sets up the camera for headsets.

Axes (backend/protocol.py, PanoramaTask): eye at the origin, Z up, middle of the picture at +X, as
Blender's own Environment Texture has it.
"""
