"""Wishbone B4 classic, as the accelerator speaks it: 32-bit words, 20-bit word addresses."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["WishboneSignature"]


class WishboneSignature(wiring.Signature):
    """Signature of a Wishbone B4 classic master; a slave has `In(WishboneSignature())`.

    A cycle is requested while `cyc` and `stb` are high, and ends in the clock cycle in which `ack`
    or `err` is: `ack` if it was carried out, `err` if not. `dat_r` counts only together with `ack`.

    Members
    -------
    adr : Out(20)
        Word address: the byte address divided by 4.
    dat_w : Out(32)
    dat_r : In(32)
    sel : Out(4)
        Bytes of the word that are meant.
    cyc, stb, we : Out(1)
    ack, err : In(1)
    """

    def __init__(self):
        super().__init__(
            {
                "adr": Out(20),
                "dat_w": Out(32),
                "dat_r": In(32),
                "sel": Out(4),
                "cyc": Out(1),
                "stb": Out(1),
                "we": Out(1),
                "ack": In(1),
                "err": In(1),
            }
        )
