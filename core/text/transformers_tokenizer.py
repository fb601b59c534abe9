"""A model's tokenizer as transformers has it, for callers who want its whole interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .special_tokens import Reader


def as_transformers(read: Reader, folder: Path | None, *, slow: bool, trust_remote_code: bool) -> Any:
    """A `PreTrainedTokenizerBase`. The network is not asked.

    Args:
        read: reads one of the model's small files.
        folder: where they are, if they are in a folder (a .gguf file has them inside).
        slow: the pure Python implementation, where there is still one.
        trust_remote_code: Python code in the folder may run.

    Raises ModelError.
    """
    try:
        if folder is not None:
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(str(folder), use_fast=not slow, local_files_only=True, trust_remote_code=trust_remote_code)
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        config = json.loads(read("tokenizer_config.json") or b"{}")
        named = {key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str)}
        backend = Tokenizer.from_buffer(read("tokenizer.json") or b"")
        return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=config.get("chat_template"), **named)
    except Exception as error:  # transformers raises whatever happens inside
        raise ModelError(f"transformers cannot load this tokenizer: {error}") from error
