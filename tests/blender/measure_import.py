"""How fast a result becomes an object in Blender. `python3 -m backend bench` runs this with bpy.

Prints one line of JSON: a list of rows.
"""

import json

import conftest
import test_importing  # after conftest, which loads the extension as Blender does

SIDES = (224, 708)  # of grids with 100,000 and 1,000,000 triangles


def main() -> None:
    rows = []
    for side in SIDES:
        placed = test_importing._grid(side)
        ours, lists = test_importing.measure_import(placed)
        rows.append(
            {
                "faces": len(placed.triangles),
                "on the main thread, s": round(ours, 4),
                "from_pydata, s": round(lists, 4),
                "times faster": round(lists / ours, 1),
            }
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    assert conftest.HAS_BPY, "This needs Blender as a Python module."
    main()
