"""Tokenizers written in Python: through transformers, added tokens apart from the text, code only where it is allowed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from infer.core.build.plan import make_plan
from infer.core.engine.stopping import EndTokens
from infer.core.engine.transcript import Transcripts
from infer.core.errors import ModelError
from infer.core.settings.args import EngineArgs
from infer.core.text.detokenizer import Detokenizer, decode_all
from infer.core.text.tokenizer import Tokenizer
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence

TEXT = "Voilà 中 😀"


def read_from(folder: Path) -> Any:
    return lambda name: (folder / name).read_bytes() if (folder / name).is_file() else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ByT5's tokenizer, which is Python alone: bytes, and added tokens that are special or not."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("byt5")
    tokenizer = transformers.ByT5Tokenizer(extra_ids=3)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    return folder


@pytest.fixture(scope="module")
def slow(folder: Path) -> Tokenizer:
    return Tokenizer.load(read_from(folder), name="m", folder=str(folder))


def test_it_is_found_and_is_what_transformers_has(slow: Tokenizer, folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    assert slow.is_slow
    assert slow.encode(TEXT) == theirs.encode(TEXT)
    assert slow.encode(TEXT, add_special_tokens=False) == theirs.encode(TEXT, add_special_tokens=False)
    assert slow.eos_token_id == theirs.eos_token_id
    assert slow.decode(slow.encode(TEXT), skip_special_tokens=True) == TEXT
    assert slow.vocab_size == len(theirs)
    assert slow.pieces(False) is None


@pytest.mark.parametrize(
    ("skip", "spaces", "expected"),
    [
        (False, True, "ab <tool> <extra_id_0> cd </s>"),
        (False, False, "ab<tool><extra_id_0>cd</s>"),
        (True, True, "ab <tool> cd"),
        (True, False, "ab<tool>cd"),
    ],
)
def test_spaces_between_added_tokens(slow: Tokenizer, skip: bool, spaces: bool, expected: str) -> None:
    ids = [*slow.encode("ab", add_special_tokens=False), *slow.encode("<tool>", add_special_tokens=False)]
    ids += [*slow.encode("<extra_id_0>", add_special_tokens=False), *slow.encode("cd")]
    assert slow.decode(ids, skip_special_tokens=skip, spaces_between_special_tokens=spaces) == expected
    how: dict[str, Any] = {"skip_special_tokens": skip, "spaces_between_special_tokens": spaces}
    assert decode_all(slow, [], ids, **how) == expected
    stream = Detokenizer(slow, [], **how)
    assert "".join(stream.push([i]) for i in ids) + stream.finish() == expected


def test_others_write_no_spaces(toys: dict[str, Tokenizer]) -> None:
    t = toys["byte_level"]
    ids = [*t.encode("hi"), t.encode("<|im_end|>")[0], *t.encode("you")]
    for spaces in (True, False):
        assert not t.is_slow
        assert t.decode(ids, skip_special_tokens=False, spaces_between_special_tokens=spaces) == "hi<|im_end|>you"


@pytest.mark.parametrize("stop", [[], ["never"]], ids=["at the end", "as it comes"])
@pytest.mark.parametrize(("spaces", "expected"), [(True, "ab <tool> cd"), (False, "ab<tool>cd")])
def test_the_parameter_reaches_the_text(slow: Tokenizer, spaces: bool, expected: str, stop: list[str]) -> None:
    params = SamplingParams(spaces_between_special_tokens=spaces, stop=stop)
    transcripts = Transcripts(slow, EndTokens(None, frozenset()))
    sequence = Sequence.of(Request("r", [5], params, 0), 0, 0, 100)
    ids = [t for part in ("ab", "<tool>", "cd") for t in slow.encode(part, add_special_tokens=False)]
    for i, token in enumerate(ids):
        sequence.tokens.append(token)
        if i == len(ids) - 1:
            sequence.finish_reason = "length"
        if stop or sequence.finished:
            transcripts.push(sequence)
    assert sequence.text == expected


def test_a_run_takes_the_tokenizer_that_is_named(tiny_llama: Path, folder: Path) -> None:
    def plan(**settings: Any) -> Any:
        return make_plan(EngineArgs(model=str(tiny_llama), device="cpu", **settings), compile_kernels=False)

    own = plan()
    assert not own.tokenizer.is_slow
    assert own.tokenizer_source is own.source
    other = plan(tokenizer=str(folder))
    assert other.tokenizer.is_slow
    assert other.tokenizer_source.path == folder
    slow = plan(tokenizer_mode="slow")
    assert slow.tokenizer.is_slow
    assert slow.tokenizer.encode(TEXT) == own.tokenizer.encode(TEXT)
    assert slow.tokenizer.decode(own.tokenizer.encode(TEXT), skip_special_tokens=True) == TEXT


CODE = """
from transformers import ByT5Tokenizer

open({ran!r}, "a").write("x")


class LetterTokenizer(ByT5Tokenizer):
    def _tokenize(self, text):
        return super()._tokenize(text[::-1])
"""


def test_code_of_a_tokenizer(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    model = tmp_path / "letters"
    model.mkdir()
    for file in folder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "LetterTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_letters.LetterTokenizer", None]}}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "config.json").write_text(json.dumps({"model_type": "letters_unknown"}))
    (model / "tokenization_letters.py").write_text(CODE.format(ran=str(tmp_path / "ran")))

    with pytest.raises(ModelError, match=r"m: the tokenizer needs Python code .*\(tokenization_letters\.py\).*--trust-remote-code"):
        Tokenizer.load(read_from(model), name="m", folder=str(model))
    assert not (tmp_path / "ran").exists()
    with caplog.at_level(logging.WARNING):
        tokenizer = Tokenizer.load(read_from(model), name="m", folder=str(model), trust_remote_code=True)
    assert "running Python code that came with the model: tokenization_letters.py" in caplog.text
    assert (tmp_path / "ran").exists()
    assert tokenizer.decode(tokenizer.encode("abc"), skip_special_tokens=True) == "cba"

    config["auto_map"] = {"AutoTokenizer": ["org/other--tokenization_letters.LetterTokenizer", None]}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    for trust in (False, True):
        with pytest.raises(ModelError, match=r"m: auto_map takes AutoTokenizer from another repository \(org/other\)"):
            Tokenizer.load(read_from(model), name="m", folder=str(model), trust_remote_code=trust)


def test_code_that_is_not_needed_is_not_run(toys: dict[str, Tokenizer], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tokenizer.json").write_text(toys["byte_level"]._backend.to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    with caplog.at_level(logging.WARNING):
        t = Tokenizer.load(read_from(tmp_path), name="m", folder=str(tmp_path), trust_remote_code=True)
    assert t.encode("the") == toys["byte_level"].encode("the")
    assert not caplog.records
