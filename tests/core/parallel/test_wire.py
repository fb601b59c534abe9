"""Messages between processes."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

from infer.core.engine.batch import Batch, padded_rows
from infer.core.parallel.wire import Closed, Wire, pack_arrays, unpack_arrays


@pytest.fixture
def wires() -> tuple[Wire, Wire]:
    return tuple(map(Wire, socket.socketpair()))  # type: ignore[return-value]


def test_frames_come_whole_and_in_order(wires: tuple[Wire, Wire]) -> None:
    here, there = wires
    frames = [b"", b"x", bytes(range(256)) * 40000, b"last"]
    threading.Thread(target=lambda: [here.send(frame) for frame in frames], daemon=True).start()
    assert [there.receive(timeout=10) for _ in frames] == frames
    here.send_json({"a": [1, None, "ü"]})
    assert there.receive_json() == {"a": [1, None, "ü"]}


def test_the_end_is_told_apart_from_silence(wires: tuple[Wire, Wire]) -> None:
    here, there = wires
    with pytest.raises(TimeoutError):
        there.receive(timeout=0.05)
    with pytest.raises(TimeoutError):
        here.send(bytes(50 << 20), timeout=0.05)
    here.close()
    with pytest.raises(Closed):  # in the middle of the frame that was not taken
        there.receive(timeout=10)
    with pytest.raises(Closed):
        there.send(b"anybody?", timeout=1)


def test_a_batch_arrives_as_it_was_sent() -> None:
    rng = np.random.default_rng(0)
    tables = rng.integers(0, 99, (5, 12), dtype=np.int32)[:, :7]  # rows are strided
    batch = Batch(
        tokens=rng.integers(0, 50000, padded_rows(20)),
        positions=rng.integers(0, 99, padded_rows(20)),
        query_start=np.array([0, 1, 2, 3, 10, 20], dtype=np.int32),
        kv_lens=rng.integers(0, 99, 5, dtype=np.int32),
        block_tables=tables,
        slots=rng.integers(0, 1 << 40, 20),
        logit_rows=np.zeros(16, dtype=np.int64),
        num_logits=3,
        prompt_start=16,
        num_prompt_logits=0,
        copies=np.zeros((0, 2), dtype=np.int64),
    )
    got = Batch.from_arrays(unpack_arrays(pack_arrays(batch.arrays())))
    for name in Batch.__slots__:
        sent, came = getattr(batch, name), getattr(got, name)
        assert np.array_equal(sent, came), name
        assert getattr(sent, "dtype", int) == getattr(came, "dtype", int), name
        if isinstance(came, np.ndarray):
            assert came.flags.writeable, name  # torch takes no other
