"""Pieces of text: the bytes each token stands for, for tokenizers whose decoder only puts tokens side by side.

Nearly every generative model's decoder is one of three shapes: GPT-2's byte level, Llama's "replace ▁, byte fallback,
fuse, strip one leading space", and SentencePiece's Metaspace. For these, text is the UTF-8 of concatenated bytes, so
incremental text needs no window of earlier tokens, only the bytes of an unfinished character. Other decoders (WordPiece,
BPE with </w>, CTC, none) are not additive; `ByteRules.of` says None and `detokenizer.py` takes the general way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>\Z")


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: character -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()


def byte_of(token: str) -> bytes | None:
    """The byte that a byte fallback token (`<0xF0>`) stands for; None for other tokens."""
    return bytes([int(token[3:5], 16)]) if _BYTE_TOKEN.match(token) else None


def name_of(data: bytes) -> str:
    """Bytes as text, and those that are no UTF-8 as OpenAI's API spells them, see `escaped`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return escaped(data)


def escaped(data: bytes) -> str:
    r"""Any bytes as `bytes:` and an escape for each: `bytes:\xf0\x9f`."""
    return "bytes:" + "".join([f"\\x{byte:02x}" for byte in data])


@dataclass(frozen=True)
class ByteRules:
    """The way one decoder spells a token, read from its JSON."""

    byte_level: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    strip_space: bool = False
    """The whole text loses one leading space (Llama)."""
    strip_mark: str = ""
    """The first token loses all of these characters (Metaspace with a prepended ▁)."""

    @classmethod
    def of(cls, decoder: Mapping[str, Any] | None) -> ByteRules | None:
        """The rules of a decoder as serialized in tokenizer.json, or None if it is not of an additive shape."""
        if decoder is None:
            return None
        steps = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
        kinds = [step.get("type") for step in steps]
        if kinds == ["ByteLevel"]:
            return cls(byte_level=True)
        if kinds == ["Metaspace"]:
            mark = steps[0].get("replacement", "▁")
            return cls(replacements=((mark, " "),), strip_mark="" if steps[0].get("prepend_scheme") == "never" else mark)
        return cls._of_sequence(steps)

    @classmethod
    def _of_sequence(cls, steps: list[Mapping[str, Any]]) -> ByteRules | None:
        """Replace* [ByteFallback] [Fuse [Strip one space]], in this order and nothing else."""
        replacements: list[tuple[str, str]] = []
        stage, fallback, strip = 0, False, False
        for step in steps:
            kind, pattern = step.get("type"), step.get("pattern")
            if kind == "Replace" and stage == 0 and isinstance(pattern, dict) and pattern.get("String"):
                replacements.append((pattern["String"], step.get("content", "")))
            elif kind == "ByteFallback" and stage < 1:
                stage, fallback = 1, True
            elif kind == "Fuse" and stage < 2:
                stage = 2
            elif kind == "Strip" and stage == 2 and (step.get("content"), step.get("start"), step.get("stop")) == (" ", 1, 0):
                stage, strip = 3, True
            else:
                return None
        return cls(replacements=tuple(replacements), byte_fallback=fallback, strip_space=strip) if steps else None

    @property
    def treats_start(self) -> bool:
        """True if the beginning of a text is spelled differently from its middle."""
        return self.strip_space or bool(self.strip_mark)

    def spell(self, token: str) -> bytes:
        """The bytes of a token in the middle of a text."""
        if self.byte_level:
            try:
                return bytes([_BYTE_OF[c] for c in token])
            except KeyError:  # an added token is written as it is
                return token.encode("utf-8", "replace")
        for old, new in self.replacements:
            token = token.replace(old, new)
        byte = byte_of(token) if self.byte_fallback else None
        return token.encode("utf-8", "replace") if byte is None else byte

    def spell_first(self, token: str) -> bytes:
        """The bytes of a token at the beginning of a text."""
        if self.strip_mark:
            return self.spell(token.replace(self.strip_mark, ""))
        piece = self.spell(token)
        return piece[1:] if self.strip_space and piece.startswith(b" ") else piece


class Pieces(dict[int, bytes]):
    """Token id -> its bytes, filled as ids turn up. Skipped special tokens and ids outside the vocabulary are empty."""

    def __init__(self, rules: ByteRules, id_to_token: Callable[[int], str | None], skipped: frozenset[int]) -> None:
        super().__init__()
        self.rules = rules
        self._id_to_token = id_to_token
        self._skipped = skipped

    def __missing__(self, token_id: int) -> bytes:
        token = None if token_id in self._skipped else self._id_to_token(token_id)
        piece = self[token_id] = b"" if token is None else self.rules.spell(token)
        return piece

    def first(self, token_id: int) -> bytes:
        """The bytes of a token that begins the text."""
        token = None if token_id in self._skipped else self._id_to_token(token_id)
        return b"" if token is None else self.rules.spell_first(token)
