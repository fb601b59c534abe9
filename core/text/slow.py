"""Tokenizers that have no tokenizer.json, through transformers (which takes seconds to import)."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ..errors import ModelError


def load_slow(folder: str | None, *, slow: bool, name: str = "") -> tuple[Any, dict[str, str]]:
    """What transformers finds in a folder: something with the face of `tokenizers.Tokenizer`, and the named special tokens.

    `slow` asks for the pure Python implementation where there is still one. Code of the model is never run, the network never
    asked. Raises ModelError.
    """
    of = f"{name}: " if name else ""
    if folder is None:
        raise ModelError(f"{of}no tokenizer.json, and no folder in which transformers could look for another tokenizer")
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, use_fast=not slow, local_files_only=True, trust_remote_code=False)
    except Exception as e:  # transformers raises whatever happens inside
        raise ModelError(f"{of}transformers cannot load a tokenizer from {folder}: {e}") from e
    special_tokens = {key: str(value) for key, value in found.special_tokens_map.items() if isinstance(value, str)}
    backend = getattr(found, "backend_tokenizer", None)
    return (SlowBackend(found) if backend is None or slow else backend), special_tokens


class SlowBackend:
    """A transformers tokenizer with as much of the face of `tokenizers.Tokenizer` as `Tokenizer` looks at."""

    decoder = None

    def __init__(self, tokenizer: Any) -> None:
        self._slow = tokenizer

    def no_truncation(self) -> None: ...

    def no_padding(self) -> None: ...

    def get_vocab_size(self, *, with_added_tokens: bool) -> int:
        return len(self._slow)

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        return {i: SimpleNamespace(special=True) for i in self._slow.all_special_ids}

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        text.encode("utf-8")  # a lone surrogate would be taken for an unknown character
        return SimpleNamespace(ids=list(self._slow.encode(text, add_special_tokens=add_special_tokens)))

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> list[Any]:
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        known = [i for i in ids if i < len(self._slow)]
        return self._slow.decode(known, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)

    def token_to_id(self, token: str) -> int | None:
        return self._slow.convert_tokens_to_ids(token)

    def id_to_token(self, token_id: int) -> str | None:
        return self._slow.convert_ids_to_tokens(token_id) if token_id < len(self._slow) else None
