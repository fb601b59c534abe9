"""`infer generate`, `beam` and `check` with an encoder-decoder that has a tokenizer with languages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tokenizers import AddedToken, processors

from ..core.models.pairs import Pair, pair_of
from ..core.toy_tokenizers import build

LANGUAGES = ["eng_Latn", "fra_Latn"]


@pytest.fixture(scope="module")
def nllb(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The tokenizer names English in front of each text, and the decoder begins with </s>."""
    folder, tokenizer = tmp_path_factory.mktemp("nllb"), build("llama")
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ["</s>", *LANGUAGES]])
    named = [(text, tokenizer.token_to_id(text)) for text in ("eng_Latn", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="eng_Latn $A </s>", special_tokens=named)
    end = named[1][1]
    pair = pair_of("m2m_100", folder, vocab_size=tokenizer.get_vocab_size(), eos_token_id=end, decoder_start_token_id=end)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}))
    return pair


def test_records_with_languages_decoder_prompts_and_errors(
    nllb: Pair, call: Callable[..., Result], write_lines: Any, read_rows: Any, tmp_path: Path
) -> None:
    from infer.core.text.tokenizer import Tokenizer

    told = {"return_token_ids": True, "prompt": "the quick brown"}
    lines = [
        told,
        {**told, "target_language": "fra_Latn"},
        {**told, "target_language": "fra_Latn", "source_language": "fra_Latn"},
        {**told, "decoder_prompt": "fox"},
        {"return_token_ids": True, "encoder_prompt": {"prompt": "the quick brown"}, "decoder_prompt": {"prompt": "fox"}},
        {**told, "encoder_prompt": "the"},
        {"encoder_prompt": {"text": "the"}},
        {**told, "target_language": "klingon"},
        {**told, "prompt": "the " * 300},
        {**told, "echo": True},
    ]
    options = ["--model", nllb.folder, "--dtype", "float32", "--temperature", "0", "--max-tokens", "5"]
    result = call("generate", "-q", *options, write_lines(*lines), tmp_path / "out.jsonl")
    assert result.exit_code == 3, result.output
    rows = read_rows(tmp_path / "out.jsonl")
    assert [row["error"] and row["error"]["code"] for row in rows] == [None] * 5 + ["invalid_value"] * 3 + [
        "prompt_too_long",
        "unsupported",
    ]
    assert {**rows[4], "index": 3} == rows[3]
    tokenizer = Tokenizer.load(lambda name: (nllb.folder / name).read_bytes() if (nllb.folder / name).exists() else None)
    end, english, french = (tokenizer.encode(text, add_special_tokens=False)[-1] for text in ("</s>", *LANGUAGES))
    assert [row["prompt_token_ids"][:2] for row in rows[:3]] == [[end], [end, french], [end, french]]
    assert rows[3]["prompt_token_ids"] == [end, *tokenizer.encode("fox", add_special_tokens=False)]
    assert [row["encoder_prompt_token_ids"][0] for row in rows[:3]] == [english, english, french]
    for row in rows[:4]:
        read, begun, written = row["encoder_prompt_token_ids"], row["prompt_token_ids"], row["choices"][0]["token_ids"]
        assert row["usage"]["prompt_tokens"] == len(read) + len(begun)
        theirs = nllb.logprobs(read, [*begun, *written])[len(begun) - 1 : -1].argmax(-1).tolist()
        assert written == theirs


def test_beams_and_check(nllb: Pair, call: Callable[..., Result], write_lines: Any, read_rows: Any, tmp_path: Path) -> None:
    path = write_lines({"prompt": "hello", "target_language": "fra_Latn"}, {"prompt": "world"})
    result = call("beam", "-q", "--model", nllb.folder, "--width", "3", "--max-tokens", "4", path, tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.output
    assert [len(row["choices"]) for row in read_rows(tmp_path / "out.jsonl")] == [3, 3]
    assert call("check", "-q", "--model", nllb.folder, path).exit_code == 0


def test_a_language_for_all_records(nllb: Pair, call: Callable[..., Result], write_lines: Any, read_rows: Any, tmp_path: Path) -> None:
    told = {"return_token_ids": True, "prompt": "the quick brown"}
    path = write_lines({**told, "target_language": "fra_Latn"}, told, {**told, "target_language": "eng_Latn"})
    options = ["-q", "--model", nllb.folder, "--temperature", "0", "--max-tokens", "5"]
    assert call("generate", *options, "--target-language", "fra_Latn", path, tmp_path / "out.jsonl").exit_code == 0
    rows = read_rows(tmp_path / "out.jsonl")
    assert rows[0]["choices"] == rows[1]["choices"]
    assert rows[0]["prompt_token_ids"] == rows[1]["prompt_token_ids"] != rows[2]["prompt_token_ids"]
    result = call("generate", *options, "--target-language", "klingon", path, tmp_path / "no.jsonl")
    assert result.exit_code == 2
    assert "klingon" in result.output
