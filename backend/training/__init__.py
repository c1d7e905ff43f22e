"""Data, losses, loops and evaluation of the bundled models. Nothing at run time imports it."""
