"""Multi-view pictures: cameras around an object, what each of them sees, and the way to a mesh.

`lenses` and `paths` are the geometry, `cameras` reads and makes Blender's cameras, `planning` says
where new ones stand, `source` reads what the panel chooses, `captures` makes tasks of it, `arrival`
prepares results in a thread, `scene` and `clip` put them into the file, `rerolls` makes some of the
views anew, `transforms` reads and writes transforms.json, `overlay` shows cameras before they are
there.

Conventions (backend/protocol.py): a pose is the matrix_world of a camera; intrinsics are fx, fy,
cx, cy in pixels, with the centre of the first pixel, that in the upper left corner, at 0.
"""
