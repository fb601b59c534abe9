"""Spelling of tokens: joined, the text itself, whatever the tokenizer; and each token has a name of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infer.cli.commands import infer
from infer.core.text.detokenizer import decode_all
from infer.core.text.spelling import Spelling
from infer.core.text.tokenizer import Tokenizer
from infer.core.weights.gguf import tokenizer as gguf_tokenizer
from infer.core.weights.gguf.metadata import Metadata

KINDS = ("byte_level", "llama", "gemma", "metaspace", "wordpiece", "suffix", "plain", "gguf")
#: One of each family, for runs of the whole command.
FAMILIES = ("byte_level", "llama", "metaspace", "wordpiece", "gguf")
WORDS = ["The fox doesn't!", "我能 😀👨‍👩‍👧‍👦 b", "  two  spaces", " café\n\n\tx", "中中中", "Größe ß", "\ufffd x", "안녕 🇫🇷"]
TEXTS = st.one_of(st.sampled_from(WORDS), st.text(alphabet="ab ▁de,.!?'\né中😀\u200d\ufffd", max_size=20), st.text(max_size=10)).filter(
    lambda s: s.encode("utf-8", "ignore").decode() == s
)
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def tables(backends: dict[str, tokenizers.Tokenizer]) -> dict[str, tokenizers.Tokenizer]:
    """kind -> tokenizer; the last one as a GGUF file carries it: tokens, scores and kinds, of which it is rebuilt."""
    model = json.loads(backends["llama"].to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    kinds = [6 if t.startswith("<0x") else 2 if t == "<unk>" else 3 if t in ("<s>", "</s>") else 1 for t in tokens]
    values = {"model": "llama", "tokens": tokens, "scores": [-float(i) for i in range(len(tokens))], "token_type": kinds}
    meta = Metadata({"general.architecture": "llama", **{f"tokenizer.ggml.{k}": v for k, v in values.items()}}, Path("m.gguf"))
    return {**backends, "gguf": tokenizers.Tokenizer.from_str(json.dumps(gguf_tokenizer.tokenizer(meta)))}


@pytest.fixture(scope="session")
def all_kinds(tables: dict[str, tokenizers.Tokenizer]) -> dict[str, Tokenizer]:
    def load(backend: tokenizers.Tokenizer) -> Tokenizer:
        data = backend.to_str().encode()
        return Tokenizer.load(lambda filename: data if filename == "tokenizer.json" else None)

    return {kind: load(backend) for kind, backend in tables.items()}


def spell(t: Tokenizer, prompt: Sequence[int], output: Sequence[int], *, skip: bool = True) -> tuple[Spelling, str]:
    text = decode_all(t, prompt, output, skip_special_tokens=skip)
    return Spelling(t, prompt, output, text=text, skip_special_tokens=skip), text


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(data=st.data())
def test_joined_pieces_are_the_text(all_kinds: dict[str, Tokenizer], kind: str, data: st.DataObject) -> None:
    t = all_kinds[kind]
    prompt = t.encode(data.draw(TEXTS))
    parts = st.one_of(
        TEXTS.map(lambda text: t.encode(text, add_special_tokens=False)), st.lists(st.integers(0, t.vocab_size + 3), max_size=6)
    )
    output = [token for part in data.draw(st.lists(parts, max_size=4)) for token in part]
    spelling, text = spell(t, prompt, output, skip=data.draw(st.booleans()))
    joined = b"".join(spelling.pieces)
    assert joined.decode("utf-8", "replace") == text
    begins = 0
    for piece, offset in zip(spelling.pieces, spelling.offsets, strict=True):
        if "\ufffd" not in text:  # else the characters before are not those of the bytes before
            assert joined == text.encode()
            assert offset == len(joined[:begins].decode("utf-8", "ignore"))
        begins += len(piece)
    assert spelling.offsets == sorted(spelling.offsets)
    assert all(0 <= offset <= len(text) for offset in spelling.offsets)


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(data=st.data())
def test_places_hold_whatever_the_tokens_are(all_kinds: dict[str, Tokenizer], kind: str, data: st.DataObject) -> None:
    t = all_kinds[kind]
    ids = st.lists(st.integers(0, t.vocab_size + 3), max_size=10)
    prompt, output = data.draw(ids), data.draw(ids)  # both may end inside a character, or be none at all
    spelling, text = spell(t, prompt, output, skip=data.draw(st.booleans()))
    for piece, offset in zip(spelling.pieces, spelling.offsets, strict=True):
        with contextlib.suppress(UnicodeDecodeError):
            assert text[offset:].startswith(piece.decode())
    assert spelling.without(frozenset()) == text
    assert spelling.without(frozenset(output)) == ""


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(data=st.data())
def test_names_tell_tokens_apart(all_kinds: dict[str, Tokenizer], kind: str, data: st.DataObject) -> None:
    t = all_kinds[kind]
    prompt, output = t.encode(data.draw(TEXTS)), t.encode(data.draw(TEXTS.filter(bool)), add_special_tokens=False)
    if not output:
        return
    spelling, _ = spell(t, prompt, output)
    place = data.draw(st.integers(0, len(output) - 1))
    tokens = list(dict.fromkeys([output[place], *data.draw(st.lists(st.integers(0, t.vocab_size + 3), max_size=300))]))
    names = spelling.names(place, tokens)
    assert list(names) == tokens
    assert len(set(names.values())) == len(tokens)
    assert "" not in names.values()
    for token in tokens:
        data_ = spelling.adds(place, token)
        if names[token].startswith("bytes:"):
            assert bytes.fromhex(names[token].removeprefix("bytes:").replace("\\x", "")) in (data_, t.token_bytes(token))
        elif data_ and not names[token].startswith("token_id:"):
            assert names[token].encode() == data_


def test_alternatives_are_spelled_as_they_would_stand(all_kinds: dict[str, Tokenizer]) -> None:
    t = all_kinds["wordpiece"]
    prompt = t.encode("the quick")
    output = t.encode("brown fox", add_special_tokens=False)
    spelling, text = spell(t, prompt, output)
    assert text == " brown fox"
    for token in output:
        assert text.startswith(spelling.adds(0, token).decode()) or token != output[0]
    letters = [t._backend.token_to_id(token) for token in ("a", "##a")]
    assert [spelling.adds(len(output) - 1, token) for token in letters] == [b" a", b"a"]
    llama = all_kinds["llama"]
    the = llama._backend.token_to_id("▁")
    letter = llama._backend.token_to_id("a")
    first, _ = spell(llama, [1], [the, the, letter])
    assert first.pieces == [b"", b" ", b"a"]  # a text loses one leading space
    assert first.adds(0, letter) == b"a"


def test_parts_of_characters(all_kinds: dict[str, Tokenizer]) -> None:
    t = all_kinds["byte_level"]
    output = [t._backend.token_to_id(c) for c in "ðŁĺĢ"]  # how GPT-2 writes the bytes of 😀
    spelling, text = spell(t, t.encode("a"), [*output, t.special_ids.__iter__().__next__(), *t.encode("b")])
    assert text == "😀b"
    assert spelling.offsets == [0, 0, 0, 0, 1, 1]
    assert [spelling.names(i, [token])[token] for i, token in enumerate(output)] == [
        "bytes:\\xf0",
        "bytes:\\x9f",
        "bytes:\\x98",
        "bytes:\\x80",
    ]
    assert [t.token_name(token) for token in output[:2]] == ["bytes:\\xf0", "bytes:\\x9f"]
    same = all_kinds["llama"]
    a, byte = same._backend.token_to_id("a"), same._backend.token_to_id("<0x61>")
    spelling, _ = spell(same, same.encode("b"), [a])
    assert spelling.names(0, [a, byte]) == {a: "a", byte: "bytes:\\x61"}
    assert spelling.names(0, [byte, a]) == {byte: "a", a: "bytes:\\x61"}


def test_the_token_that_ends_an_output_adds_nothing(all_kinds: dict[str, Tokenizer]) -> None:
    t = all_kinds["byte_level"]
    ids = t.encode("a!", add_special_tokens=False)
    assert Spelling(t, [], ids, text="a", ended=True).pieces == [b"a", b""]  # stop_token_ids
    assert Spelling(t, [], ids, text="a!", ended=True).pieces == [b"a", b"!"]  # a grammar's end
    assert Spelling(t, [], ids, text="a!").pieces == [b"a", b"!"]


@pytest.fixture(scope="session")
def folders(tables: dict[str, tokenizers.Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """folders(kind): a model with random weights and a tokenizer of this kind."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        tables[kind].save(str(folder / "tokenizer.json"))
        template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=tables[kind].get_vocab_size() + 5,  # as padded embeddings have them
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            eos_token_id=2,
            initializer_range=0.5,
        )
        LlamaForCausalLM(config).eval().save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("kind", FAMILIES)
