"""Text as it grows token by token."""

from __future__ import annotations

from itertools import pairwise

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infer.core.text.detokenizer import Detokenizer, decode_all
from infer.core.text.tokenizer import Tokenizer

KINDS = ("byte_level", "llama", "gemma", "metaspace", "wordpiece", "suffix", "plain")
ADDITIVE = ("byte_level", "llama", "gemma", "metaspace")
TEXTS = st.one_of(
    st.text(alphabet="ab ▁de,.!?'\né中😀\u200d\ufffd", max_size=20),
    st.sampled_from(["The fox doesn't!", "我能 😀👨‍👩‍👧‍👦 b", "  two spaces", " café\n\n\tx", "中中中", "<s> x", ""]),
    st.text(max_size=10),
).filter(lambda s: s.encode("utf-8", "ignore").decode() == s)
FEW = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def incremental(t: Tokenizer, prompt: list[int], pieces: list[list[int]], skip: bool) -> str:
    stream = Detokenizer(t, prompt, skip_special_tokens=skip)
    given = [stream.push(piece) for piece in pieces]
    given.append(stream.finish())
    assert stream.text == "".join(given)
    return stream.text


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(data=st.data())
def test_any_split_gives_the_text_of_the_whole(toys: dict[str, Tokenizer], kind: str, data: st.DataObject) -> None:
    t = toys[kind]
    ids = st.integers(0, t.vocab_size + 3)
    if kind in ("llama", "gemma"):  # many bytes, so that characters come about
        ids = st.one_of(ids, st.sampled_from("中é😀a".encode()).map(lambda b: t._backend.token_to_id(f"<0x{b:02X}>")))
    prompt, output = data.draw(st.lists(ids, max_size=8)), data.draw(st.lists(ids, max_size=24))
    skip = data.draw(st.booleans())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=6)))
    whole = decode_all(t, prompt, output, skip_special_tokens=skip)
    for borders in ([0, *cuts, len(output)], list(range(len(output) + 1))):
        assert incremental(t, prompt, [output[a:b] for a, b in pairwise(borders)], skip) == whole


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(text=TEXTS, at=st.integers(0, 40), skip=st.booleans())
def test_prompt_and_output_make_the_whole_text(toys: dict[str, Tokenizer], kind: str, text: str, at: int, skip: bool) -> None:
    t = toys[kind]
    ids = t.encode(text)
    prompt, output = ids[:at], ids[at:]
    before, whole = decode_all(t, [], prompt, skip_special_tokens=skip), t.decode(ids, skip_special_tokens=skip)
    while not whole.startswith(before):  # the prompt ends inside a character; the output that completes it owns it
        assert before.endswith("\ufffd")
        before = before[:-1]
    assert before + decode_all(t, prompt, output, skip_special_tokens=skip) == whole


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(data=st.data())
def test_agrees_with_the_library_on_any_ids(
    toys: dict[str, Tokenizer], backends: dict[str, tokenizers.Tokenizer], kind: str, data: st.DataObject
) -> None:
    t, skip = toys[kind], data.draw(st.booleans())
    output = data.draw(st.lists(st.integers(0, t.vocab_size - 1), max_size=24))
    whole = backends[kind].decode(output, skip_special_tokens=skip)
    if kind in ("llama", "gemma") and "\ufffd" in whole:
        return  # the library throws away all of a run of bytes if any is wrong; we keep its valid characters
    assert decode_all(t, [], output, skip_special_tokens=skip) == whole


def byte_ids(t: Tokenizer, data: bytes) -> list[int]:
    return [t._backend.token_to_id(f"<0x{b:02X}>") for b in data]


def test_characters_come_whole(toys: dict[str, Tokenizer]) -> None:
    for kind, spell in (("llama", byte_ids), ("byte_level", lambda t, data: t.encode(data.decode()))):
        t = toys[kind]
        stream = Detokenizer(t, t.encode("a"), skip_special_tokens=True)
        ids = spell(t, "😀".encode())
        assert len(ids) > 1
        assert [stream.push([i]) for i in ids] == [""] * (len(ids) - 1) + ["😀"]
        assert stream.finish() == ""


def test_valid_characters_survive_bad_neighbours(toys: dict[str, Tokenizer]) -> None:
    t = toys["llama"]
    assert decode_all(t, [], byte_ids(t, "é中".encode() + b"\xff" + "😀".encode()[:3]), skip_special_tokens=True) == "é中\ufffd\ufffd"


