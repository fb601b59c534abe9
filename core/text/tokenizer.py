"""Tokenizer: text to token ids and back, from tokenizer.json; see slow.py for models without one.

Special tokens around a prompt (BOS, EOS) are those of tokenizer.json's post-processor. The `add_bos_token` and `add_eos_token` of
tokenizer_config.json are ignored where there is a tokenizer.json, as transformers 5 does: where the two disagree, the
config is a leftover of a slow tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, ModelError, RecordError
from .fitting import Fitted, Fitting, Piece, SlowFitting
from .pieces import ByteRules, Pieces, byte_of, name_of
from .slow import SlowBackend, load_slow
from .special_tokens import CONFIG, MAP, Reader, add_special_tokens, prefix, read_json

if TYPE_CHECKING:
    import tokenizers

    from .literal import LiteralText

TOKENIZER_MODES = ("auto", "slow")
_MAX_ID = 2**32 - 1


class Tokenizer:
    """A model's tokenizer.

    Attributes:
        vocab_size: number of tokens, added ones included.
        special_tokens: name -> text, e.g. {"bos_token": "<s>"}; what chat templates see.
        bos_token, eos_token: texts, None if the model has none; `*_id` are their ids.
        special_ids: ids that `skip_special_tokens` leaves out.
        is_slow: it is Python code of transformers, not a tokenizer.json.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str]) -> None:
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        added = backend.get_added_tokens_decoder()
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        named = frozenset(special_tokens.values())
        self.special_ids = frozenset(i for i, token in added.items() if token.special or token.content in named)
        self.special_tokens = dict(special_tokens)
        self.bos_token = special_tokens.get("bos_token")
        self.eos_token = special_tokens.get("eos_token")
        self.bos_token_id = self.id_of(self.bos_token)
        self.eos_token_id = self.id_of(self.eos_token)
        self.pad_token_id = self.id_of(special_tokens.get("pad_token"))
        self.is_slow = isinstance(backend, SlowBackend)
        self._pieces: dict[bool, Pieces] = {}
        self._names: dict[int, str] = {}
        self._rules = _byte_rules(backend)

    @classmethod
    def load(
        cls, read: Reader, *, mode: str = "auto", name: str = "", folder: str | None = None, trust_remote_code: bool = False
    ) -> Tokenizer:
        """The tokenizer of a model.

        Args:
            read: reads one of the model's files.
            mode: "auto", or "slow": always through transformers.
            name: the model as the user knows it, for messages.
            folder: the model's folder, if it is one: where transformers looks when there is no tokenizer.json.
            trust_remote_code: a tokenizer that is Python code in the folder may run.

        Raises ModelError for damaged or missing files, ConfigError for an unknown mode.
        """
        if mode not in TOKENIZER_MODES:
            raise ConfigError(f"unknown tokenizer_mode {mode!r}; available: {', '.join(TOKENIZER_MODES)}")
        data = read("tokenizer.json") if mode == "auto" else None
        if data is None:
            return cls(*load_slow(folder, slow=mode == "slow", name=name, trust_remote_code=trust_remote_code))
        import tokenizers

        try:
            backend = tokenizers.Tokenizer.from_buffer(data)
        except BaseException as e:  # the library raises bare ValueError and Exception, and panics
            if not _is_of_library(e):
                raise
            raise ModelError(f"{prefix(name)}tokenizer.json is damaged or of an unknown format: {e}") from e
        config = read_json(read, CONFIG, name)
        special_tokens = add_special_tokens(backend, config, read_json(read, MAP, name), name)
        return cls(backend, special_tokens)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text. Raises RecordError (invalid_encoding) for a lone surrogate."""
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except BaseException as e:
            raise _refusal([text], e) from e

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        """The ids of many texts, in parallel. One bad text raises its RecordError for all: encode singly then."""
        try:
            return [e.ids for e in self._backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)]
        except BaseException as e:
            raise _refusal(texts, e) from e

    @cached_property
    def literal(self) -> LiteralText:
        """The way to keep text from being taken for special tokens. Raises ConfigError for a slow tokenizer, which has none."""
        from .literal import LiteralText

        return LiteralText(self._backend)

    def encode_literal(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        """`encode_batch` of texts in which a special token's spelling is only text, but where `literal.settle` named it.

        Raises RecordError also where this tokenizer cannot write a text so (unsupported), ConfigError as `literal`.
        """
        literal = self.literal
        try:
            return literal.encode(texts, add_special_tokens=add_special_tokens)
        except RecordError:
            raise
        except BaseException as e:
            raise _refusal(texts, e) from e

    def encode_fitted(
        self, pieces: Sequence[Piece], *, limit: int | None = None, side: str = "right", literal: bool = False
    ) -> list[Fitted]:
        """Texts and pairs of texts with their special tokens, each cut to `limit` tokens, see `Fitting.encode`.

        Args:
            literal: a special token's spelling is only text, as in `encode_literal`.

        One bad text raises its RecordError for all.
        """
        fitting = self.literal.fitting if literal else self._fitting
        try:
            return fitting.encode(pieces, limit=limit, side=side)
        except RecordError:
            raise
        except BaseException as e:
            raise _refusal([text for piece in pieces for text in ((piece,) if isinstance(piece, str) else piece)], e) from e

    @cached_property
    def _fitting(self) -> Fitting:
        return SlowFitting(self._backend.slow) if isinstance(self._backend, SlowBackend) else Fitting(self._backend)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool, spaces_between_special_tokens: bool = True) -> str:
        """The text of ids, as the tokenizers library gives it; ids outside the vocabulary have no text.

        `spaces_between_special_tokens` means something to slow tokenizers alone.
        """
        known = [i for i in ids if 0 <= i <= _MAX_ID]
        if self.is_slow and not spaces_between_special_tokens:
            backend: Any = self._backend
            return str(backend.decode(known, skip_special_tokens=skip_special_tokens, spaces_between_special_tokens=False))
        return self._backend.decode(known, skip_special_tokens=skip_special_tokens)

    def added_tokens(self) -> dict[str, int]:
        """The ids of tokens that were added to the vocabulary, and of special ones, by their text."""
        return {token.content: i for i, token in self._backend.get_added_tokens_decoder().items()}

    def has(self, token_id: int) -> bool:
        """True if the id is in the vocabulary."""
        return self._token(token_id) is not None

    def token_text(self, token_id: int) -> str:
        """The text of one token in the middle of a text (its leading space kept, part of a character as U+FFFD)."""
        pieces = self.pieces(False)
        if pieces is not None:
            return pieces[token_id].decode("utf-8", "replace")
        return self.decode([token_id], skip_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token in the middle of a text: `token_text` without loss where a token is part of a character."""
        pieces = self.pieces(False)
        if pieces is not None:
            return pieces[token_id]
        text = self.token_text(token_id)
        byte = byte_of(self._token(token_id) or "") if "\ufffd" in text else None
        return text.encode("utf-8", "replace") if byte is None else byte

    def token_name(self, token_id: int) -> str:
        r"""The name of one token by its text: as `token_text`, but `bytes:\xf0\x9f` where that is no UTF-8."""
        name = self._names.get(token_id)
        if name is None:
            name = self._names[token_id] = name_of(self.token_bytes(token_id))
        return name

    def pieces(self, skip_special_tokens: bool) -> Pieces | None:
        """Token id -> bytes, or None if this tokenizer's decoder is not additive. Made once and shared."""
        if self._rules is None:
            return None
        if skip_special_tokens not in self._pieces:
            skipped = self.special_ids if skip_special_tokens else frozenset()
            self._pieces[skip_special_tokens] = Pieces(self._rules, self._token, skipped)
        return self._pieces[skip_special_tokens]

    def id_of(self, token: str | None) -> int | None:
        """The id of a token by its text; None if it is none."""
        return None if token is None else self._backend.token_to_id(token)

    def _token(self, token_id: int) -> str | None:
        return self._backend.id_to_token(token_id) if 0 <= token_id <= _MAX_ID else None


def _byte_rules(backend: tokenizers.Tokenizer) -> ByteRules | None:
    if backend.decoder is None:
        return None
    try:
        return ByteRules.of(json.loads(backend.decoder.__getstate__()))
    except Exception:  # a decoder written in Python has no JSON form
        return None


def _refusal(texts: list[str], error: BaseException) -> BaseException:
    """The error to raise when the library refused one of these texts."""
    for text in texts:
        if not isinstance(text, str):
            return RecordError("invalid_type", f"text to tokenize must be a string, not {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as e:
            return RecordError(
                "invalid_encoding", f"the text is not valid Unicode: lone surrogate U+{ord(text[e.start]):04X} at character {e.start}"
            )
    if _is_of_library(error):
        return RecordError("internal", f"the tokenizer failed: {error}")
    return error


def _is_of_library(error: BaseException) -> bool:
    """True for an error of the library, which is to be reported; else it is an interrupt. A panic of Rust code is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
