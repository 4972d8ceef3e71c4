"""The accelerator with the ports that other systems on chip have: AXI4-Lite, AXI4-Stream."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .accelerator import Accelerator
from .axi_lite import AxiLiteBridge, AxiLiteSignature
from .axi_stream import AxiStreamSignature
from .config import Configuration
from .stream_port import StreamPort
from .wishbone import WishboneSignature

__all__ = ["AxiLiteAccelerator", "StreamAccelerator"]


class _Core(wiring.Component):
    """An accelerator behind a port; `technology` as it takes it."""

    def __init__(self, config: Configuration, technology, members):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        self.config = config
        self.technology = technology
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.accelerator = accelerator = Accelerator(self.config, self.technology)
        m.submodules.port = port = self._port()
        connect(m, port.bus, accelerator.bus)
        for name in self.signature.members:
            connect(m, flipped(getattr(self, name)), getattr(port, name))
        return m


class AxiLiteAccelerator(_Core):
    """The accelerator as an AXI4-Lite subordinate.

    Parameters
    ----------
    config : Configuration
    technology : "sim", "ice40" or "ecp5"
        See `Accelerator`: by default "sim"; on hardware pass `config.family`.

    Members
    -------
    axi : In(AxiLiteSignature)
        Registers and memories (docs/host.md); see `AxiLiteBridge`.
    """

    def __init__(self, config: Configuration, technology="sim"):
        super().__init__(config, technology, {"axi": In(AxiLiteSignature())})

    def _port(self):
        return AxiLiteBridge()


class StreamAccelerator(_Core):
    """The accelerator between two streams: inputs in, outputs out.

    Parameters
    ----------
    config : Configuration
    technology : "sim", "ice40" or "ecp5"
        See `Accelerator`: by default "sim"; on hardware pass `config.family`.

    Members
    -------
    host : In(WishboneSignature)
        Registers and memories (docs/host.md): loads the image, and says where the maps lie.
    s_axis : In(AxiStreamSignature)
        Input maps; see `StreamPort`.
    m_axis : Out(AxiStreamSignature(user=True))
        Output maps.
    """

    def __init__(self, config: Configuration, technology="sim"):
        super().__init__(
            config,
            technology,
            {
                "host": In(WishboneSignature()),
                "s_axis": In(AxiStreamSignature()),
                "m_axis": Out(AxiStreamSignature(user=True)),
            },
        )

    def _port(self):
        return StreamPort()
