"""Tokenizers: text to ids and back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import processors

from infer.core.errors import ConfigError, ModelError, RecordError
from infer.core.text.tokenizer import Tokenizer

Files = Callable[..., Callable[[str], bytes | None]]


def token(content: str, *, special: bool = True) -> dict[str, object]:
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": special}


def test_encode_and_decode(toys: dict[str, Tokenizer], backends: dict[str, tokenizers.Tokenizer]) -> None:
    text = "The fox, 中文 😀\n"
    for kind, t in toys.items():
        ids = t.encode(text)
        assert ids == backends[kind].encode(text).ids
        assert t.encode_batch([text, "", text]) == [ids, t.encode(""), ids]
        assert t.encode_batch([]) == []
        assert t.decode(ids, skip_special_tokens=True) == backends[kind].decode(ids)
    assert toys["byte_level"].decode(toys["byte_level"].encode(text), skip_special_tokens=True) == text


def test_special_tokens_of_the_prompt_can_be_left_out(toys: dict[str, Tokenizer]) -> None:
    t = toys["llama"]
    assert t.encode("a") == [1, *t.encode("a", add_special_tokens=False)]
    assert t.encode_batch(["a"], add_special_tokens=False) == [t.encode("a", add_special_tokens=False)]


def test_truncation_and_padding_in_the_file_are_switched_off(backends: dict[str, tokenizers.Tokenizer], model_files: Files) -> None:
    backend = tokenizers.Tokenizer.from_str(backends["wordpiece"].to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    t = Tokenizer.load(model_files(tokenizer__json=backend.to_str()))
    assert len(t.encode("the quick brown fox jumps", add_special_tokens=False)) >= 5
    assert len(t.encode("the", add_special_tokens=False)) == 1


def test_names_of_special_tokens(backends: dict[str, tokenizers.Tokenizer], model_files: Files) -> None:
    read = model_files(
        tokenizer__json=backends["llama"].to_str(),
        tokenizer_config__json={"bos_token": "<s>", "eos_token": token("</s>"), "pad_token": None, "added_tokens_decoder": {}},
        special_tokens_map__json={"unk_token": "<unk>", "eos_token": "<unk>"},
    )
    t = Tokenizer.load(read, name="toy")
    assert (t.bos_token, t.bos_token_id, t.eos_token, t.eos_token_id, t.pad_token_id) == ("<s>", 1, "</s>", 2, None)
    assert t.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}  # the map is not read beside added_tokens_decoder
    assert t.special_ids == {0, 1, 2}


def test_without_config_files(toys: dict[str, Tokenizer]) -> None:
    t = toys["byte_level"]
    assert (t.bos_token, t.eos_token, t.bos_token_id, t.eos_token_id, t.pad_token_id) == (None,) * 5
    assert t.special_ids == {0, 1, 2}
    assert t.vocab_size == 423


@pytest.mark.parametrize("config", [{}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}])
@pytest.mark.parametrize("post", [True, False])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"pad_token": "<new>"},
        {"eos_token": "the"},
        {"additional_special_tokens": ["<x>", "the"]},
        {"added_tokens_decoder": {"1": token("<s>"), "900": token("<y>", special=False), "800": token("<x>")}},
        {"image_token": "<image>"},
    ],
)
def test_same_ids_as_transformers(
    backends: dict[str, tokenizers.Tokenizer],
    model_files: Files,
    tmp_path: Path,
    config: dict[str, object],
    post: bool,
    extra: dict[str, object],
) -> None:
    transformers = pytest.importorskip("transformers")
    backend = tokenizers.Tokenizer.from_str(backends["llama"].to_str())
    if not post:
        backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    read = model_files(tokenizer__json=backend.to_str(), tokenizer_config__json={**names, **config, **extra})
    ours, theirs = Tokenizer.load(read), transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in ("the fox<s> the", "<new><x><y><image> a", ""):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        ids = [*ours.encode(text), 2, 5]
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.vocab_size == len(theirs)
    assert ours.special_tokens == theirs.special_tokens_map
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "ok \ud83d"])
def test_lone_surrogates_are_refused(toys: dict[str, Tokenizer], text: str) -> None:
    for t in toys.values():
        with pytest.raises(RecordError, match="lone surrogate U\\+") as e:
            t.encode(text)
        assert e.value.code == "invalid_encoding"
        with pytest.raises(RecordError) as e:
            t.encode_batch(["fine", text])
        assert e.value.code == "invalid_encoding"


def test_wrong_type_is_refused(toys: dict[str, Tokenizer]) -> None:
    with pytest.raises(RecordError) as e:
        toys["llama"].encode(5)  # type: ignore[arg-type]
    assert e.value.code == "invalid_type"


def test_decode_of_ids_outside_the_vocabulary(toys: dict[str, Tokenizer]) -> None:
    for t in toys.values():
        assert t.decode([-5, t.vocab_size, t.vocab_size + 100, 2**32 - 1, 2**32, 2**80], skip_special_tokens=True) == ""
        assert t.token_text(t.vocab_size) == ""
        assert t.token_text(-1) == ""
        assert not t.has(t.vocab_size)


def test_token_text(toys: dict[str, Tokenizer]) -> None:
    t = toys["llama"]
    assert "".join(map(t.token_text, t.encode("the fox", add_special_tokens=False))) == " the fox"
    half = t._backend.token_to_id("<0xE4>")
    assert (t.token_text(half), t.token_bytes(half)) == ("\ufffd", b"\xe4")
    assert t.token_text(2) == "</s>"
    bert = toys["wordpiece"]
    unknown = bert._backend.token_to_id("[UNK]")
    assert (bert.token_text(unknown), bert.token_bytes(unknown)) == ("[UNK]", b"[UNK]")


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"tokenizer__json": b"{"}, "m: tokenizer.json is damaged"),
        ({"tokenizer__json": b""}, "m: tokenizer.json is damaged"),
        ({"tokenizer__json": b"\xff\xfe"}, "m: tokenizer.json is damaged"),
        ({"tokenizer__json": b'{"version": "1.0"}'}, "m: tokenizer.json is damaged"),
        ({"tokenizer__json": "ok", "tokenizer_config__json": b"{"}, "m: tokenizer_config.json is not valid JSON"),
        ({"tokenizer__json": "ok", "special_tokens_map__json": b"[]"}, "m: special_tokens_map.json must be a JSON object"),
        ({"tokenizer__json": "ok", "special_tokens_map__json": {"eos_token": 5}}, "m: special_tokens_map.json: eos_token is 5; it must"),
        (
            {"tokenizer__json": "ok", "special_tokens_map__json": {"additional_special_tokens": [5]}},
            "m: special_tokens_map.json: additional_special_tokens is",
        ),
        (
            {"tokenizer__json": "ok", "tokenizer_config__json": {"eos_token": 5}, "special_tokens_map__json": {"bos_token": "a"}},
            "m: tokenizer_config.json: eos_token is 5",
        ),
        ({}, "m: no tokenizer.json"),
    ],
)
def test_damaged_files_are_named(
    backends: dict[str, tokenizers.Tokenizer], model_files: Files, files: dict[str, object], match: str
) -> None:
    files = {name: backends["plain"].to_str() if value == "ok" else value for name, value in files.items()}
    with pytest.raises(ModelError, match=match):
        Tokenizer.load(model_files(**files), name="m")


def test_unknown_mode(model_files: Files) -> None:
    with pytest.raises(ConfigError, match="auto, slow"):
        Tokenizer.load(model_files(), mode="fast")


def test_fallback_to_transformers_reads_other_formats(toys: dict[str, Tokenizer], model_files: Files, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    spec = json.loads(toys["byte_level"]._backend.to_str())
    merges = [" ".join(m) if isinstance(m, list) else m for m in spec["model"]["merges"]]
    read = model_files(
        config__json={"model_type": "gpt2"},
        tokenizer_config__json={"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"},
        vocab__json=spec["model"]["vocab"],
        merges__txt="#version: 0.2\n" + "\n".join(merges),
    )
    for mode in ("auto", "slow"):
        t = Tokenizer.load(read, mode=mode, name="m", folder=str(tmp_path))
        text = "The fox 😀"
        assert t.encode(text) == toys["byte_level"].encode(text)
        assert t.encode_batch([text]) == [t.encode(text)]
        assert t.decode([*t.encode(text), 0], skip_special_tokens=True) == text
        assert t.eos_token_id == 0
        assert 0 in t.special_ids
        assert t.decode([10**7, -1], skip_special_tokens=True) == ""
        assert t.token_text(t.encode("The")[0]) != ""
        with pytest.raises(RecordError) as e:
            t.encode("\ud800")
        assert e.value.code == "invalid_encoding"


def test_fallback_failing_is_one_clear_error(model_files: Files, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match="m: transformers cannot load a tokenizer"):
        Tokenizer.load(model_files(config__json={"model_type": "llama"}), name="m", folder=str(tmp_path))


def test_imports_stay_light() -> None:
    code = (
        "import sys, infer.core.text.chat, infer.core.text.detokenizer, infer.core.text.stop, infer.core.text.templates.template\n"
        "print(sorted({'torch', 'transformers', 'jinja2', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
