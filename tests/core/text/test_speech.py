"""Rules of transcripts against transformers' logits processors, windows and fallbacks by hand, subtitles."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

from infer.core.errors import RecordError
from infer.core.text.speech.rules import SpeechRules
from infer.core.text.speech.subtitles import srt, vtt
from infer.core.text.speech.tokens import SpeechTokens
from infer.core.text.speech.transcript import SpeechParams, Transcript

#: Text below 20, times from 31 on, windows of a second.
TOKENS = SpeechTokens(
    start=21, end=20, languages={"en": 22, "de": 23}, tasks={"transcribe": 24, "translate": 25}, forced=(None, 24), no_timestamps=30,
    previous=26, suppressed=(3, 24, 25, 29), begin_suppressed=(5, 20), max_initial=20, vocab_size=82, positions=40, max_length=40,
    seconds=1.0,
)  # fmt: skip
T0 = TOKENS.first_time
PLAIN = SpeechParams(language="en", no_speech_threshold=None)


def test_rules_are_those_of_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    config = SimpleNamespace(no_timestamps_token_id=30, eos_token_id=20, bos_token_id=20, max_initial_timestamp_index=20)
    begin = [21, 22, 24]
    theirs = [
        SuppressTokensAtBeginLogitsProcessor([5, 20], begin_index=3),
        SuppressTokensLogitsProcessor(list(TOKENS.suppressed)),
        WhisperTimeStampLogitsProcessor(config, begin_index=3),
    ]
    rules = SpeechRules(TOKENS, timestamps=True)
    outputs = [[], [T0], [T0, 4], [T0, 4, T0 + 3], [T0, 4, T0 + 3, T0 + 3], [T0, 4, T0 + 3, T0 + 5, 7], [9], [9, T0], [T0 + 50, 1, T0 + 50]]
    for output in outputs:
        for scale in (0.1, 1, 5):
            logits = scale * torch.randn(82, generator=generator)
            expected = logits[None].clone()
            for one in theirs:
                expected = one(torch.tensor([[*begin, *output]]), expected)
            assert torch.equal(rules(output, logits.clone()), expected[0]), (output, scale)


def test_what_a_decoder_begins_with() -> None:
    def begin(**more: object) -> list[int]:
        return TOKENS.beginning(**{"language": "de", "task": None, "timestamps": True, **more})  # type: ignore[arg-type]

    assert begin() == [21, 23, 24]
    assert begin(timestamps=False) == [21, 23, 24, 30]
    assert begin(task="translate") == [21, 23, 25]
    assert begin(is_detected=True) == [21, 23, 24]
    assert TOKENS.needs_language(None, None)
    assert not TOKENS.needs_language("de", None)
    forced = replace(TOKENS, forced=(22, 24, 30))
    assert not forced.needs_language(None, None)
    assert forced.beginning(language=None, task=None, timestamps=True) == [21, 22, 24]
    english = replace(TOKENS, languages={}, tasks={}, forced=())
    assert english.beginning(language=None, task=None, timestamps=False) == [21, 30]
    assert TOKENS.language_of("German") == "de"
    for name in ("klingon", "xx"):
        with pytest.raises(RecordError, match="one of the model's 2, such as de, en"):
            TOKENS.language_of(name)
    with pytest.raises(RecordError, match="no token for 'translate'"):
        english.beginning(language=None, task="translate", timestamps=True)


def read(transcript: Transcript, *outputs: list[int], logprob: float = -0.1) -> list[tuple[int, float]]:
    """(start, temperature) of what was asked for these outputs, each with its end token."""
    found = []
    for output in outputs:
        ask = transcript.next()
        assert ask is not None
        found.append((ask.start, ask.temperature))
        transcript.take([*output, 20], [logprob] * (len(output) + 1))
    return found


def test_windows_begin_where_the_last_time_lies() -> None:
    one = Transcript(TOKENS, PLAIN, 250)
    pair = [T0, 4, 5, T0 + 20, T0 + 20, 6, T0 + 40, T0 + 40]  # twice, and the rest is for the next window
    assert read(one, pair, [T0, 7, T0 + 25], [8, 9]) == [(0, 0), (80, 0), (180, 0)]
    assert one.next() is None
    assert [(round(s.start, 2), round(s.end, 2), s.tokens) for s in one.segments] == [
        (0.0, 0.4, [T0, 4, 5, T0 + 20]),
        (0.4, 0.8, [T0 + 20, 6, T0 + 40, T0 + 40]),
        (0.8, 1.3, [T0, 7, T0 + 25]),
        (1.8, 2.5, [8, 9]),
    ]
    assert one.text_tokens() == [4, 5, 6, 7, 8, 9]


def test_bad_outputs_are_tried_again_hotter_and_silence_is_left_out() -> None:
    params = replace(PLAIN, temperatures=(0.0, 0.4, 0.8), no_speech_threshold=0.6, condition_on_prev_tokens=True)
    one = Transcript(TOKENS, params, 200)
    assert one.next().detects == (29,)
    one.take_detected({29: -3.0})
    assert read(one, [T0, 4, T0 + 50], logprob=-2.0) == [(0, 0.0)], "doubtful"
    assert read(one, [T0, *[4] * 30, T0 + 50]) == [(0, 0.4)], "repeats itself"
    assert read(one, [T0, *[4] * 30, T0 + 50], logprob=-9.0) == [(0, 0.8)], "the last one stays"
    assert [segment.temperature for segment in one.segments] == [0.8]
    assert one.next().prompt == [21], "what was said hot is not gone on from"
    one.take_detected({29: -0.1})
    assert read(one, [T0, 4, T0 + 50], logprob=-2.0) == [(100, 0.0)]
    assert one.is_done
    assert len(one.segments) == 1, "nobody speaks"


def test_prompts_have_what_was_said_before() -> None:
    one = Transcript(TOKENS, replace(PLAIN, condition_on_prev_tokens=True, prompt=(9, 9)), 300)
    assert one.next().prompt == [26, 9, 9, 21, 22, 24]
    read(one, [T0, 4, T0 + 50, T0 + 50])
    assert one.next().prompt == [26, 9, 9, T0, 4, T0 + 50, 21, 22, 24], "one of two times at the end"
    read(one, [T0, *range(18), T0 + 50])
    ask = one.next()
    assert len(ask.prompt) == 1 + 19 + 3
    assert ask.max_tokens == 40 - 23


def test_the_likeliest_language_is_taken() -> None:
    one = Transcript(TOKENS, replace(PLAIN, language=None), 100)
    assert one.next().detects == (22, 23, 29)
    one.take_detected({22: -2.0, 23: -1.0, 29: -9.0})
    assert one.language == "de"
    assert one.detected == pytest.approx(1 / (1 + 2.718281828**-1))
    assert one.next().prompt == [21, 23, 24]


def test_subtitles() -> None:
    pieces = [(0.0, 1.5, " a\n\nb"), (3661.02, 3662.0, "c --> d")]
    assert srt(pieces) == "1\n00:00:00,000 --> 00:00:01,500\na b\n\n2\n01:01:01,020 --> 01:01:02,000\nc -> d\n"
    assert vtt(pieces[:1]) == "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na b\n"