def test_rows_of_the_command(folders: Any, kind: str, tmp_path: Path) -> None:
    folder = folders(kind)
    options = ["--model", str(folder), "--dtype", "float32", "--device", "cpu", "--temperature", "2", "--max-tokens", "24"]
    chats = [{"messages": [{"role": "user", "content": w}], "logprobs": True, "top_logprobs": 20} for w in WORDS]
    prompts = [{"prompt": w, "logprobs": 20, "stop_token_ids": [40, 41, 42]} for w in WORDS]
    for command, lines in (("chat", chats), ("generate", prompts)):
        source, out = tmp_path / "in.jsonl", tmp_path / f"{command}.jsonl"
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = CliRunner().invoke(infer, [command, *options, str(source), str(out)])
        assert result.exit_code == 0, result.stderr
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        for choice in (row["choices"][0] for row in rows):
            if command == "chat":
                entries = choice["logprobs"]["content"]
                joined = b"".join(bytes(entry["bytes"]) for entry in entries)
                assert joined.decode("utf-8", "replace") == choice["message"]["content"]
                assert all(len({e["token"] for e in entry["top_logprobs"]}) == 20 for entry in entries)
            else:
                logprobs = choice["logprobs"]
                assert all(len(top) in (20, 21) for top in logprobs["top_logprobs"])
                assert all(t in top for t, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True))
                assert all(0 <= offset <= len(choice["text"]) for offset in logprobs["text_offset"])
