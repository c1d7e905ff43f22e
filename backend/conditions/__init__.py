"""What the artist has, made into what WaLa's condition encoders saw in training.

picture_files   pictures and depth pictures from files
images          a picture, or several views -> (3, 224, 224)
sketches        a line drawing, or strokes -> (3, 224, 224)
depths          depth -> (3, 224, 224)
points          a point cloud -> (25000, 3)
voxels          an occupancy grid -> (16, 16, 16)
words           a text -> which known words it says
cameras         the poses of views, for models that take matrices

Every `model_*` returns float32 arrays for an encoder. Pictures lie in [-1, 1]; `prepare*` return
them as 8-bit pictures that a person can look at, with notes on what was done to them.
Numpy, Pillow, scipy and numba; no torch.
"""
