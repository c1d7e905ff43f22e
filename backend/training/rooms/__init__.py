"""Furnished rooms from numbers: plans, pictures all around with depth, and what they show in words.

A room is a function of its number and its side of the split: the furniture of the training side
stands in training rooms only. Frame: metres, Z up; a picture is equirectangular from the eye at the
origin, pixel (row i, column j) looks along phi = 2 pi (0.5 - (j + 0.5) / W),
theta = pi (0.5 - (i + 0.5) / H), d = (cos theta cos phi, cos theta sin phi, sin theta).
"""
