"""Special tokens that the small files name, as transformers takes them; values that are no tokens."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from infer.core.errors import ModelError
from infer.core.text.tokenizer import Tokenizer

ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
TEXT = "x<e1>y<a1>z<a2><img><x><known>"
EXTRA: list[Any] = [..., None, [], ["<e1>"], ["<a1>"], {}, {"image_token": "<img>"}]
ADDITIONAL: list[Any] = [
    ...,
    None,
    [],
    ["<a1>", "<a2>"],
    [
        {
            "__type": "AddedToken",
            "content": "<a1>",
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
    ],
    ["<known>"],
]
NEW_STYLE = {"added_tokens_decoder": {"256": {"content": "<known>", "special": False}}}


def written(folder: Path, config: dict[str, Any], special_map: dict[str, Any] | None = None) -> Path:
    """A byte-level tokenizer with one added token that is not special."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(ALPHABET)}, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_tokens(["<known>"])
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    if special_map is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(special_map))
    return folder


def load(folder: Path) -> Tokenizer:
    return Tokenizer.load(lambda name: (folder / name).read_bytes() if (folder / name).exists() else None, name="m")


def given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not ...}


def test_lists_of_special_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    for number, (extra, additional, style) in enumerate(itertools.product(EXTRA, ADDITIONAL, ({}, NEW_STYLE))):
        config = given(extra_special_tokens=extra, additional_special_tokens=additional)
        folder = written(tmp_path / str(number), {**config, **style})
        theirs, ours = transformers.AutoTokenizer.from_pretrained(str(folder)), load(folder)
        ids = theirs(TEXT).input_ids
        assert ours.encode(TEXT) == ids, config
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True), config
    assert load(written(tmp_path / "dict", {"extra_special_tokens": {"image_token": "<img>"}})).special_tokens == {"image_token": "<img>"}


SPECIFIC: list[Any] = [..., None, {}, {"image_token": "<img>"}, {"picture": "<img>", "x_token": {"__type": "AddedToken", "content": "<x>"}}]


def test_named_tokens_of_the_model_are_those_of_transformers(tmp_path: Path) -> None:
    keys = [{}, {"image_token": "<e1>"}, {"extra_special_tokens": {"image": "<e1>"}}, {"extra_special_tokens": ["<e1>"]}]
    maps = [None, {"pad_token": "<x>"}, {"eos_token": "<known>", "additional_special_tokens": ["<a2>"]}]
    for number, (specific, more, special_map, style) in enumerate(itertools.product(SPECIFIC, keys, maps, ({}, NEW_STYLE))):
        config = {**given(model_specific_special_tokens=specific), **more, **style}
        folder = written(tmp_path / str(number), config, special_map)
        theirs, ours = transformers.AutoTokenizer.from_pretrained(str(folder)), load(folder)
        ids = theirs(TEXT).input_ids
        assert ours.encode(TEXT) == ids, (config, special_map)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True), (config, special_map)
        assert ours.special_tokens == {name: str(token) for name, token in theirs.special_tokens_map.items() if isinstance(token, str)}


def test_special_tokens_map_adds_to_them(tmp_path: Path) -> None:
    lists: list[tuple[Any, Any, Any, Any]] = [
        (..., ["<a1>"], ["<e1>"], ...),
        (["<e1>"], ..., ["<x>"], ...),
        (["<e1>"], ..., ..., ["<a2>"]),
        (..., ["<a1>"], {"image_token": "<img>"}, ...),
        ({"image_token": "<img>"}, ..., ..., ["<a2>"]),
        (..., ..., ..., ["<a2>"]),
    ]
    for number, (extra, additional, more, others) in enumerate(lists):
        config = given(extra_special_tokens=extra, additional_special_tokens=additional)
        special_map = given(extra_special_tokens=more, additional_special_tokens=others)
        folder = written(tmp_path / str(number), config, special_map)
        theirs, ours = transformers.AutoTokenizer.from_pretrained(str(folder)), load(folder)
        assert ours.encode(TEXT) == theirs(TEXT).input_ids, (config, special_map)


def test_tokens_that_do_not_count_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load(written(tmp_path, {"extra_special_tokens": ["<e1>", "<a1>"], "additional_special_tokens": ["<a1>", "<a2>"]}))
    assert "m: additional_special_tokens has <a2>, which do not count beside the list of extra_special_tokens" in caplog.text


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"eos_token": 2}, "eos_token is 2"),
        ({"eos_token": ["</s>"]}, "eos_token is"),
        ({"bos_token": {"content": 1}}, "bos_token is"),
        ({"pad_token": True}, "pad_token is true"),
        ({"added_tokens_decoder": ["<x>"]}, "added_tokens_decoder is"),
        ({"added_tokens_decoder": {"x": {"content": "<x>"}}}, "added_tokens_decoder is"),
        ({"added_tokens_decoder": {"-1": {"content": "<x>"}}}, "added_tokens_decoder is"),
        ({"added_tokens_decoder": {"1": 7}}, "added_tokens_decoder is"),
        ({"added_tokens_decoder": {"1": {"content": None}}}, "added_tokens_decoder is"),
        ({"extra_special_tokens": "<x>"}, "extra_special_tokens is"),
        ({"extra_special_tokens": [1]}, "extra_special_tokens is"),
        ({"extra_special_tokens": {"image_token": 1}}, "extra_special_tokens is"),
        ({"additional_special_tokens": "<x>"}, "additional_special_tokens is"),
        ({"additional_special_tokens": 5}, "additional_special_tokens is"),
        ({"additional_special_tokens": [None]}, "additional_special_tokens is"),
        ({"model_specific_special_tokens": "<x>"}, "model_specific_special_tokens is"),
        ({"model_specific_special_tokens": ["<x>"]}, "model_specific_special_tokens is"),
        ({"model_specific_special_tokens": {"image_token": 1}}, "model_specific_special_tokens is"),
    ],
    ids=json.dumps,
)
def test_a_value_that_is_no_token_is_refused_by_its_key(tmp_path: Path, config: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError) as raised:
        load(written(tmp_path, config))
    assert str(raised.value).startswith("m: tokenizer_config.json: ")
    assert named in str(raised.value)
