"""The accelerator: its blocks, and how data flows between them."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped

from .activation_buffer import ActivationBuffer, host_delay
from .address_generator import AddressGenerator
from .basis_buffer import BasisBuffer
from .coefficient_decoder import CoefficientDecoder
from .coefficient_fetch import CoefficientFetch
from .coefficient_memory import CoefficientMemory
from .config import FAMILIES, Configuration
from .delay import delayed
from .host_port import HostPort
from .issue import Issue, sources_are_silent
from .mac_array import MacArray
from .parameter_loader import ParameterLoader
from .record import CROSS, INTRA, TILE
from .requantiser import Requantiser
from .sequencer import Sequencer
from .storage import SPRAM_WORDS
from .weight_broadcast import WeightBroadcast
from .weight_generator import WeightGenerator
from .weight_tile import WeightTile
from .wishbone import WishboneSignature

__all__ = ["Accelerator"]


def _check_spram(config):
    """Raise ValueError unless both memories are of whole SPRAMs, which have one port."""
    if config.activation_ports != 1:
        raise ValueError(
            f"activation_ports must be 1 where technology is 'ice40', not {config.activation_ports}"
        )
    for name, words, bits in (
        ("activation_bytes", config.activation_words, 8 * config.activation_word),
        ("coefficient_bytes", config.coefficient_words, config.coefficient_port),
    ):
        if words % SPRAM_WORDS:
            raise ValueError(
                f"{name} must be a multiple of {SPRAM_WORDS * bits // 8} where technology is "
                f"'ice40' and a word {bits} bits, not {getattr(config, name)}"
            )


class Accelerator(wiring.Component):
    """Neural network accelerator that recovers its weights on chip.

        coefficient memory -> fetch -> decoder -+-> basis buffer
                                                +-> weight generator -+
                                                +-> (W or V) ---------+-> issue -> MAC array
        activation buffer -> (activations) ---------------------------+               |
              ^                    weight tile -> (W) ----------------+          requantiser
              |                         ^                                             |
              +------- outputs ---------+-------------------- tile -------------------+

    Parameters
    ----------
    config : Configuration
    technology : "sim", "ice40" or "ecp5"
        "sim", the default: no primitives, all memories and multipliers are inferred; any simulator
        runs it, and any tool synthesises it. "ice40" and "ecp5": primitives of that family
        (`Storage`, `ByteMultipliers`, `WideMultiplier`). On hardware pass `config.family`.

    Members
    -------
    bus : In(WishboneSignature)
        The host: registers and memories (docs/host.md).

    Raises
    ------
    ValueError
        For another technology, or a configuration whose memories "ice40" cannot make.
    """

    def __init__(self, config: Configuration, technology="sim"):
        if not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, not {config!r}")
        if technology not in FAMILIES:
            raise ValueError(f"technology must be one of {', '.join(FAMILIES)}, not {technology!r}")
        if technology == "ice40":
            _check_spram(config)
        self.config = config
        self.technology = technology
        super().__init__({"bus": In(WishboneSignature())})

    def elaborate(self, platform):
        m = Module()
        config, technology = self.config, self.technology
        m.submodules.host_port = self._host = HostPort(config)
        m.submodules.sequencer = self._sequencer = Sequencer(config)
        m.submodules.coefficient_memory = self._coefficients = CoefficientMemory(config, technology)
        m.submodules.coefficient_fetch = self._fetch = CoefficientFetch(config)
        m.submodules.parameter_loader = self._loader = ParameterLoader(config)
        m.submodules.coefficient_decoder = self._decoder = CoefficientDecoder(config)
        m.submodules.basis_buffer = self._basis = BasisBuffer(config)
        m.submodules.weight_generator = self._generator = WeightGenerator(config)
        m.submodules.weight_broadcast = self._broadcast = WeightBroadcast(config)
        m.submodules.weight_tile = self._tile = WeightTile(config)
        m.submodules.address_generator = self._addresses = AddressGenerator(config)
        m.submodules.activation_buffer = self._activations = ActivationBuffer(config, technology)
        m.submodules.issue = self._issue = Issue(config)
        m.submodules.mac_array = self._array = MacArray(config, technology)
        m.submodules.requantiser = self._requantiser = Requantiser(config, technology)

        # Decoded long before they are needed: the record is complete, and the array at rest.
        record = self._sequencer.record
        cross = Signal()
        generating = Signal()  # the tile, of a layer with a cross level
        to_tile = Signal()  # results go to the tile
        m.d.sync += [
            cross.eq(record.dataflow == CROSS),
            generating.eq(self._sequencer.tile),
            to_tile.eq(self._sequencer.tile | record.to_tile),
            self._issue.from_generator.eq(record.dataflow == INTRA),
            self._issue.from_tile.eq(
                ((record.dataflow == CROSS) & ~self._sequencer.tile) | (record.dataflow == TILE)
            ),
        ]

        connect(m, flipped(self.bus), self._host.bus)
        self._configure(m, record, cross, generating)
        self._connect_words(m)
        self._connect_host(m)
        self._connect_coefficients(m)
        self._connect_operands(m, cross)
        self._connect_results(m, to_tile)
        return m

    def _configure(self, m, record, cross, generating):
        """Fields of the layer record, and the start of a layer, to the blocks."""
        sequencer, fetch, loader = self._sequencer, self._fetch, self._loader
        decoder, basis, generator = self._decoder, self._basis, self._generator
        for name in fetch.segments.signature.members:
            m.d.comb += getattr(fetch.segments, name).eq(record[name])
        walk = self._addresses.walk
        for name in walk.signature.members:
            m.d.comb += getattr(walk, name).eq(record[name])
        connect(m, sequencer.steps, self._addresses.steps)
        for name in ("basis", "stream", "cross"):
            for kind in ("precision", "vectors"):
                field = f"{name}_{kind}"
                m.d.comb += getattr(decoder, field).eq(record[field])
        output = self._activations.output
        requantiser = self._requantiser
        m.d.comb += [
            decoder.powers.eq(record.powers),
            loader.start.eq(sequencer.layer_start),
            loader.base.eq(record.parameter_base),
            loader.tile.eq(cross),
            loader.uniform.eq(record.uniform),
            loader.look_up.eq(record.table),
            loader.groups.eq(record.groups),
            loader.started.eq(fetch.started),
            loader.group_done.eq(requantiser.group_done),
            fetch.start.eq(sequencer.layer_start),
            fetch.permit.eq(loader.loaded & sequencer.permit),
            sequencer.fetching.eq(fetch.started),
            basis.clear.eq(sequencer.layer_start),
            basis.terms.eq(record.terms),
            basis.halves.eq(~cross),
            generator.cross_level.eq(cross),
            generator.terms.eq(record.terms),
            generator.taps.eq(Mux(record.flat, 0, record.taps)),
            generator.blocks.eq(record.blocks),
            generator.shift.eq(record.intra_shift),
            self._array.depthwise.eq(record.depthwise),
            self._broadcast.last_block_steps.eq(record.last_block_steps),
            self._tile.taps.eq(record.taps),
            sequencer.tile_complete.eq(self._tile.complete),
            self._addresses.start.eq(sequencer.walk),
            self._addresses.single.eq(cross),
            self._activations.clear.eq(sequencer.layer_start),
            self._activations.zero_point.eq(record.input_zero_point),
            output.base.eq(record.output_base),
            output.pitch.eq(record.output_pitch),
            output.groups.eq(record.groups),
            output.last_group_words.eq(record.last_group_words),
            sequencer.written.eq(self._activations.final_written | self._tile.complete),
            requantiser.clear.eq(sequencer.layer_start),
            requantiser.tile.eq(generating),
            requantiser.rounding.eq(record.rounding),
            requantiser.uniform.eq(record.uniform),
            requantiser.look_up.eq(record.table),
            requantiser.zero_point.eq(record.output_zero_point),
            requantiser.minimum.eq(record.activation_min),
            requantiser.maximum.eq(record.activation_max),
        ]

    def _connect_words(self, m):
        """The 32-bit port of the coefficient memory: sequencer, parameter loader, or host."""
        memory, sequencer, loader = self._coefficients, self._sequencer, self._loader
        host = self._host.memory
        self._host_reads = Signal()
        m.d.comb += [
            memory.words.request.eq(
                Mux(
                    sequencer.busy,
                    Mux(sequencer.reading, sequencer.words.request, loader.words.request),
                    self._host_reads,
                )
            ),
            memory.words.address.eq(
                Mux(
                    sequencer.busy,
                    Mux(sequencer.reading, sequencer.words.address, loader.words.address),
                    host.address,
                )
            ),
            sequencer.words.grant.eq(memory.words.grant),
            sequencer.words.valid.eq(memory.words.valid),
            sequencer.words.data.eq(memory.words.data),
            loader.words.grant.eq(memory.words.grant & ~sequencer.reading),
            loader.words.valid.eq(memory.words.valid & sequencer.busy & ~sequencer.reading),
            loader.words.data.eq(memory.words.data),
        ]
        connect(m, loader.parameters, self._requantiser.parameters)
        connect(m, loader.table, self._requantiser.table)

    def _connect_host(self, m):
        """The host's access to the memories, while no program runs."""
        host, sequencer = self._host.memory, self._sequencer
        coefficients, activations = self._coefficients, self._activations
        access = Signal()
        granted = Signal()
        waits = Signal()  # for what it reads
        arrives = Signal()
        # It is a long way to memories that lie all over the device.
        way = int(self.config.slow_memory)
        to_coefficients, to_activations, write, address, data = delayed(
            m,
            way,
            host_to_coefficients=access & ~host.region,
            host_to_activations=access & host.region,
            host_write=host.write,
            host_address=host.address,
            host_data=host.data_w,
        )
        (found,) = delayed(m, way + host_delay(self.config), found=granted & host.region)
        m.d.comb += [
            granted.eq(access & (host.region | (~host.write & coefficients.words.grant))),
            arrives.eq(waits & Mux(host.region, found, coefficients.words.valid)),
            sequencer.start.eq(self._host.start),
            self._host.busy.eq(sequencer.busy),
            self._host.cycles.eq(sequencer.cycles),
            self._host.fault.eq(sequencer.fault),
            access.eq(host.request & ~sequencer.busy & ~waits),
            host.acknowledge.eq(arrives | (access & host.write & ~host.region)),
            host.data_r.eq(Mux(host.region, activations.host_data_r, coefficients.words.data)),
            self._host_reads.eq(access & ~host.write & ~host.region),
            coefficients.host_write.eq(to_coefficients & write),
            coefficients.host_address.eq(address),
            coefficients.host_data.eq(data),
            activations.host_request.eq(to_activations),
            activations.host_write.eq(write),
            activations.host_address.eq(address),
            activations.host_data_w.eq(data),
        ]
        with m.If(granted):
            m.d.sync += waits.eq(1)
        with m.Elif(arrives):
            m.d.sync += waits.eq(0)

    def _connect_coefficients(self, m):
        """From coefficient memory through the decoder to all that take its vectors."""
        decoder, basis, generator = self._decoder, self._basis, self._generator
        connect(m, self._fetch.o, self._coefficients.fetch)
        connect(m, self._coefficients.o, decoder.i)
        m.d.comb += decoder.word.eq(self._coefficients.word)
        connect(m, generator.basis, basis.read)
        vectors = decoder.o
        for taker in (basis, generator):
            for name in ("taken", "segment", "final", "last", "values"):
                m.d.comb += getattr(taker.vectors, name).eq(getattr(vectors, name))
        m.d.comb += [
            decoder.basis_room.eq(basis.room),
            decoder.stream_room.eq(generator.room),
            decoder.array_room.eq(self._issue.permit),
            self._issue.taken.eq(decoder.array_taken),
            self._issue.coefficients.eq(vectors.values),
            generator.half.eq(basis.half),
            basis.busy.eq(generator.busy),
        ]

    def _connect_operands(self, m, cross):
        """Activations, or W1 in their place, meet weights."""
        issue, generator, tile = self._issue, self._generator, self._tile
        connect(m, self._addresses.o, self._activations.taps)
        connect(m, self._activations.o, issue.activations)
        connect(m, generator.o, self._broadcast.i)
        connect(m, self._broadcast.o, self._activations.kernels)
        connect(m, issue.o, self._array.i)
        m.d.comb += [
            generator.permit.eq(issue.permit),
            issue.issued.eq(generator.issued),
            issue.generated.eq(generator.weights),
            tile.silent.eq(~issue.from_tile & sources_are_silent(self.config)),
            self._decoder.silent.eq(issue.from_tile & sources_are_silent(self.config)),
            tile.next.eq(issue.tile_next),
            tile.last.eq(issue.tile_last),
            issue.tile.eq(tile.weights),
        ]

    def _connect_results(self, m, to_tile):
        """From the array through the requantiser to the activation buffer or the tile."""
        connect(m, self._array.o, self._requantiser.i)
        results = self._requantiser.o
        m.d.comb += [
            self._activations.i.payload.eq(results.payload),
            self._activations.i.valid.eq(results.valid & ~to_tile),
            self._tile.i.payload.eq(results.payload),
            self._tile.i.valid.eq(results.valid & to_tile),
        ]
