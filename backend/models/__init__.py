"""Models, named by the paper or the method. Each module is imported on first use."""
