"""Compressed inputs, whole, cut off and damaged."""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import os
import random
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from infer.core.errors import InferError
from infer.core.jobs.input.decompress import Decompressed, is_compressed
from infer.core.jobs.input.source import InputFile

LINES = b"".join(b'{"prompt":"%d %s"}\n' % (i, random.Random(i).randbytes(8).hex().encode()) for i in range(40))
SKIPPABLE = b"\x53\x2a\x4d\x18\x05\0\0\0hello"
zstd = functools.partial(zstandard.ZstdCompressor(write_checksum=True).compress)


def stream(data: bytes, *sizes: int, **how: Any) -> bytes:
    """A zstd frame of unknown size, with a block for each of `sizes` bytes, and the rest."""
    compressor = zstandard.ZstdCompressor(**how).compressobj()
    out, at = b"", 0
    for size in sizes:
        out += compressor.compress(data[at : at + size]) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        at += size
    return out + compressor.compress(data[at:]) + compressor.flush()


COMPRESSED = {
    "gzip": gzip.compress(LINES),
    "gzip with a name": b"\x1f\x8b\x08\x08\0\0\0\0\0\xffname.jsonl\0" + gzip.compress(LINES, mtime=0)[10:],
    "gzip stored": gzip.compress(LINES, 0),
    "gzip members": b"".join(gzip.compress(LINES[i : i + 100]) for i in range(0, len(LINES), 100)),
    "gzip with empty members": gzip.compress(b"") * 3 + gzip.compress(LINES) + gzip.compress(b""),
    "gzip with padding": gzip.compress(LINES[:50]) + b"\0" * 512 + gzip.compress(LINES[50:]) + b"\0" * 512,
    "zstd": zstd(LINES),
    "zstd without checksum and size": stream(LINES),
    "zstd of long-range window": stream(LINES, compression_params=zstandard.ZstdCompressionParameters(window_log=20)),
    "zstd blocks": stream(LINES, 1, 10, 100, 200, write_checksum=True),
    "zstd frames": b"".join(zstd(LINES[i : i + 100]) for i in range(0, len(LINES), 100)),
    "zstd with empty and skippable frames": zstd(b"") + SKIPPABLE + zstd(LINES) + SKIPPABLE + zstd(b""),
    "zstd that begins with a skippable frame": SKIPPABLE + zstd(LINES),
}
GZIP = b"\x1f\x8b"
CHUNKS = (1, 2, 3, 7, 64, 1 << 20)


