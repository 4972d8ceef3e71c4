"""The accelerator in Amaranth: one block a file, composed by `rtl.accelerator`."""
