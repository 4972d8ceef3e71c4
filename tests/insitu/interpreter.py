"""An interpreter of payloads, written from docs/image-format.md and rtl/record.py alone.

It runs program, records, parameters and segments as the hardware does, walking the addresses step
by step with the steps that the record gives, over a bytearray that is the activation memory. It
shares no code with golden/ or insitu/: where all three agree, plan, packing and format are right;
where the RTL disagrees, this is the oracle to single-step.

Use: `Interpreter(payload, config).run(memory)`; `maps` then holds what each layer wrote.
"""

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

    def _layer(self, f, memory):
        config = self.config
        lanes = config.lanes
        entry = f["parameter_base"]
        tile_entry = None
        if f["dataflow"] == layout.CROSS:
            tile_entry = self.words32[entry : entry + layout.PARAMETER_WORDS]
            entry += layout.PARAMETER_WORDS
        self.maps.append({})
        self.weights.append([])
        steps = self._steps(f, memory)
        make = {
            layout.STORED: self._stored,
            layout.INTRA: self._intra,
            layout.CROSS: self._cross,
        }[f["dataflow"]]
        words = lanes // config.activation_word
        output = {}
        for group in range(f["groups"] + 1):
            weights = make(f, group, tile_entry)
            self.weights[-1].append(weights)
            accumulators = np.einsum("psk,srk->pr", steps, weights.reshape(-1, *weights.shape[2:]))
            parameters = []
            for _ in range(lanes):
                parameters.append(self.words32[entry : entry + layout.PARAMETER_WORDS])
                entry += layout.PARAMETER_WORDS
            results = [
                self._requantise(accumulators[:, lane], *parameters[lane], f)
                for lane in range(lanes)
            ]
            written = words if group < f["groups"] else f["last_group_words"] + 1
            for pixel in range(len(steps)):
                word = f["output_base"] + pixel * f["output_pitch"] + group * words
                for lane in range(written * config.activation_word):
                    output[word * config.activation_word + lane] = int(results[lane][pixel]) & 255
        # Written at the end only for speed: an input that this would spoil is a planning error.
        read = self._read
        assert not read & output.keys(), "a layer overwrites its own input"
        for address, value in output.items():
            memory[address] = value
        self.maps[-1] = output

    def _steps(self, f, memory):
        """What the array reads: int64 [pixels, steps, C], by walking the record's steps."""
        width = self.config.width
        address, row, column = f["input_start"], f["row_start"], f["column_start"]
        self._read = set()
        result = []

        def access():
            if not (0 <= row < f["input_height"] and 0 <= column < f["input_width"]):
                return [f["input_zero_point"]] * width
            start = address * width
            self._read.update(range(start, start + width))
            return [b - 256 if b > 127 else b for b in memory[start : start + width]]

        def advance(step, row_step, column_step):
            nonlocal address, row, column
            address = (address + step) % (1 << 20)
            row += row_step
            column += column_step

        for _ in range(f["output_height"] + 1):
            for x in range(f["output_width"] + 1):
                pixel = []
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
        # The last step was one of a row, where that of a lane group is due.
        advance(f["input_group_step"] - f["input_y_step"], 0, 0)
        assert address == f["input_start"], "a lane group does not begin where the first did"
        assert (f["row_group_start"], f["column_group_start"]) == (
            f["row_start"],
            f["column_start"],
        )
        return np.array(result, np.int64)

    def _stored(self, f, group, _):
        taps, channel_groups = f["taps"] + 1, f["channel_groups"] + 1
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
        stream = self.segment(
            address + f["basis_words"],
            f["stream_vectors"],
            f["stream_words"],
            f["stream_precision"] + 1,
        )
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
                    u = self.segment(
                        stream_base + segment * f["stream_words"],
                        f["stream_vectors"],
                        f["stream_words"],
                        f["stream_precision"] + 1,
                    )
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
        """TFLite's MultiplyByQuantizedMultiplier, as its reference kernels state it."""
        bias = bias - (1 << 32) if bias >> 31 else bias
        total = accumulators + bias
        assert np.all(np.abs(total) < 1 << 31)
        product = total * multiplier
        if f["double_rounding"]:
            nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
            high = np.where(nudged >= 0, nudged >> 31, -(-nudged >> 31))
            mask = (1 << shift) - 1
            threshold = (mask >> 1) + (high < 0)
            result = (high >> shift) + ((high & mask) > threshold)
        else:
            result = (product + (1 << (30 + shift))) >> (31 + shift)
        result = result + f["output_zero_point"]
        return np.clip(result, f["activation_min"], f["activation_max"])
