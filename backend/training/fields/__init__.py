"""Fields of shapes and of moving things: data, fitting, diffusion over their weights, measuring."""
