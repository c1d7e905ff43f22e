"""Neural fields: shapes, still or moving, as the weights of a small network.

`recording` reads an object frame by frame while Blender stays usable, `captures` makes tasks of
what is sent, `arrival` prepares results in a thread, `scene` puts them into the file, `motion` has
them move, `kept` holds the field itself in an object, `mixing` goes live from one shape to another.

A result is an empty, the root, with the meshes as its children. The root keeps the field, where the
motion begins, and how fast it is; whatever part of it is selected, the panel shows it.
"""
