"""Stop strings over the borders of tokens, for tokenizers of every shape: the text decides, never how tokens cut it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infer.core.engine.stopping import EndTokens
from infer.core.engine.transcript import Transcripts
from infer.core.text.detokenizer import decode_all
from infer.core.text.tokenizer import Tokenizer
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence

KINDS = ("byte_level", "llama", "gemma", "metaspace", "wordpiece", "suffix", "plain")
TEXT = "The quick brown fox jumps over the lazy dog, doesn't it? café naïve 東京都 😀 and   spaces\nx ** 2"


def follow(tokenizer: Tokenizer, prompt: list[int], output: list[int], params: SamplingParams) -> Sequence:
    """A sequence as the engine drives it, until it ends."""
    ends = EndTokens(None, frozenset())
    request = Request("r", prompt, params, 0)
    sequence = Sequence.of(request, 0, 0, len(prompt) + len(output))
    transcripts = Transcripts(tokenizer, ends)
    for token in output:
        sequence.tokens.append(token)
        ends.check_all([sequence])
        transcripts.push_all([sequence])
        if sequence.finished:
            break
    assert not transcripts._followed
    return sequence


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_first_stop_string_that_is_complete_cuts_the_text(toys: dict[str, Tokenizer], kind: str, data: st.DataObject) -> None:
    tokenizer = toys[kind]
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    at = data.draw(st.integers(1, 6))
    prompt, output = ids[:at], ids[at:]
    whole = decode_all(tokenizer, prompt, output, skip_special_tokens=True)

    def part() -> str:
        start = data.draw(st.integers(0, len(whole) - 1))
        return whole[start : start + data.draw(st.integers(1, 12))]

    stops = [part() for _ in range(data.draw(st.integers(1, 3)))] + data.draw(st.sampled_from([[], ["not there"]]))
    keep = data.draw(st.booleans())
    sequence = follow(
        tokenizer, prompt, output, SamplingParams(stop=tuple(stops), include_stop_str_in_output=keep, max_tokens=None, ignore_eos=True)
    )
    end, start, stop = min((whole.find(s) + len(s), whole.find(s), s) for s in stops if s in whole)
    assert (sequence.finish_reason, sequence.stop_reason) == ("stop", stop)
    assert sequence.text == whole[: end if keep else start]
    # No token is drawn after the one that completes it, but for what the detokenizer must hold back.
    needed = next(n for n in range(len(output) + 1) if whole[:end] in decode_all(tokenizer, prompt, output[:n], skip_special_tokens=True))
    assert needed <= sequence.num_output <= needed + 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_is_not_searched(toys: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = toys[kind]
    ids = tokenizer.encode("The quick brown fox jumps over the lazy dog", add_special_tokens=False)
    stop = tokenizer.decode(ids[:2], skip_special_tokens=True)
    sequence = follow(tokenizer, ids, ids[3:], SamplingParams(stop=(stop,), max_tokens=None, ignore_eos=True))
    assert (sequence.finish_reason, sequence.stop_reason) == ("length", None)
