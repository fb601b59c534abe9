"""`infer beam`: what a record says of its search, and the row of its answer."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.jobs.jsonl import dumps
from infer.core.jobs.record import Record
from infer.core.jobs.tasks.beam import BeamTask
from infer.core.jobs.tasks.completion import CompletionOptions
from infer.core.jobs.tasks.pending import Pending
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.outputs import CompletionOutput, RequestOutput
from infer.core.types.structured import StructuredOutputsParams

DEFAULT = BeamSearchParams(beam_width=4, max_tokens=16)


def make_task(byte_tokenizer: Any, **options: Any) -> BeamTask:
    beam = options.pop("beam", DEFAULT)
    return BeamTask(CompletionOptions(defaults=beam.sampling(), beam=beam, **options), byte_tokenizer, max_model_len=256)


def prepare(task: BeamTask, **fields: Any) -> Pending:
    raw = dumps({"prompt": "ab", **fields})
    (pending,) = task.prepare([Record(index=3, line=4, size=len(raw), fields={"prompt": "ab", **fields})])
    return pending


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {}),
        ({"beam_width": 8}, {"beam_width": 8}),
        ({"width": 2}, {"beam_width": 2}),
        ({"num_beams": 2, "num_return_sequences": 1}, {"beam_width": 2, "num_return": 1}),
        ({"n": 3}, {"num_return": 3}),
        ({"max_tokens": 5, "length_penalty": 0.5}, {"max_tokens": 5, "length_penalty": 0.5}),
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"early_stopping": "never", "scoring": "hf"}, {"early_stopping": "never", "scoring": "hf"}),
        ({"early_stopping": True}, {"early_stopping": True}),
        ({"stop": "x", "min_tokens": 2, "bad_words": ["y"]}, {"stop": ("x",), "min_tokens": 2, "bad_words": ("y",)}),
        ({"temperature": 0.5, "logit_bias": {"7": 2}}, {"temperature": 0.5, "logit_bias": {7: 2.0}}),
        ({"response_format": {"type": "json_object"}}, {"structured_outputs": StructuredOutputsParams(json_object=True)}),
        ({"use_beam_search": True, "top_p": 1, "beam_width": None}, {}),
    ],
)
def test_a_record_has_the_last_word(byte_tokenizer: Any, fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    pending = prepare(make_task(byte_tokenizer), **fields)
    assert pending.error is None
    assert pending.beam == BeamSearchParams(**{"beam_width": 4, "max_tokens": 16, **wanted})
    request = pending.to_request()
    assert request.beam is pending.beam
    assert request.params == pending.beam.sampling()
    assert not pending.extra


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"beam_width": 65}, "invalid_value", "beam_width"),
        ({"beam_width": "4"}, "invalid_type", "beam_width"),
        ({"num_return": 5}, "invalid_value", "num_return"),
        ({"n": 5}, "invalid_value", "num_return"),
        ({"scoring": "mine"}, "invalid_value", "scoring"),
        ({"early_stopping": "sometimes"}, "invalid_value", "early_stopping"),
        ({"length_penalty": "1"}, "invalid_type", "length_penalty"),
        ({"top_p": 0.5}, "unsupported", "top_p"),
        ({"seed": 5}, "unsupported", "seed"),
        ({"prompt_logprobs": 1}, "unsupported", "prompt_logprobs"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"min_tokens": 20}, "invalid_value", "min_tokens"),
    ],
)
def test_what_is_wrong_is_told(byte_tokenizer: Any, fields: dict[str, Any], code: str, param: str) -> None:
    error = prepare(make_task(byte_tokenizer), **fields).error
    assert error is not None
    assert (error.code, error.param) == (code, param)


def test_lines_of_other_commands_are_named(byte_tokenizer: Any) -> None:
    task = make_task(byte_tokenizer)
    (pending,) = task.prepare([Record(index=0, line=1, size=2, fields={"messages": [{"role": "user", "content": "x"}]})])
    assert pending.error is not None
    assert "infer chat" in pending.error.message


def test_the_row_has_scores_best_first(byte_tokenizer: Any) -> None:
    task = make_task(byte_tokenizer)
    pending = prepare(task, id="a", colour="red")
    choices = [
        CompletionOutput(i, text, [97 + i], "stop", stop, cumulative_logprob=-2.0 - i, score=-0.5 - i)
        for i, (text, stop) in enumerate([("x", None), ("y", "end")])
    ]
    row = task.to_row(pending, RequestOutput("3", None, [256, 97, 98], choices))
    assert row == {
        "index": 3,
        "id": "a",
        "choices": [
            {"index": 0, "text": "x", "finish_reason": "stop", "score": -0.5, "cumulative_logprob": -2.0},
            {"index": 1, "text": "y", "finish_reason": "stop", "stop_reason": "end", "score": -1.5, "cumulative_logprob": -3.0},
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "error": None,
        "extra": {"colour": "red"},
    }
