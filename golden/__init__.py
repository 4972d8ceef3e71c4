"""Integer NumPy models of the arithmetic: every bit as the hardware must produce it.

Each module has the name of the block in `rtl/` that it is the reference for. Sums are exact
integers; rounding and saturation happen where the hardware rounds and saturates, and nowhere
else. Nothing here imports the rest of the project.
"""
