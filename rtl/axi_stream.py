"""AXI4-Stream, as the accelerator speaks it: frames of 32-bit words."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["AxiStreamSignature"]


class AxiStreamSignature(wiring.Signature):
    """Signature of an AXI4-Stream transmitter (AMBA AXI-Stream, IHI 0051); a receiver has `In`.

    A word is transferred in each cycle in which `tvalid` and `tready` are high.

    Parameters
    ----------
    user : bool
        Have `tuser`.

    Members
    -------
    tdata : Out(32)
        Four bytes, the first in bits 7-0.
    tlast : Out(1)
        The last word of a frame.
    tuser : Out(1)
    tvalid : Out(1)
    tready : In(1)
    """

    def __init__(self, *, user=False):
        super().__init__(
            {
                "tdata": Out(32),
                "tlast": Out(1),
                **({"tuser": Out(1)} if user else {}),
                "tvalid": Out(1),
                "tready": In(1),
            }
        )
