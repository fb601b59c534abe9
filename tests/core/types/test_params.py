"""SamplingParams: defaults, ranges, every message (in Python and of a record), and a record's fields over the command's."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.jobs.record import Record
from infer.core.jobs.tasks import CompletionOptions, GenerateTask
from infer.core.types.params import ALIASES, MAX_BIAS, NOT_SUPPORTED_YET, RequestOutputKind, SamplingParams
from infer.core.types.structured import GuidedDecodingParams, StructuredOutputsParams


def test_defaults_are_the_reference_ones() -> None:
    assert {f.name: getattr(SamplingParams(), f.name) for f in fields(SamplingParams)} == {
        "n": 1,
        "best_of": None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "seed": None,
        "stop": (),
        "stop_token_ids": (),
        "bad_words": (),
        "include_stop_str_in_output": False,
        "ignore_eos": False,
        "max_tokens": 16,
        "min_tokens": 0,
        "repetition_detection": None,
        "thinking_token_budget": None,
        "logprobs": None,
        "prompt_logprobs": None,
        "prompt_logprob_start": 0,
        "logprob_token_ids": None,
        "detokenize": True,
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "logits_processors": (),
        "truncate_prompt_tokens": None,
        "truncation_side": "left",
        "output_kind": RequestOutputKind.CUMULATIVE,
        "structured_outputs": None,
        "guided_decoding": None,
        "logit_bias": None,
        "allowed_token_ids": None,
        "skip_reading_prefix_cache": False,
        "return_token_ids": False,
    }


@pytest.mark.parametrize(("temperature", "greedy"), [(0, True), (9e-6, True), (1e-5, False), (1.0, False)])
def test_greedy(temperature: float, greedy: bool) -> None:
    assert SamplingParams(temperature=temperature).greedy is greedy


# fmt: off
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"n": 0}, "invalid_value", "n must be at least 1 and at most 16384, not 0"),
    ({"n": 16385}, "invalid_value", "n must be at least 1 and at most 16384, not 16385"),
    ({"n": 1.5}, "invalid_type", "n must be an integer, not float"),
    ({"n": True}, "invalid_type", "n must be an integer, not bool"),
    ({"n": 2, "temperature": 0}, "invalid_value", "n: greedy decoding (temperature 0) gives one output, not 2"),
    ({"best_of": 0}, "invalid_value", "best_of must be at least 1 and at most 16384, not 0"),
    ({"best_of": "2"}, "invalid_type", "best_of must be an integer, not str"),
    ({"best_of": True}, "invalid_type", "best_of must be an integer, not bool"),
    ({"best_of": 2, "n": 3}, "invalid_value", "best_of 2 is below n 3"),
    ({"best_of": 2, "temperature": 0}, "invalid_value", "best_of: greedy decoding (temperature 0) gives one output, not 2"),
    ({"presence_penalty": 2.1}, "invalid_value", "presence_penalty must be at least -2 and at most 2, not 2.1"),
    ({"presence_penalty": "x"}, "invalid_type", "presence_penalty must be a number, not str"),
    ({"frequency_penalty": -3}, "invalid_value", "frequency_penalty must be at least -2 and at most 2, not -3"),
    ({"frequency_penalty": [1]}, "invalid_type", "frequency_penalty must be a number, not list"),
    ({"repetition_penalty": 0}, "invalid_value", "repetition_penalty must be above 0, not 0"),
    ({"repetition_penalty": False}, "invalid_type", "repetition_penalty must be a number, not bool"),
    ({"temperature": -1}, "invalid_value", "temperature must be at least 0, not -1"),
    ({"temperature": math.nan}, "invalid_value", "temperature must be at least 0, not nan"),
    ({"temperature": math.inf}, "invalid_value", "temperature must be at least 0, not inf"),
    ({"temperature": "hot"}, "invalid_type", "temperature must be a number, not str"),
    ({"temperature": None}, "invalid_type", "temperature must be a number, not NoneType"),
    ({"top_p": 0}, "invalid_value", "top_p must be above 0 and at most 1, not 0"),
    ({"top_p": 1.5}, "invalid_value", "top_p must be above 0 and at most 1, not 1.5"),
    ({"top_p": "all"}, "invalid_type", "top_p must be a number, not str"),
    ({"top_k": -2}, "invalid_value", "top_k must be at least -1, not -2"),
    ({"top_k": 1.0}, "invalid_type", "top_k must be an integer, not float"),
    ({"min_p": 1.01}, "invalid_value", "min_p must be at least 0 and at most 1, not 1.01"),
    ({"min_p": {}}, "invalid_type", "min_p must be a number, not dict"),
    ({"seed": -2}, "invalid_value", f"seed must be at least -1 and at most {2**63 - 1}, not -2"),
    ({"seed": 2**63}, "invalid_value", f"seed must be at least -1 and at most {2**63 - 1}, not {2**63}"),
    ({"seed": 0.5}, "invalid_type", "seed must be an integer, not float"),
    ({"stop": [""]}, "invalid_value", "stop: a stop string cannot be empty"),
    ({"stop": ""}, "invalid_value", "stop: a stop string cannot be empty"),
    ({"stop": [1]}, "invalid_type", "stop must be a list of strings; one is int"),
    ({"stop": 1}, "invalid_type", "stop must be a list of strings, not int"),
    ({"stop": "x", "detokenize": False}, "invalid_value", "stop: stop strings need detokenize=true"),
    ({"stop_token_ids": [-1]}, "invalid_value", "stop_token_ids: token ids cannot be negative"),
    ({"stop_token_ids": [True]}, "invalid_type", "stop_token_ids must be a list of token ids; one is bool"),
    ({"stop_token_ids": 5}, "invalid_type", "stop_token_ids must be a list of token ids, not int"),
    ({"bad_words": [""]}, "invalid_value", "bad_words: a bad word cannot be empty"),
    ({"bad_words": [1]}, "invalid_type", "bad_words must be a list of strings; one is int"),
    ({"bad_words": "x"}, "invalid_type", "bad_words must be a list of strings, not str"),
    ({"include_stop_str_in_output": 1}, "invalid_type", "include_stop_str_in_output must be true or false, not int"),
    ({"ignore_eos": "yes"}, "invalid_type", "ignore_eos must be true or false, not str"),
    ({"max_tokens": 0}, "invalid_value", "max_tokens must be at least 1, not 0"),
    ({"prompt_logprob_start": -1}, "invalid_value", "prompt_logprob_start must be at least 0, not -1"),
    ({"logprob_token_ids": []}, "invalid_value", "logprob_token_ids must be 1 to 128 token ids, not 0"),
    ({"max_tokens": "many"}, "invalid_type", "max_tokens must be an integer, not str"),
    ({"min_tokens": -1}, "invalid_value", "min_tokens must be at least 0, not -1"),
    ({"min_tokens": 1.5}, "invalid_type", "min_tokens must be an integer, not float"),
    ({"min_tokens": 17}, "invalid_value", "min_tokens 17 is above max_tokens 16"),
    ({"thinking_token_budget": -2}, "invalid_value", "thinking_token_budget must be at least -1, not -2"),
    ({"thinking_token_budget": 1.0}, "invalid_type", "thinking_token_budget must be an integer, not float"),
    ({"repetition_detection": [2]}, "invalid_type", "repetition_detection must be an object, not list"),
    (
        {"repetition_detection": {"max_pattern_size": 4}},
        "invalid_value",
        "repetition_detection: min_count must be at least 2; max_pattern_size 0 looks for no repetition",
    ),
    ({"logprobs": -2}, "invalid_value", "logprobs must be at least -1, not -2"),
    ({"logprobs": "all"}, "invalid_type", "logprobs must be an integer, not str"),
    ({"prompt_logprobs": -2}, "invalid_value", "prompt_logprobs must be at least -1, not -2"),
    ({"prompt_logprobs": 0.5}, "invalid_type", "prompt_logprobs must be an integer, not float"),
    ({"detokenize": 0}, "invalid_type", "detokenize must be true or false, not int"),
    ({"skip_special_tokens": "no"}, "invalid_type", "skip_special_tokens must be true or false, not str"),
    ({"spaces_between_special_tokens": 1}, "invalid_type", "spaces_between_special_tokens must be true or false, not int"),
    ({"logits_processors": [1]}, "invalid_type", "logits_processors must be a list of functions, not tuple"),
    ({"truncate_prompt_tokens": 0}, "invalid_value", "truncate_prompt_tokens must be at least 1, or -1, not 0"),
    ({"truncate_prompt_tokens": -2}, "invalid_value", "truncate_prompt_tokens must be at least -1, not -2"),
    ({"truncate_prompt_tokens": True}, "invalid_type", "truncate_prompt_tokens must be an integer, not bool"),
    ({"truncation_side": "middle"}, "invalid_value", "truncation_side must be left or right, not 'middle'"),
    ({"output_kind": 1}, "invalid_type", "output_kind must be a RequestOutputKind, not int"),
    ({"structured_outputs": {}}, "invalid_value",
     "structured_outputs: exactly one of json, regex, choice, grammar, json_object, structural_tag must be given; none is given"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "invalid_value",
     "structured_outputs: exactly one of json, regex, choice, grammar, json_object, structural_tag must be given; "
     "regex and choice are given"),
    ({"structured_outputs": {"regexp": "a"}}, "invalid_value", "structured_outputs has no 'regexp'; did you mean 'regex'?"),
    ({"structured_outputs": "a"}, "invalid_type", "structured_outputs must be an object, not str"),
    ({"structured_outputs": {"regex": 5}}, "invalid_type", "structured_outputs: regex must be a string, not int"),
    ({"structured_outputs": {"regex": ""}}, "invalid_value", "structured_outputs: regex is empty"),
    ({"structured_outputs": {"grammar": ""}}, "invalid_value", "structured_outputs: grammar is empty"),
    ({"structured_outputs": {"choice": []}}, "invalid_value", "structured_outputs: choice is empty"),
    ({"structured_outputs": {"choice": ["a", ""]}}, "invalid_value", "structured_outputs: a choice cannot be empty"),
    ({"structured_outputs": {"choice": "a"}}, "invalid_type", "structured_outputs: choice must be a list of strings, not str"),
    ({"structured_outputs": {"json": [1]}}, "invalid_type", "structured_outputs: json must be a JSON object, not list"),
    ({"structured_outputs": {"json_object": 1}}, "invalid_type", "structured_outputs: json_object must be true or false, not int"),
    ({"structured_outputs": {"regex": "a", "backend": "outlines"}}, "invalid_value",
     "structured_outputs: backend 'outlines' is not there; structured output is llguidance's: auto, guidance, xgrammar"),
    ({"structured_outputs": {"json_object": True, "disable_any_whitespace": 1}}, "invalid_type",
     "structured_outputs: disable_any_whitespace must be true or false, not int"),
    ({"logit_bias": [1]}, "invalid_type", "logit_bias must be an object of token ids and numbers, not list"),
    ({"logit_bias": {"a": 1}}, "invalid_value", "logit_bias: 'a' is not a token id"),
    ({"logit_bias": {"-1": 1}}, "invalid_value", "logit_bias: '-1' is not a token id"),
    ({"logit_bias": {"1": "x"}}, "invalid_type", "logit_bias must be an object of token ids and numbers, not str"),
    ({"logit_bias": {1: math.nan}}, "invalid_value", "logit_bias: the bias of token 1 is not finite"),
    ({"allowed_token_ids": []}, "invalid_value", "allowed_token_ids is empty: no token could be drawn"),
    ({"allowed_token_ids": [-5]}, "invalid_value", "allowed_token_ids: token ids cannot be negative"),
    ({"allowed_token_ids": ["a"]}, "invalid_type", "allowed_token_ids must be a list of token ids; one is str"),
    ({"skip_reading_prefix_cache": 1}, "invalid_type", "skip_reading_prefix_cache must be true or false, not int"),
    ({"return_token_ids": "yes"}, "invalid_type", "return_token_ids must be true or false, not str"),
]
# fmt: on


@pytest.mark.parametrize(("given", "code", "message"), WRONG, ids=lambda v: str(v)[:60])
def test_what_is_refused_and_how(given: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        SamplingParams(**given)
    assert (caught.value.code, caught.value.message) == (code, message)
    assert caught.value.param in given


#: Fields that no record has a say in.
IN_PYTHON = frozenset({"logits_processors", "output_kind"})


def json_of(given: dict[str, Any]) -> str | None:
    """These parameters as a record, if JSON has them."""
    try:
        return None if IN_PYTHON & set(given) or None in given.values() else json.dumps({"prompt": "a", **given}, allow_nan=False)
    except ValueError:
        return None


@pytest.mark.parametrize(("given", "code", "message"), [row for row in WRONG if json_of(row[0])], ids=lambda v: str(v)[:60])
def test_a_record_is_told_the_same(byte_tokenizer: Any, given: dict[str, Any], code: str, message: str) -> None:
    task = GenerateTask(CompletionOptions(), byte_tokenizer, max_model_len=64)
    (pending,) = task.prepare([Record.parse(0, 1, 1, str(json_of(given)).encode())])
    assert pending.error is not None
    assert (pending.error.code, pending.error.message) == (code, message)
    assert pending.error.param in given


def test_every_field_has_a_message() -> None:
    named = {name for given, _, _ in WRONG for name in given}
    assert named | {"guided_decoding"} == SamplingParams.field_names()


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop": None}, {}),
        ({"stop_token_ids": [1]}, {"stop_token_ids": (1,)}),
        ({"bad_words": ["x"]}, {"bad_words": ("x",)}),
        ({"bad_words": None}, {}),
        ({"seed": -1}, {}),
        ({"max_tokens": "auto"}, {"max_tokens": None}),
        ({"logprobs": True}, {"logprobs": 1}),
        ({"logprobs": False}, {}),
        ({"prompt_logprobs": True}, {"prompt_logprobs": 1}),
        ({"logit_bias": {}}, {}),
        ({"logit_bias": {"3": 1}}, {"logit_bias": {3: 1.0}}),
        ({"logit_bias": {3: 1e9, 4: -1e9}}, {"logit_bias": {3: MAX_BIAS, 4: -MAX_BIAS}}),
        ({"allowed_token_ids": [1, 2]}, {"allowed_token_ids": (1, 2)}),
        ({"logits_processors": [print]}, {"logits_processors": (print,)}),
        ({"structured_outputs": {"regex": "a"}}, {"structured_outputs": StructuredOutputsParams(regex="a")}),
        ({"guided_decoding": GuidedDecodingParams(regex="a")}, {"structured_outputs": StructuredOutputsParams(regex="a")}),
        ({"guided_decoding": GuidedDecodingParams(choice=["a"])}, {"structured_outputs": StructuredOutputsParams(choice=("a",))}),
    ],
    ids=str,
)
def test_spellings_that_mean_the_same(given: dict[str, Any], same: dict[str, Any]) -> None:
    assert SamplingParams(**given) == SamplingParams(**same)


def test_two_names_for_one_constraint() -> None:
    with pytest.raises(RecordError, match="guided_decoding and structured_outputs are the same: give one"):
        SamplingParams(guided_decoding=GuidedDecodingParams(regex="a"), structured_outputs=StructuredOutputsParams(regex="a"))
    with pytest.raises(RecordError, match="exactly one of"):
        GuidedDecodingParams(regex="a", choice=["b"])


def test_choices_to_compute() -> None:
    assert [SamplingParams(**kw).num_choices for kw in ({}, {"n": 3}, {"best_of": 4}, {"n": 2, "best_of": 4})] == [1, 3, 4, 4]  # type: ignore[arg-type]


def test_a_copy_is_checked_again() -> None:
    params = SamplingParams(stop=["a"])  # type: ignore[arg-type]
    assert params.clone() == params
    assert params.clone() is not params
    params.temperature = -1.0
    with pytest.raises(RecordError, match="temperature must be at least 0"):
        params.clone()


def test_a_record_overrides_field_by_field() -> None:
    command = SamplingParams(temperature=0.5, max_tokens=64)
    record = command.override({"max_completion_tokens": 8, "top_p": 0.9, "seed": 3})
    assert (record.temperature, record.max_tokens, record.top_p, record.seed) == (0.5, 8, 0.9, 3)
    assert command.max_tokens == 64
    assert command.override({"temperature": None}) is command


def test_a_record_may_contradict_the_command_only_in_itself() -> None:
    with pytest.raises(RecordError, match="greedy decoding"):
        SamplingParams(temperature=0).override({"n": 2})
    assert SamplingParams(temperature=0).override({"n": 2, "temperature": 1.0}).n == 2


def test_a_records_constraint_takes_the_place_of_the_commands() -> None:
    command = SamplingParams(structured_outputs=StructuredOutputsParams(regex="a"))
    assert command.override({"structured_outputs": {"choice": ["b"]}}).structured_outputs == StructuredOutputsParams(choice=("b",))
    assert command.override({"top_k": 1}).structured_outputs == StructuredOutputsParams(regex="a")


@pytest.mark.parametrize("name", sorted(NOT_SUPPORTED_YET))
def test_known_but_not_built_is_refused_by_name(name: str) -> None:
    with pytest.raises(RecordError) as caught:
        SamplingParams().override({name: 1})
    assert (caught.value.code, caught.value.message, caught.value.param) == ("unsupported", f"{name} is not supported yet", name)
    assert SamplingParams().override({name: None}) == SamplingParams()


@pytest.mark.parametrize("name", sorted(IN_PYTHON))
def test_what_no_record_can_say(name: str) -> None:
    with pytest.raises(RecordError, match=f"^{name} can only be given in Python$"):
        SamplingParams().override({name: ["x"]})


def test_an_unknown_name_is_told_its_neighbour() -> None:
    with pytest.raises(RecordError, match=r"unknown sampling parameter 'max_token'; did you mean 'max_tokens'\?") as caught:
        SamplingParams().override({"max_token": 5})
    assert caught.value.code == "unknown_field"


def test_names_do_not_overlap() -> None:
    assert not NOT_SUPPORTED_YET & SamplingParams.field_names()
    assert set(ALIASES.values()) <= SamplingParams.field_names()
