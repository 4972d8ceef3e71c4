"""Integer NumPy models of the arithmetic: every bit as the hardware must produce it.

`convolve` is the reference for the MAC array, `decode` for the coefficient decoder, `generate` for
the weight generator, `requantise` for the requantiser; `add`, `mean`, `multiply`, `pool` and
`table` for layers that are not convolutions, and `network` for all of it. Sums are exact integers;
rounding and saturation happen where the hardware rounds and saturates, and nowhere else. Nothing
here imports the rest of the project.
"""
