"""The product: import a network, quantise, compress, plan, pack, and run it on a device."""
