"""An interpreter of payloads, written from docs/image-format.md and rtl/record.py alone.

It runs program, records, parameters and segments as the hardware does, walking the addresses step
by step with the steps that the record gives, over a bytearray that is the activation memory. It
shares no code with golden/ or insitu/: where all three agree, plan, packing and format are right;
where the RTL disagrees, this is the oracle to single-step.

Use: `Interpreter(payload, config).run(memory)`; `maps` then holds what each layer wrote.
"""

from collections.abc import Iterator

import numpy as np

from rtl import record as layout
from rtl.config import Configuration

__all__ = ["Interpreter"]


def _ceil(a, b):
    return -(-a // b)


def _round_shift(x, s):
    return (x + (1 << s >> 1)) >> s


def _clamp8(x):
    return np.clip(x, -127, 127)


class Interpreter:
    """Runs a payload.

    Parameters
    ----------
    payload : bytes
        The coefficient memory from address 0.
    config : Configuration

    Members
    -------
    maps : list of dict of int to int
        For each layer run, the bytes it wrote by address.
    weights : list of array
        For each layer run, the weights it used: [lane group][channel group, tap, R, C].
    """

    def __init__(self, payload: bytes, config: Configuration):
        self.config = config
        self.words32 = [
            int.from_bytes(payload[i : i + 4], "little") for i in range(0, len(payload), 4)
        ]
        size = config.coefficient_port // 8
        self.words = [
            int.from_bytes(payload[i : i + size], "little") for i in range(0, len(payload), size)
        ]
        self.maps: list[dict[int, int]] = []
        self.weights: list[list[np.ndarray]] = []

    def run(self, memory: bytearray) -> None:
        """Run the program to its end over the activation memory."""
        for _ in self.step(memory):
            pass

    def step(self, memory: bytearray) -> Iterator[None]:
        """The same, record by record."""
        assert len(memory) == self.config.activation_bytes
        counter = 0
        while True:
            step = self.words32[counter]
            op, address = step >> 28, step & 0xFFFFF
            counter += 1
            if op == layout.OP_END:
                return
            assert op == layout.OP_LAYER, op
            self._layer(self._record(address), memory)
            yield

    def _record(self, address):
        record = {}
        for name, field in layout.FIELDS.items():
            value = (self.words32[address + field.word] >> field.lsb) % (1 << field.width)
            if field.signed and value >= 1 << (field.width - 1):
                value -= 1 << field.width
            record[name] = value
        return record

    def segment(self, address, vectors, words, precision):
        """Decode a segment bit by bit: int64 [vectors, R, C]."""
        config = self.config
        bits = config.stripe_bits
        assert words == _ceil(vectors * precision, bits)
        result = np.zeros((vectors, config.stripes), np.int64)
        for stripe in range(config.stripes):
            for v in range(vectors):
                code = 0
                for b in range(precision):
                    position = v * precision + b
                    word = self.words[address + position // bits]
                    code |= (word >> (stripe * bits + position % bits) & 1) << b
                if precision == 1:
                    result[v, stripe] = 1 - 2 * code
                else:
                    result[v, stripe] = code - (code >> (precision - 1) << precision)
        return result.reshape(vectors, config.lanes, config.width)

    def _u(self, f, address):
        """Decode a segment of U."""
        u = self.segment(address, f["stream_vectors"], f["stream_words"], f["stream_precision"] + 1)
        if not f["powers"]:
            return u
        assert f["stream_precision"] == 2
        return np.array([0, 1, 2, 4, None, -4, -2, -1])[u].astype(np.int64)

    def _layer(self, f, memory):
        config = self.config
        lanes = config.lanes
        entry = f["parameter_base"]
        table = None
        if f["table"]:
            words = self.words32[entry : entry + layout.TABLE_WORDS]
            table = b"".join(word.to_bytes(4, "little") for word in words)
            entry += layout.TABLE_WORDS
        common = None
        if f["dataflow"] == layout.CROSS or f["uniform"]:
            common = self._channel(entry)
            entry += self.config.parameter_words
        self.maps.append({})
        self.weights.append([])
        self._written = {}
        self._address = f["input_start"]
        make = {
            layout.STORED: self._stored,
            layout.INTRA: self._intra,
            layout.CROSS: self._cross,
            layout.TILE: lambda *_: self._tile,
        }[f["dataflow"]]
        words = lanes // config.activation_word
        for group in range(f["groups"] + 1):
            steps, starts = self._steps(f, memory)
            weights = make(f, group, common)
            self.weights[-1].append(weights)
            written = words if group < f["groups"] else f["last_group_words"] + 1
            self._check_input(f, starts, weights, written * config.activation_word)
            accumulators = self._sums(f, steps, weights)
            parameters = []
            for _ in range(lanes):
                if f["uniform"]:
                    parameters.append([self._channel(entry)[0], *common[1:]])
                    entry += 1
                else:
                    parameters.append(self._channel(entry))
                    entry += self.config.parameter_words
            results = [
                self._requantise(accumulators[:, lane], *parameters[lane], f)
                for lane in range(lanes)
            ]
            if table is not None:
                results = [[table[value & 255] for value in lane.tolist()] for lane in results]
            if f["to_tile"]:
                assert f["groups"] == 0
                assert f["taps"] + 1 == len(steps)
                self._tile = np.zeros((1, len(steps), lanes, config.width), np.int64)
                self._tile[0, :, :, 0] = np.array(results).T
                return
            for pixel in range(len(steps)):
                word = f["output_base"] + pixel * f["output_pitch"] + group * words
                for lane in range(written * config.activation_word):
                    at = word * config.activation_word + lane
                    self._written[at] = int(results[lane][pixel]) & 255
                    memory[at] = self._written[at]
        self.maps[-1] = self._written

    def _check_input(self, f, starts, weights, lanes):
        """No byte that counts may have been written by this layer before it is read."""
        used = weights.reshape(-1, *weights.shape[2:])[:, :lanes] != 0
        if f["depthwise"]:
            counts = np.zeros((len(used), self.config.activation_word), bool)
            for lane in range(lanes):
                counts[:, lane % self.config.activation_word] |= used[:, lane, 0]
        else:
            counts = used.any(axis=1)
        for pixel in starts:
            for start, bytes_ in zip(pixel, counts, strict=True):
                if start is not None:
                    read = {start + int(n) for n in np.flatnonzero(bytes_)}
                    assert not self._written.keys() & read, "a layer overwrites its own input"

    def _sums(self, f, steps, weights):
        """Accumulators [pixel, lane] for steps [pixel, step, byte] and weights of a lane group."""
        weights = weights.reshape(-1, *weights.shape[2:])
        if not f["depthwise"]:
            return np.einsum("psk,srk->pr", steps, weights)
        assert not weights[..., 1:].any()
        taps, row = (f["kernel_height"] + 1) * (f["kernel_width"] + 1), f["kernel_width"] + 1
        sums = np.zeros((len(steps), self.config.lanes), np.int64)
        own = np.arange(self.config.lanes) % self.config.activation_word
        for step, lane_weights in enumerate(weights[..., 0]):
            if f["shifted_sums"] and step % taps == 0:
                sums <<= layout.SUM_SHIFT
            if f["rectified_sums"] and (step + 1) % row == 0:
                sums = np.maximum(sums, 0)
            sums += steps[:, step, own] * lane_weights
        return sums

    def _steps(self, f, memory):
        """What the array reads for a lane group: int64 [pixels, steps, C], or depthwise a word.

        And the addresses: [pixels][steps], None in the padding. By walking the record's steps, from
        where the last lane group ended.
        """
        width = self.config.width
        size = self.config.activation_word if f["depthwise"] else width
        row, column = f["row_start"], f["column_start"]
        result, starts = [], []

        def access():
            if not (0 <= row < f["input_height"] and 0 <= column < f["input_width"]):
                places.append(None)
                return [f["input_zero_point"]] * size
            start = self._address * width % (1 << (len(memory) - 1).bit_length())
            start -= start % size
            places.append(start)
            # What lies behind the memory's end may be anything: its weights are 0.
            word = memory[start : start + size].ljust(size, b"\x55")
            return [b - 256 if b > 127 else b for b in word]

        def advance(step, row_step, column_step):
            nonlocal row, column
            self._address = (self._address + step) % (1 << 20)
            row += row_step
            column += column_step

        for _ in range(f["output_height"] + 1):
            for x in range(f["output_width"] + 1):
                pixel, places = [], []
                for c in range(f["channel_groups"] + 1):
                    for ky in range(f["kernel_height"] + 1):
                        for kx in range(f["kernel_width"] + 1):
                            pixel.append(access())
                            if kx < f["kernel_width"]:
                                advance(f["input_kx_step"], f["row_kx_step"], f["column_kx_step"])
                            elif ky < f["kernel_height"]:
                                advance(f["input_ky_step"], f["row_ky_step"], f["column_ky_step"])
                            elif c < f["channel_groups"]:
                                advance(
                                    f["input_channel_step"],
                                    f["row_channel_step"],
                                    f["column_channel_step"],
                                )
                            elif x < f["output_width"]:
                                advance(f["input_x_step"], f["row_x_step"], f["column_x_step"])
                            else:
                                advance(f["input_y_step"], f["row_y_step"], 0)
                                column = f["column_y_start"]
                result.append(pixel)
                starts.append(places)
        # The last step was one of a row, where that of a lane group is due.
        advance(f["input_group_step"] - f["input_y_step"], 0, 0)
        assert (f["row_group_start"], f["column_group_start"]) == (
            f["row_start"],
            f["column_start"],
        )
        return np.array(result, np.int64), starts

    def _channel(self, entry):
        """Bias, multiplier and shift, of which the shift may lie above the bias."""
        first, multiplier, *shift = self.words32[entry : entry + 3]
        if self.config.accumulator_bits > 27:
            return [first, multiplier, *shift]
        bias = first & 0x7FF_FFFF
        return [bias | (bias >> 26) * 0xF800_0000, multiplier, first >> 27]

    def _stored(self, f, group, _):
        taps = (f["kernel_height"] + 1) * (f["kernel_width"] + 1)
        channel_groups = f["channel_groups"] + 1
        assert f["stream_vectors"] == taps * channel_groups
        address = f["coefficient_base"] + group * f["stream_words"]
        values = self.segment(
            address, f["stream_vectors"], f["stream_words"], f["stream_precision"] + 1
        )
        return values.reshape(channel_groups, taps, *values.shape[1:])

    def _intra(self, f, group, _):
        lanes, width = self.config.lanes, self.config.width
        taps, channel_groups, terms = f["taps"] + 1, f["channel_groups"] + 1, f["terms"] + 1
        address = f["coefficient_base"] + group * (f["basis_words"] + f["stream_words"])
        basis = self.segment(
            address, f["basis_vectors"], f["basis_words"], f["basis_precision"] + 1
        )
        stream = self._u(f, address + f["basis_words"])
        vectors = _ceil(terms, width)
        assert len(basis) == taps * vectors
        assert len(stream) == channel_groups * terms
        weights = np.zeros((channel_groups, taps, lanes, width), np.int64)
        for c in range(channel_groups):
            for t in range(taps):
                for i in range(terms):
                    b = basis[t * vectors + i // width, :, i % width]
                    weights[c, t] += stream[c * terms + i] * b[:, np.newaxis]
        return _clamp8(_round_shift(weights, f["intra_shift"]))

    def _cross(self, f, group, tile_entry):
        lanes, width = self.config.lanes, self.config.width
        taps, terms, blocks = f["taps"] + 1, f["terms"] + 1, f["blocks"] + 1
        vectors = _ceil(terms, width)
        basis = self.segment(
            f["coefficient_base"], f["basis_vectors"], f["basis_words"], f["basis_precision"] + 1
        )
        stream_base = f["coefficient_base"] + f["basis_words"]
        v = self.segment(
            f["cross_base"] + group * f["cross_words"],
            f["cross_vectors"],
            f["cross_words"],
            f["cross_precision"] + 1,
        )
        steps = f["blocks"] * (lanes // width) + f["last_block_steps"] + 1
        assert steps == f["cross_vectors"]
        repeats = f["stream_repeats"] + 1
        channels = repeats // taps if f["flat"] else repeats
        channel_groups = f["channel_groups"] + 1
        assert _ceil(channels, width) == channel_groups
        assert channel_groups * taps <= self.config.tile_depth
        # A tile word is cleared when its first channel is written.
        weights = np.zeros((channel_groups, taps, lanes, width), np.int64)
        bias, multiplier, shift = tile_entry
        assert bias == 0
        for channel in range(channels):
            for t in range(taps):
                if t == 0 or f["flat"]:
                    segment = channel * taps + t if f["flat"] else channel
                    u = self._u(f, stream_base + segment * f["stream_words"])
                words = range(blocks) if f["flat"] else range(t * blocks, (t + 1) * blocks)
                w1 = np.concatenate(
                    [
                        (
                            u[j * vectors : (j + 1) * vectors]
                            * basis[word * vectors : (word + 1) * vectors]
                        ).sum(axis=(0, 2))
                        for j, word in enumerate(words)
                    ]
                )
                w1 = _clamp8(_round_shift(w1, f["intra_shift"]))
                total = np.zeros(lanes, np.int64)
                for step in range(steps):
                    total += v[step] @ w1[step * width : (step + 1) * width]
                rounded = (total * multiplier + (1 << (30 + shift))) >> (31 + shift)
                weights[channel // width, t, :, channel % width] = _clamp8(rounded)
        return weights

    def _requantise(self, accumulators, bias, multiplier, shift, f):
        """TFLite's MultiplyByQuantizedMultiplier, as its reference kernels state it; or to even."""
        bias = bias - (1 << 32) if bias >> 31 else bias
        total = accumulators + bias
        assert np.all(np.abs(total) < 1 << 31)
        product = total * multiplier
        if f["rounding"] == layout.ROUND_TWICE:
            nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
            high = np.where(nudged >= 0, nudged >> 31, -(-nudged >> 31))
            mask = (1 << shift) - 1
            threshold = (mask >> 1) + (high < 0)
            result = (high >> shift) + ((high & mask) > threshold)
        elif f["rounding"] == layout.ROUND_EVEN:
            result = product >> (31 + shift)
            rest = product - (result << (31 + shift))
            half = np.int64(1) << (30 + shift)
            result = result + np.where(rest == half, result & 1, rest > half)
        else:
            result = (product + (1 << (30 + shift))) >> (31 + shift)
        result = result + f["output_zero_point"]
        return np.clip(result, f["activation_min"], f["activation_max"])
