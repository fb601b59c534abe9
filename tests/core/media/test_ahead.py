"""Loading ahead: the same media and errors as without, in order, and no more at a time than there is room for."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from infer.core.errors import RecordError
from infer.core.media import ahead
from infer.core.media.ahead import Ahead
from infer.core.media.loader import MediaLoader
from infer.core.media.policy import MediaPolicy
from infer.core.types.media import MediaPart, Medium

SOUND = (np.ones(8), 8000)


def parts(count: int) -> list[MediaPart]:
    """Every third is wrong."""
    return [MediaPart("audio", (np.full(8, i / count), 8000 if i % 3 else -1), f"part {i}") for i in range(count)]


def outcome(loader: MediaLoader, part: MediaPart) -> tuple[str, Any]:
    try:
        return "", loader.load(part).hash
    except RecordError as error:
        return error.code, error.param


def test_the_same_as_without() -> None:
    loader, some = MediaLoader(MediaPolicy()), parts(100)
    wanted = [outcome(loader, part) for part in some]
    with loader.ahead(some):
        assert [outcome(loader, part) for part in some] == wanted
    assert [code for code, _ in wanted[:3]] == ["media_error", "", ""]
    with loader.ahead(some):  # some are passed over, one was never named
        assert [outcome(loader, part) for part in some[::7]] == wanted[::7]
        assert outcome(loader, MediaPart("audio", SOUND))[0] == ""
    with loader.ahead(some):
        pass  # none is asked for
    assert outcome(loader, some[1]) == wanted[1]


class Counted:
    """Loads nothing; counts how many it was asked for and lets them through one by one."""

    def __init__(self) -> None:
        self.asked: list[MediaPart] = []
        self.free = threading.Semaphore(0)
        self.began = threading.Semaphore(0)

    def __call__(self, part: MediaPart) -> Medium:
        self.asked.append(part)
        self.began.release()
        assert self.free.acquire(timeout=60)
        return Medium("audio", None, "", num_bytes=int(part.source))


def test_several_at_a_time_and_no_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    load, some = Counted(), [MediaPart("audio", 1, str(i)) for i in range(50)]
    one = Ahead(load, some)
    for _ in range(ahead.THREADS):
        assert load.began.acquire(timeout=60)
    assert len(load.asked) == ahead.THREADS
    for _ in range(200):
        load.free.release()
    for i, part in enumerate(some):
        one.take(part)
        assert len(load.asked) <= i + 1 + ahead._MOST
    one.close()
    assert sorted(load.asked, key=lambda part: int(part.param)) == some  # each once


def test_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "THREADS", 1)
    load, some = Counted(), [MediaPart("audio", ahead._MOST_BYTES, str(i)) for i in range(6)]
    load.free = threading.Semaphore(100)
    monkeypatch.setattr(ahead, "_MOST", 2)
    one = Ahead(load, some)
    for part in some:
        one.take(part)
    assert [part.param for part in load.asked] == list("012345")
    one.close()


def test_closing_waits_for_nothing() -> None:
    load = Counted()
    one = Ahead(load, [MediaPart("audio", 1, str(i)) for i in range(50)])
    assert load.began.acquire(timeout=60)
    one.close()
    for _ in range(100):
        load.free.release()
    assert len(load.asked) <= ahead.THREADS + 1
