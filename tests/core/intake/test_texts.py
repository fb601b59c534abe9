"""Texts become tokens, each by what it came with; a bad one is its own draft's error."""

from __future__ import annotations

from typing import Any

from infer.core.api.drafts import Read
from infer.core.errors import RecordError
from infer.core.intake.remarks import Remarks
from infer.core.intake.texts import TextIntake
from infer.core.types.pooling_params import PoolingParams
from infer.core.types.pooling_request import TextIds


class Encoder:
    """Token i is byte i, after those of a prefix, three at most; counts its calls, and refuses what has a question mark."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.calls = 0

    def checked(self, text: str) -> str:
        if len(text) > 9:
            raise RecordError("prompt_too_long", "far too long", param="input")
        return text

    def fit(self, texts: list[Any]) -> list[tuple[TextIds, bool]]:
        self.calls += 1
        if any("?" in text for text in texts if not isinstance(text, list)):
            raise RecordError("invalid_encoding", "a question mark")
        whole = [text if isinstance(text, list) else list((self.prefix + "".join(text)).encode()) for text in texts]
        return [(TextIds(tuple(ids[:3])), len(ids) > 3) for ids in whole]


def draft(*prompt: Any) -> Read:
    return Read(PoolingParams(), list(prompt))


def test_each_by_its_own_encoder_all_at_once() -> None:
    a, b = Encoder("a"), Encoder("b")
    drafts = [draft((a, "x"), (b, "y")), draft((b, "long"), (b, [1, 2, 3, 4])), draft((a, ("p", "q")))]
    TextIntake(Remarks(None, lambda message: None)).read(drafts)
    assert [[bytes(text.ids) for text in one.prompt] for one in drafts] == [[b"ax", b"by"], [b"blo", b"\x01\x02\x03"], [b"apq"]]
    assert [one.num_cut for one in drafts] == [0, 2, 0]
    assert (a.calls, b.calls) == (1, 1)


def test_a_bad_one_is_alone_with_its_error() -> None:
    a = Encoder("")
    drafts = [draft((a, "x")), draft((a, "x"), (a, "?")), draft((a, "x" * 10)), draft((a, "y"))]
    TextIntake(Remarks(None, lambda message: None)).read(drafts)
    assert [one.error and one.error.code for one in drafts] == [None, "invalid_encoding", "prompt_too_long", None]
    assert [one.prompt for one in (drafts[0], drafts[3])] == [[TextIds((120,))], [TextIds((121,))]]
