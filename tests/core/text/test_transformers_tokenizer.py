"""A model's tokenizer as transformers has it, from a folder and from files that are in none."""

from __future__ import annotations

from pathlib import Path

import pytest

from infer.core.errors import ModelError
from infer.core.text.tokenizer import Tokenizer
from infer.core.text.transformers_tokenizer import as_transformers

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("in_folder", [True, False])
def test_it_agrees_with_ours(tiny_llama: Path, in_folder: bool) -> None:
    def read(name: str) -> bytes | None:
        path = tiny_llama / name
        return path.read_bytes() if path.exists() else None

    ours = Tokenizer.load(read)
    theirs = as_transformers(read, tiny_llama if in_folder else None, slow=False, trust_remote_code=False)
    for text in ("hello <|im_end|> world", "日本"):
        assert theirs.encode(text) == ours.encode(text)
    assert (theirs.eos_token_id, theirs.bos_token_id) == (ours.eos_token_id, ours.bos_token_id)
    rendered = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("in_folder", [True, False])
def test_what_cannot_be_loaded(tmp_path: Path, in_folder: bool) -> None:
    with pytest.raises(ModelError, match="transformers cannot load this tokenizer"):
        as_transformers(lambda name: None, tmp_path if in_folder else None, slow=False, trust_remote_code=False)
