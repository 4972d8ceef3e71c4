"""Retraining in the compressed form, with PyTorch (the extra `train`).

A network in floating point becomes a student whose forward pass has the integer weights and maps
of the hardware in it, is trained against labels and against the network it came from, and leaves
as an integer network.

| module | holds |
|---|---|
| `straight_through` | rounding with a gradient |
| `weights` | weights that are trained as W, as U and B, or as V, U and B |
| `float_module` | the network that it came from |
| `student` | a network of layers with such weights, and its way into `golden` |
| `loop` | batches, objective, checkpoints |
| `retrain` | all of it, from a float network and samples to an integer network |
"""