def test_incomplete_character_is_given_at_the_end(toys: dict[str, Tokenizer]) -> None:
    t = toys["llama"]
    stream = Detokenizer(t, [], skip_special_tokens=True)
    assert stream.push(byte_ids(t, b"a\xe4\xb8")) == "a"
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""
    assert stream.text == "a\ufffd"


@pytest.mark.parametrize("kind", ["byte_level", "llama"])
def test_real_replacement_character_is_not_held_back(toys: dict[str, Tokenizer], kind: str) -> None:
    t = toys[kind]
    stream = Detokenizer(t, t.encode("a"), skip_special_tokens=True)
    token = t._backend.token_to_id("\ufffd")
    assert stream.push([token]) == "\ufffd"
    assert stream.push([token, token]) == "\ufffd\ufffd"


def test_replacement_character_is_held_for_a_bounded_time_in_other_decoders(toys: dict[str, Tokenizer]) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"\ufffd": 0, "a": 1}, unk_token="a"))
    t = Tokenizer(backend, {})
    assert t.pieces(True) is None
    stream = Detokenizer(t, [1], skip_special_tokens=True)
    pushed = [stream.push([0]) for _ in range(40)]
    assert len("".join(pushed)) > 60
    stream.finish()
    assert stream.text == " \ufffd" * 40


def test_leading_space_belongs_to_the_output_after_a_prompt(toys: dict[str, Tokenizer]) -> None:
    t = toys["llama"]
    fox = t.encode("the fox", add_special_tokens=False)
    whole = t.decode(fox, skip_special_tokens=True)
    bos = t._backend.token_to_id("<s>")
    assert decode_all(t, [], fox, skip_special_tokens=True) == whole == "the fox"
    assert decode_all(t, [bos], fox, skip_special_tokens=True) == "the fox"
    assert decode_all(t, [bos], fox, skip_special_tokens=False) == " the fox"
    assert decode_all(t, [bos, fox[-1]], fox, skip_special_tokens=True) == " the fox"
    assert decode_all(toys["gemma"], [], fox, skip_special_tokens=True) == " the fox"
    two = t._backend.token_to_id("▁▁")
    assert decode_all(t, [], [two, *fox], skip_special_tokens=True) == "  the fox"
    assert decode_all(toys["metaspace"], [], [two, *fox], skip_special_tokens=True) == " the fox"


def test_prompt_may_end_inside_a_character(toys: dict[str, Tokenizer]) -> None:
    t = toys["llama"]
    half, rest = byte_ids(t, "中".encode()[:2]), byte_ids(t, "中".encode()[2:])
    a = t.encode("a", add_special_tokens=False)
    assert decode_all(t, [*a, *half], [*rest, *a], skip_special_tokens=True) == "中 a"
    assert decode_all(t, [*a, *half], a, skip_special_tokens=True) == " a"  # the broken character is the prompt's
    assert decode_all(t, [*a, *half], [], skip_special_tokens=True) == ""
    assert decode_all(t, half[:1], half[1:], skip_special_tokens=True) == ""  # still incomplete: nothing the prompt had not


def test_special_tokens(toys: dict[str, Tokenizer]) -> None:
    t = toys["byte_level"]
    end = t._backend.token_to_id("<|im_end|>")
    ids = [*t.encode("hi"), end, *t.encode(" you")]
    assert decode_all(t, [], ids, skip_special_tokens=True) == "hi you"
    assert decode_all(t, [], ids, skip_special_tokens=False) == "hi<|im_end|> you"
    bert = toys["wordpiece"]
    sep = bert._backend.token_to_id("[SEP]")
    fox = bert.encode("the fox", add_special_tokens=False)
    long_pause = [*fox, *[sep] * 50, *fox]
    assert incremental(bert, [], [[i] for i in long_pause], True) == "the fox the fox"


def test_ids_outside_the_vocabulary_have_no_text(toys: dict[str, Tokenizer]) -> None:
    for t in toys.values():
        a = t.encode("the", add_special_tokens=False)
        odd = [-1, t.vocab_size + 7, 2**32, 2**70]
        assert decode_all(t, odd, [*odd, *a, *odd], skip_special_tokens=True) == decode_all(t, [], a, skip_special_tokens=True)


def test_window_stays_small(toys: dict[str, Tokenizer]) -> None:
    t = toys["wordpiece"]
    seen = []
    decode = t.decode

    class Watched(Tokenizer):
        def __init__(self) -> None:
            self.__dict__.update(t.__dict__)

        def decode(self, ids: list[int], **how: bool) -> str:  # type: ignore[override]
            seen.append(len(ids))
            return decode(ids, **how)

    decode_all(Watched(), list(range(200)), list(range(4, 250)) * 4, skip_special_tokens=False)
    assert max(seen) < 20
