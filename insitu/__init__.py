"""The product: import a network, quantise, compress, plan, pack, and run it on a device."""

__version__ = "0.1.0"
