"""Slow tokenizers: those that have no tokenizer.json, through transformers (which takes seconds to import)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import ModelError
from ..weights.remote_code import allow, named_code, refusal
from ..weights.source import parse_json

#: What `auto_map` calls the classes that a tokenizer may need, by the file that names them.
CLASSES = {"tokenizer_config.json": ("AutoTokenizer",), "config.json": ("AutoTokenizer", "AutoConfig")}


def load_slow(folder: str | None, *, slow: bool, name: str = "", trust_remote_code: bool = False) -> tuple[Any, dict[str, str]]:
    """Loads a folder's tokenizer through transformers: something with the interface of `tokenizers.Tokenizer`, and the special tokens.

    The network is never asked.

    Args:
        slow: the pure Python implementation, where there is still one.
        trust_remote_code: Python code in the folder may run; what runs is logged.

    Raises ModelError.
    """
    of = f"{name}: " if name else ""
    if folder is None:
        raise ModelError(f"{of}no tokenizer.json, and no folder in which transformers could look for another tokenizer")
    from transformers import AutoTokenizer

    who, code, elsewhere = name or folder, [], None
    try:
        code = _code(Path(folder), who)
    except ModelError as e:
        elsewhere = e  # may be not needed
    trust = bool(code) and trust_remote_code
    if trust:
        allow(Path(folder), code, who)
    try:
        found = AutoTokenizer.from_pretrained(folder, use_fast=not slow, local_files_only=True, trust_remote_code=trust)
    except Exception as e:  # transformers raises whatever happens inside
        if elsewhere is not None:
            raise elsewhere from e
        if code and not trust:
            raise refusal(code, who, "the tokenizer") from e
        raise ModelError(f"{of}transformers cannot load a tokenizer from {folder}: {e}") from e
    special_tokens = {key: str(value) for key, value in found.special_tokens_map.items() if isinstance(value, str)}
    backend = getattr(found, "backend_tokenizer", None)
    return (SlowBackend(found) if backend is None or slow else backend), special_tokens


def _code(folder: Path, name: str) -> list[str]:
    """The Python files of the folder that its tokenizer is made of."""
    files: list[str] = []
    for filename, classes in CLASSES.items():
        path = folder / filename
        config = parse_json(path.read_bytes(), path) if path.is_file() else None
        files += [file for file in named_code(config, classes, name) if file not in files]
    return files


class SlowBackend:
    """A transformers tokenizer with as much of the interface of `tokenizers.Tokenizer` as `Tokenizer` uses."""

    decoder = None

    def __init__(self, tokenizer: Any) -> None:
        self._slow = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        #: Tokens that stand apart from the text around them. One in Rust beneath writes them as it likes.
        self._apart = frozenset() if tokenizer.is_fast else frozenset(tokenizer.get_added_vocab())

    @property
    def slow(self) -> Any:
        """The tokenizer of transformers itself."""
        return self._slow

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

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool, spaces_between_special_tokens: bool = True) -> str:
        """As vLLM: the added tokens and the stretches of text between them, joined by spaces or by nothing."""
        known = [i for i in ids if i < len(self._slow) and not (skip_special_tokens and i in self._special)]
        if not self._apart:
            return str(self._slow.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        parts: list[str] = []
        stretch: list[str] = []
        for token in [*self._slow.convert_ids_to_tokens(known), None]:
            if token is not None and token not in self._apart:
                stretch.append(token)
                continue
            if stretch:
                parts.append(self._slow.convert_tokens_to_string(stretch))
                stretch = []
            if token is not None:
                parts.append(token)
        return (" " if spaces_between_special_tokens else "").join(parts)

    def token_to_id(self, token: str) -> int | None:
        return self._slow.convert_tokens_to_ids(token)

    def id_to_token(self, token_id: int) -> str | None:
        return self._slow.convert_ids_to_tokens(token_id) if token_id < len(self._slow) else None
