"""Depth for a panorama that has none: a monocular model looks at views of it, which are aligned and
merged. `estimation.depth_of` is the way in."""