def read(data: bytes, *, chunk: int = 1 << 20, name: str = "in.gz") -> tuple[bytes, str | None]:
    """What comes out, and the message when it ends too early."""

    class Chunks(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(chunk)

        def ready(self, seconds: float = 0.0) -> bool:
            return True

    source = Decompressed(Chunks(data), name)
    out = b""
    try:
        while piece := source.read(100):
            assert source.ready()
            out += piece
    except InferError as error:
        for _ in range(2):
            with pytest.raises(InferError):
                source.read(100)
        return out, str(error)
    assert source.read(100) == b""
    return out, None


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("kind", COMPRESSED)
def test_whole(kind: str, chunk: int) -> None:
    assert is_compressed(COMPRESSED[kind])
    assert read(COMPRESSED[kind], chunk=chunk) == (LINES, None)


@pytest.mark.parametrize("data", [b"", b"{", b"(", b"[", b"(\n", b"\x1f", b"\x28\xb5\x2f", b"{}\n", LINES])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_what_is_not_compressed_stays_as_it_is(data: bytes, chunk: int) -> None:
    assert read(data, chunk=chunk, name="in.jsonl") == (data, None)


@pytest.mark.parametrize("name", ["in.gz", "in.jsonl.zst"])
def test_a_compressed_name_alone(name: str) -> None:
    for plain in (b"{}\n", b"\n{}", b"\xef\xbb\xbf{}"):
        assert read(plain, name=name) == (plain, None)  # somebody has unpacked it and kept the name
    told = f"input {name!r} cannot be decompressed from byte 0 on: "
    assert read(b"", name=name) == (b"", told + "it is empty")
    for damaged in (b"\x1f", b"\x1e\x8b\x08", b"PK\x03\x04", b"\x28\xb5"):
        assert read(damaged, name=name) == (b"", told + "it is neither gzip nor zstd")


@pytest.mark.parametrize("kind", COMPRESSED)
def test_cut_off_at_any_byte(kind: str) -> None:
    """All that can be had of a file that was not copied whole, then an error that says where it ends."""
    data = COMPRESSED[kind]
    lengths = []
    for end in range(1, len(data)):
        out, message = read(data[:end])
        assert LINES.startswith(out)
        assert (out, message) == read(data[:end], chunk=3)
        if message is None:  # between members: nobody can tell
            assert kind not in ("gzip", "zstd"), end
        else:
            assert message.startswith("input 'in.gz' cannot be decompressed from byte ")
        lengths.append(len(out))
    assert lengths == sorted(lengths)
    assert lengths[-1] > 0.9 * len(LINES) or kind.startswith(("zstd without", "zstd of"))  # these are one block


@pytest.mark.parametrize("kind", ["gzip members", "gzip stored", "zstd blocks", "zstd frames"])
def test_a_damaged_byte(kind: str) -> None:
    """Either it does not matter, or it is told; the same whatever chunks the file is read in."""
    data = COMPRESSED[kind]
    told = 0
    for at in range(len(data)):
        bad = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        out, message = read(bad)
        assert (out, message) == read(bad, chunk=5)
        told += message is not None
        if message is None and at >= 4:
            assert out == LINES
    assert told > 0.8 * len(data)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_all_before_the_damage_is_given(chunk: int) -> None:
    flipped = bytearray(gzip.compress(LINES))
    flipped[-6] ^= 1  # the checksum
    out, message = read(bytes(flipped), chunk=chunk)
    assert out == LINES
    assert "incorrect data check" in str(message)
    for good in (gzip.compress(LINES), zstd(LINES)):
        out, message = read(good + b"\x1fgarbage", chunk=chunk)
        assert out == LINES
        assert f"from byte {len(good) + good.startswith(GZIP)} on" in str(message)  # gzip: its first byte may be right by chance


class Repeated:
    """Compressed bytes made as they are read."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self.parts = parts

    def read(self, size: int) -> bytes:
        return next(self.parts, b"")

    def ready(self, seconds: float = 0.0) -> bool:
        return True


def test_what_expands_a_thousandfold_needs_little_memory() -> None:
    size = 256 << 20

    def gzipped() -> Iterator[bytes]:
        compressor = zlib.compressobj(9, wbits=31)
        yield b"".join(compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)) + compressor.flush()

    def runs() -> Iterator[bytes]:
        """A zstd frame of blocks that are one byte repeated: four bytes for 128 KiB."""
        run = (((128 << 10) << 3) | 1 << 1).to_bytes(3, "little") + b"\0"
        yield b"\x28\xb5\x2f\xfd\x00\x58" + run * (size >> 17) + b"\x01\0\0"

    for parts in (gzipped, runs):
        source = Decompressed(Repeated(iter(list(parts()))))
        tracemalloc.start()
        total = 0
        while piece := source.read(1 << 20):
            total += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == size
        assert peak < 4 << 20


@pytest.mark.parametrize("kind", ["gzip members", "zstd blocks"])
def test_a_slow_pipe_is_never_waited_for_when_not_ready(kind: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    source = Decompressed(InputFile(str(tmp_path / "pipe")))
    assert not source.ready()
    write_end = os.open(tmp_path / "pipe", os.O_WRONLY)
    out = b""
    for byte in COMPRESSED[kind]:
        os.write(write_end, bytes([byte]))
        while source.ready():
            out += source.read(100)
    os.close(write_end)
    assert out == LINES
    assert source.ready()
    assert source.read(100) == b""


@given(
    st.lists(st.tuples(st.sampled_from([gzip.compress, zstd, stream]), st.binary(max_size=50)), min_size=1),
    st.integers(1, 50),
    st.binary(max_size=5),
)
def test_any_members_then_anything(members: list[tuple[Any, bytes]], chunk: int, rest: bytes) -> None:
    first = members[0][0] is gzip.compress
    alike = [(pack, data) for pack, data in members if (pack is gzip.compress) == first]
    packed = b"".join(pack(data) for pack, data in alike)
    plain = b"".join(data for _, data in alike)
    assert read(packed, chunk=chunk) == (plain, None)
    out, message = read(packed + rest, chunk=chunk)
    assert out == plain
    assert (message is None) == (not rest.strip(b"\0") if first else not rest)


def test_kinds_do_not_mix() -> None:
    for a, b in itertools.permutations([gzip.compress(b"{}\n"), zstd(b"{}\n")]):
        out, message = read(a + b)
        assert out == b"{}\n"
        assert message is not None


@pytest.mark.parametrize("bits", [28, 31])
def test_a_window_that_takes_too_much_memory(bits: int) -> None:
    """Said with what to do; the largest window that is taken is `zstd`'s own limit."""
    try:
        params = zstandard.ZstdCompressionParameters(window_log=bits)
    except zstandard.ZstdError:
        pytest.skip("this zstd has no such windows")
    good = zstd(LINES)
    limit = stream(LINES, compression_params=zstandard.ZstdCompressionParameters(window_log=27))
    assert read(limit) == (LINES, None)
    # What is told of a window is in the header: none of its memory is needed here.
    header = b"\x28\xb5\x2f\xfd\x04" + bytes([(bits - 10) << 3])
    assert params.window_log == bits
    data, said = read(good + header)
    assert data == LINES
    assert said is not None
    assert f"from byte {len(good):,} on: its window is {2 ** (bits - 20):,} MiB, and at most 128 MiB are given" in said
    assert f"zstd -dc --long={bits} FILE | infer" in said
    one_segment = b"\x28\xb5\x2f\xfd\xe4" + (1 << bits).to_bytes(8, "little")
    assert f"{2 ** (bits - 20):,} MiB" in str(read(one_segment)[1])
