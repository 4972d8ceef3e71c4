"""A stream without `ready`: what comes must be taken."""

from amaranth.lib import wiring
from amaranth.lib.wiring import Out

__all__ = ["Push"]


class Push(wiring.Signature):
    """Payloads that cannot wait: one is transferred in every cycle with `valid`.

    `amaranth.lib.stream` has streams that are always ready, but Amaranth 0.5 converts no component
    with such a port to Verilog.
    """

    def __init__(self, payload_shape):
        super().__init__({"payload": Out(payload_shape), "valid": Out(1)})
