"""The image file: what is written comes back, and every damage is named."""

import copy
import struct
import zlib

import pytest

from insitu.errors import FileError, ImageError
from insitu.image import FORMAT_VERSION, MAGIC, Image, read_image
from rtl.config import CONFIGURATIONS

CONFIG = CONFIGURATIONS["up5k"]
MAP = {
    "name": "input",
    "shape": [4, 4, 1],
    "pitch": 4,
    "address": 0,
    "zero_point": -128,
    "pieces": [[0, 1]],
    "window": None,
}
OUTPUT = MAP | {"name": "out", "address": 64}
LAYER = {
    "name": "out",
    "dataflow": "stored",
    "inputs": [MAP],
    "operations": [],
    "output": OUTPUT,
    "ranks": {},
    "precisions": {"w": 8},
    "weight_bytes": 8,
    "cost": {"cycles": 90, "ideal": 80, "bound": "array"},
}
METADATA = {
    "network": "test",
    "configuration": "up5k",
    "input": {**MAP, "scale": 0.5},
    "output": {**OUTPUT, "scale": 0.25},
    "layers": [LAYER],
    "cycles": 100,
    "ideal_cycles": 80,
    "weight_bytes": 8,
    "dense_int8_bytes": 8,
    "program_bytes": 40,
    "payload_bytes": 64,
    "coefficient_bytes": 65536,
    "activation_bytes": 65536,
    "activation_bytes_used": 128,
    "frames_per_second": 330000.0,
    "clock_mhz": 33.0,
}
PAYLOAD = bytes(range(64))
NETWORK = b"as insitu.network writes it"
HEADER = 40


def image(**changes):
    metadata = {**copy.deepcopy(METADATA), **changes}
    return Image(CONFIG.digest, metadata, PAYLOAD, NETWORK)


def resealed(data):
    """The bytes with the header's CRC made right again."""
    metadata = data[HEADER : HEADER + struct.unpack_from("<I", data, 12)[0]]
    crc = zlib.crc32(metadata, zlib.crc32(data[: HEADER - 4]))
    return data[: HEADER - 4] + struct.pack("<I", crc) + data[HEADER:]


def test_comes_back_from_a_file(tmp_path):
    path = tmp_path / "a.image"
    image().write(path)
    again = read_image(path, CONFIG)
    assert again == image()
    assert [p.name for p in tmp_path.iterdir()] == ["a.image"]


def test_layout_is_the_documented_one():
    data = image().to_bytes()
    magic, version, metadata, payload, network, digest, *crcs = struct.unpack_from(
        "<8sIIIIIIII", data
    )
    assert (magic, version, payload, digest) == (b"INSITU\r\n", 2, 64, CONFIG.digest)
    assert network == len(NETWORK)
    begin = HEADER + metadata
    assert data[begin:] == PAYLOAD + NETWORK
    assert crcs == [
        zlib.crc32(PAYLOAD),
        zlib.crc32(NETWORK),
        zlib.crc32(data[: HEADER - 4] + data[HEADER:begin]),
    ]


@pytest.mark.parametrize("step", [1, 7])
def test_any_truncation_is_found(step):
    data = image().to_bytes()
    for size in range(0, len(data), step):
        with pytest.raises(ImageError, match=r"truncated|not an insitu image"):
            Image.from_bytes(data[:size])


def test_any_flipped_bit_is_found(seed):
    data = image().to_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position + seed) % 8
        try:
            found = Image.from_bytes(bytes(damaged))
        except ImageError:
            continue
        pytest.fail(f"bit {position * 8} flipped and not found: {found}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: b"", "not an insitu image"),
        (lambda d: b"PK\x03\x04" + d[4:], "begins with b'PK"),
        (lambda d: d[:20], "is truncated: 20 bytes, a header alone has 40"),
        (lambda d: d[:-1], "is truncated"),
        (lambda d: d + b"\0", "is too long"),
        (lambda d: d[:8] + struct.pack("<I", FORMAT_VERSION + 1) + d[12:], "format version 3"),
        (lambda d: d[:16] + struct.pack("<I", 1 << 31) + d[20:], "where its header says"),
        (lambda d: d[:50] + b"?" + d[51:], "CRC of its header and metadata"),
        (lambda d: d[: -len(NETWORK) - 2] + b"??" + d[-len(NETWORK) :], "CRC of its payload"),
        (lambda d: d[:-2] + b"??", "CRC of its network"),
        (lambda d: resealed(d[:HEADER] + b"[" + d[HEADER + 1 :]), "metadata that is not JSON"),
    ],
)
def test_damage_is_named(damage, message):
    with pytest.raises(ImageError, match=message) as error:
        Image.from_bytes(damage(image().to_bytes()), "image x")
    assert error.value.next_step


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": 3}, "bad network: 3"),
        ({"cycles": None}, "bad cycles: None"),
        ({"ideal_cycles": -1}, "bad ideal_cycles: -1"),
        ({"layers": []}, "without layers"),
        ({"payload_bytes": 60}, "metadata for a payload of 60 bytes, not 64"),
    ],
)
def test_metadata_is_checked(changes, message):
    with pytest.raises(ImageError, match=message) as error:
        Image.from_bytes(image(**changes).to_bytes())
    assert error.value.next_step


def test_deep_metadata_is_no_metadata():
    metadata = b"[" * 100_000
    data = image().to_bytes()
    data = data[:12] + struct.pack("<I", len(metadata)) + data[16:HEADER] + metadata + PAYLOAD
    with pytest.raises(ImageError, match="metadata that is not JSON"):
        Image.from_bytes(resealed(data + NETWORK))


@pytest.mark.parametrize(
    "changes",
    [
        {"input": METADATA["input"] | {"address": CONFIG.activation_bytes - 60}},
        {"layers": [LAYER | {"inputs": [MAP | {"address": CONFIG.activation_bytes - 60}]}]},
    ],
)
def test_maps_beyond_the_memory_are_refused(changes):
    fits = image(input=METADATA["input"] | {"address": CONFIG.activation_bytes - 64})
    fits.check(CONFIG)
    wrong = Image.from_bytes(image(**changes).to_bytes())
    with pytest.raises(
        ImageError, match="has maps up to byte 65540 of activation memory; up5k has"
    ):
        wrong.check(CONFIG)


def test_payload_of_odd_length_is_refused():
    with pytest.raises(ImageError, match="payload of 63 bytes"):
        Image.from_bytes(Image(CONFIG.digest, METADATA, PAYLOAD[:-1], NETWORK).to_bytes())


def test_other_configuration_is_named():
    other = CONFIGURATIONS["ecp5-45f"]
    with pytest.raises(ImageError, match=r"is for up5k .* not for ecp5-45f") as error:
        image().check(other)
    assert "--config ecp5-45f" in error.value.next_step
    with pytest.raises(ImageError, match="a configuration unknown here"):
        Image(1, METADATA, PAYLOAD, NETWORK).check(other)


def test_too_large_a_payload_is_refused():
    large = Image(CONFIG.digest, METADATA, bytes(CONFIG.coefficient_bytes + 4), NETWORK)
    with pytest.raises(ImageError, match="payload of 65540 bytes"):
        large.check(CONFIG)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        read_image(tmp_path / "none")
    with pytest.raises(FileError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(FileError, match="cannot be written"):
        image().write(tmp_path / "no" / "folder")


def test_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.image"
    path.write_bytes(b"before")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(FileError, match="No space left"):
        image().write(path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.image"]


def test_magic_survives_no_text_mode():
    assert MAGIC.endswith(b"\r\n")
