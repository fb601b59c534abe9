"""Every sampling field as a flag: what it becomes, what is said of mistakes, and who wins over whom."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from infer.cli.options import Command, given_sampling, sampling_options, sampling_params
from infer.cli.options.sampling import NOT_OPTIONS, SAMPLING_HELP, STRUCTURED
from infer.core.build.generation_config import sampling_defaults
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.record import Record
from infer.core.jobs.tasks import CompletionOptions, GenerateTask
from infer.core.jobs.tasks.defaults import with_model_defaults
from infer.core.types.params import SamplingParams
from infer.core.types.structured import StructuredOutputsParams as Structured

seen: dict[str, Any] = {}


@click.command(cls=Command)
@sampling_options
def toy() -> None:
    """A command that only samples."""
    seen.update(given=given_sampling(), params=sampling_params())


def invoke(*argv: str) -> Result:
    seen.clear()
    return CliRunner().invoke(toy, list(argv))


def given(*argv: str) -> dict[str, Any]:
    """The fields that these flags set; every one of them is in the SamplingParams too."""
    result = invoke(*argv)
    assert result.exit_code == 0, result.output
    fields: dict[str, Any] = seen["given"]
    assert seen["params"] == SamplingParams(**fields)
    return fields


LOOPS = '{"max_pattern_size": 9, "min_count": 3}'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}

# fmt: off
FLAGS: list[tuple[list[str], dict[str, Any]]] = [
    (["--n", "2"], {"n": 2}),
    (["--best-of", "3"], {"best_of": 3}),
    (["--best-of", "none"], {"best_of": None}),
    (["--presence-penalty", "0.5"], {"presence_penalty": 0.5}),
    (["--frequency-penalty", "-1"], {"frequency_penalty": -1.0}),
    (["--repetition-penalty", "1.1"], {"repetition_penalty": 1.1}),
    (["--temperature", "0"], {"temperature": 0.0}),
    (["--top-p", ".9"], {"top_p": 0.9}),
    (["--top-k", "5"], {"top_k": 5}),
    (["--min-p", "0.1"], {"min_p": 0.1}),
    (["--stop", "a", "--stop", "b,c"], {"stop": ("a", "b,c")}),
    (["--stop-token-ids", "7"], {"stop_token_ids": (7,)}),
    (["--stop-token-ids", "7,8", "--stop-token-ids", "9"], {"stop_token_ids": (7, 8, 9)}),
    (["--bad-words", "x y", "--bad-words", "z"], {"bad_words": ("x y", "z")}),
    (["--include-stop-str-in-output"], {"include_stop_str_in_output": True}),
    (["--ignore-eos"], {"ignore_eos": True}),
    (["--no-ignore-eos"], {"ignore_eos": False}),
    (["--max-tokens", "none"], {"max_tokens": None}),
    (["--max-tokens", "auto"], {"max_tokens": None}),
    (["--max-tokens", "9"], {"max_tokens": 9}),
    (["--min-tokens", "3"], {"min_tokens": 3}),
    (["--repetition-detection", LOOPS], {"repetition_detection": json.loads(LOOPS)}),
    (["--thinking-token-budget", "64"], {"thinking_token_budget": 64}),
    (["--thinking-token-budget", "none"], {"thinking_token_budget": None}),
    (["--logprobs", "3"], {"logprobs": 3}),
    (["--logprobs", "-1"], {"logprobs": -1}),
    (["--prompt-logprobs", "2"], {"prompt_logprobs": 2}),
    (["--prompt-logprob-start", "3"], {"prompt_logprob_start": 3}),
    (["--logprob-token-ids", "1,2", "--logprob-token-ids", "3"], {"logprob_token_ids": (1, 2, 3)}),
    (["--no-detokenize"], {"detokenize": False}),
    (["--no-skip-special-tokens"], {"skip_special_tokens": False}),
    (["--no-spaces-between-special-tokens"], {"spaces_between_special_tokens": False}),
    (["--truncate-prompt-tokens", "-1"], {"truncate_prompt_tokens": -1}),
    (["--truncation-side", "right"], {"truncation_side": "right"}),
    (["--truncate", "left"], {"truncate_prompt_tokens": -1, "truncation_side": "left"}),
    (["--truncate", "right", "--truncate-prompt-tokens", "9"], {"truncate_prompt_tokens": 9, "truncation_side": "right"}),
    (["--truncate", "error"], {"truncate_prompt_tokens": None}),
    (["--logit-bias", "5=-100"], {"logit_bias": {"5": -100.0}}),
    (["--logit-bias", "5=1.5", "--logit-bias", '{"6": 2, "5": 3}'], {"logit_bias": {"5": 3, "6": 2}}),
    (["--allowed-token-ids", "1,2,3"], {"allowed_token_ids": (1, 2, 3)}),
    (["--skip-reading-prefix-cache"], {"skip_reading_prefix_cache": True}),
    (["--return-token-ids"], {"return_token_ids": True}),
    (["--regex", "a+"], {"structured_outputs": {"regex": "a+"}}),
    (["--choice", "yes", "--choice", "no"], {"structured_outputs": {"choice": ("yes", "no")}}),
    (["--json-object"], {"structured_outputs": {"json_object": True}}),
    (["--json-schema", json.dumps(SCHEMA)], {"structured_outputs": {"json": json.dumps(SCHEMA)}}),
    (["--structural-tag", '{"type": "structural_tag"}'], {"structured_outputs": {"structural_tag": '{"type": "structural_tag"}'}}),
    (["--structured-outputs", '{"json_object": true, "disable_any_whitespace": true}'],
     {"structured_outputs": {"json_object": True, "disable_any_whitespace": True}}),
]
# fmt: on


@pytest.mark.parametrize(("argv", "expected"), FLAGS, ids=lambda v: " ".join(v)[:50] if isinstance(v, list) else "")
def test_a_flag_sets_its_field(argv: list[str], expected: dict[str, Any]) -> None:
    found = given(*argv)
    assert found == expected
    for name in found:
        if name != "structured_outputs":
            assert type(getattr(seen["params"], name)) is type(getattr(SamplingParams(**expected), name))


def test_constraints_in_files(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "g.ebnf").write_text('root ::= "a"')
    given("--json-schema", str(tmp_path / "s.json"))
    assert seen["params"].structured_outputs == Structured(json=SCHEMA)  # type: ignore[arg-type]
    given("--grammar", str(tmp_path / "g.ebnf"))
    assert seen["params"].structured_outputs == Structured(grammar='root ::= "a"')


def test_every_field_is_an_option_or_says_why_not() -> None:
    options = {name for names in SAMPLING_HELP.values() for name in names}
    assert options | set(NOT_OPTIONS) == SamplingParams.field_names()
    assert not options & set(NOT_OPTIONS)
    constraint = {f.name for f in dataclasses.fields(Structured)}
    assert {field for field, _, _ in STRUCTURED.values() if field} < constraint
    covered = {name for _, expected in FLAGS for name in expected}
    assert covered == options | {"structured_outputs"}, "the table above has them all"


def test_nothing_given() -> None:
    assert given() == {}
    assert seen["params"] == SamplingParams()


def test_the_environment_has_the_same_names() -> None:
    CliRunner().invoke(toy, ["--top-k", "3"], env={"INFER_TEMPERATURE": "0", "INFER_TOP_K": "2", "INFER_STOP": "a b"})
    assert (seen["params"].temperature, seen["params"].top_k, seen["params"].stop) == (0.0, 3, ("a b",))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--top-p", "2"], "top_p must be above 0 and at most 1, not 2.0"),
        (["--n", "2", "--temperature", "0"], "n: greedy decoding (temperature 0) gives one output, not 2"),
        (["--best-of", "2", "--n", "3"], "best_of 2 is below n 3"),
        (["--n", "two"], "Invalid value for '--n': 'two' is not an integer"),
        (["--min-p", "none"], "Invalid value for '--min-p': 'none' is not a number"),
        (["--repetition-detection", "3"], "Invalid value for '--repetition-detection': '3' is not a JSON object"),
        (["--repetition-detection", "{"], "Invalid value for '--repetition-detection': '{' is not valid JSON"),
        (["--repetition-detection", '{"max_pattern_size": 3}'], "repetition_detection: min_count must be at least 2"),
        (["--stop", ""], "stop: a stop string cannot be empty"),
        (["--stop-token-ids", "a"], "Invalid value for '--stop-token-ids': 'a' is neither a token id nor several, separated by commas"),
        (
            ["--allowed-token-ids", "1,,2"],
            "Invalid value for '--allowed-token-ids': '1,,2' is neither a token id nor several, separated by commas",
        ),
        (["--logit-bias", "5"], "Invalid value for '--logit-bias': '5' is neither ID=BIAS, such as 42=-100, nor a JSON object of them"),
        (["--logit-bias", '{"a": 1}'], "logit_bias: 'a' is not a token id"),
        (["--logit-bias", "1=nan"], "logit_bias: the bias of token 1 is not finite"),
        (["--logit-bias", "-1=1"], "logit_bias: '-1' is not a token id"),
        (["--truncation-side", "middle"], "Invalid value for '--truncation-side': 'middle' is not one of 'left', 'right'."),
        (["--truncate", "left", "--truncation-side", "right"], "--truncate and --truncation-side both say which end is cut off; give one."),
        (
            ["--truncate", "error", "--truncate-prompt-tokens", "5"],
            "--truncate error and --truncate-prompt-tokens contradict each other; give one.",
        ),
        (["--json-schema", "{"], "structured_outputs: json is not valid JSON: "),
        (["--json-schema", "/nowhere/s.json"], "Invalid value for '--json-schema': '/nowhere/s.json' cannot be read: No such file"),
        (["--grammar", "/nowhere"], "Invalid value for '--grammar': '/nowhere' cannot be read: No such file"),
        (
            ["--regex", "a", "--choice", "b"],
            "structured_outputs: exactly one of json, regex, choice, grammar, json_object, structural_tag must",
        ),
        (["--structured-outputs", "{"], "--structured-outputs is not valid JSON: "),
        (["--structured-outputs", "[]"], "--structured-outputs must be a JSON object, not list"),
        (["--structured-outputs", '{"regexp": "a"}'], "structured_outputs has no 'regexp'; did you mean 'regex'?"),
        (["--structured-outputs", "{}", "--regex", "a"], "--structured-outputs and --regex contradict each other; give one."),
    ],
    ids=lambda v: " ".join(v)[:50] if isinstance(v, list) else "",
)
def test_wrong(argv: list[str], message: str) -> None:
    result = invoke(*argv)
    assert result.exit_code == 2
    assert result.stderr.strip().splitlines()[-1].startswith(f"Error: {message}")


def effective(
    byte_tokenizer: Any, argv: list[str], config: dict[str, Any] | None, record: dict[str, Any], *, said: Callable[[str], None] = print
) -> SamplingParams:
    """The parameters that a record gets with these flags and this generation_config.json."""
    plan: Any = SimpleNamespace(sampling_defaults=lambda: sampling_defaults(lambda name: config))
    with toy.make_context("toy", list(argv)):
        options = CompletionOptions(defaults=with_model_defaults(sampling_params(), given_sampling(), plan, said))
    task = GenerateTask(options, byte_tokenizer, max_model_len=64)
    (pending,) = task.prepare([Record.parse(0, 1, 1, dumps({"prompt": "a", **record}))])
    if pending.error is not None:
        raise pending.error
    assert pending.params is not None
    return pending.params


#: field -> name in generation_config.json, and a value there, of the flag and of the record.
FROM_CONFIG: dict[str, tuple[str, Any, Any, Any]] = {
    "temperature": ("temperature", 0.6, 0.7, 0.8),
    "top_p": ("top_p", 0.6, 0.7, 0.8),
    "top_k": ("top_k", 6, 7, 8),
    "min_p": ("min_p", 0.06, 0.07, 0.08),
    "repetition_penalty": ("repetition_penalty", 1.1, 1.2, 1.3),
    "presence_penalty": ("presence_penalty", 0.1, 0.2, 0.3),
    "frequency_penalty": ("frequency_penalty", 0.1, 0.2, 0.3),
    "max_tokens": ("max_new_tokens", 100, 101, 102),
}


@pytest.mark.parametrize("field", FROM_CONFIG)
def test_record_over_flag_over_generation_config_over_default(byte_tokenizer: Any, field: str) -> None:
    name, in_config, in_flag, in_record = FROM_CONFIG[field]
    config, flag, record = {name: in_config}, [f"--{field.replace('_', '-')}", str(in_flag)], {field: in_record}
    plain = SamplingParams()
    for argv, file, fields, wanted in [
        ([], None, {}, getattr(plain, field)),
        ([], config, {}, in_config),
        (flag, None, {}, in_flag),
        (flag, config, {}, in_flag),
        ([], config, record, in_record),
        (flag, config, record, in_record),
        (flag, config, {field: None}, in_flag),  # a null keeps what there is
        ([], config, {field: None}, in_config),
    ]:
        params = effective(byte_tokenizer, argv, file, fields)
        assert getattr(params, field) == wanted
        assert dataclasses.replace(params, **{field: getattr(plain, field)}) == plain, "no other field has changed"


#: A value of a flag, and of a record, for the fields that generation_config.json has no say in.
FLAG_AND_RECORD: dict[str, tuple[list[str], Any]] = {
    "n": (["--n", "2"], 3),
    "best_of": (["--best-of", "2"], 3),
    "stop": (["--stop", "a"], ["b"]),
    "stop_token_ids": (["--stop-token-ids", "1"], [2]),
    "bad_words": (["--bad-words", "a"], []),
    "include_stop_str_in_output": (["--include-stop-str-in-output"], False),
    "ignore_eos": (["--ignore-eos"], False),
    "min_tokens": (["--min-tokens", "2"], 0),
    "repetition_detection": (["--repetition-detection", '{"max_pattern_size": 9, "min_count": 3}'], {"max_pattern_size": 0}),
    "thinking_token_budget": (["--thinking-token-budget", "9"], -1),
    "logprobs": (["--logprobs", "2"], 0),
    "prompt_logprobs": (["--prompt-logprobs", "2"], 1),
    "prompt_logprob_start": (["--prompt-logprob-start", "2"], 1),
    "logprob_token_ids": (["--logprob-token-ids", "1"], [2, 3]),
    "detokenize": (["--detokenize"], True),
    "skip_special_tokens": (["--no-skip-special-tokens"], True),
    "spaces_between_special_tokens": (["--no-spaces-between-special-tokens"], True),
    "truncate_prompt_tokens": (["--truncate-prompt-tokens", "2"], 5),
    "truncation_side": (["--truncation-side", "right"], "left"),
    "structured_outputs": (["--regex", "a"], {"choice": ["b"]}),
    "logit_bias": (["--logit-bias", "1=1"], {"2": 3}),
    "allowed_token_ids": (["--allowed-token-ids", "1"], [2, 3]),
    "skip_reading_prefix_cache": (["--skip-reading-prefix-cache"], False),
    "return_token_ids": (["--return-token-ids"], False),
}


@pytest.mark.parametrize("field", FLAG_AND_RECORD)
def test_record_over_flag(byte_tokenizer: Any, field: str) -> None:
    flag, in_record = FLAG_AND_RECORD[field]
    invoke(*flag)
    of_flag, of_record = getattr(seen["params"], field), getattr(SamplingParams(**{field: in_record}), field)
    assert getattr(effective(byte_tokenizer, flag, None, {}), field) == of_flag
    assert getattr(effective(byte_tokenizer, flag, None, {field: None}), field) == of_flag
    assert getattr(effective(byte_tokenizer, flag, None, {field: in_record}), field) == of_record


def test_the_tables_have_every_field() -> None:
    assert set(FROM_CONFIG) | set(FLAG_AND_RECORD) | set(NOT_OPTIONS) == SamplingParams.field_names()


def test_what_generation_config_sets_is_said(byte_tokenizer: Any) -> None:
    said: list[str] = []
    effective(byte_tokenizer, ["--top-p", "0.5"], {"top_p": 0.9, "temperature": 0.6}, {}, said=said.append)
    assert len(said) == 1
    assert "temperature 0.6" in said[0]
    effective(byte_tokenizer, ["--top-p", "0.5"], {"top_p": 0.9, "eos_token_id": 5}, {}, said=said.append)
    effective(byte_tokenizer, [], None, {}, said=said.append)
    assert len(said) == 1, "what has no effect is not told"


def test_a_flag_that_contradicts_generation_config(byte_tokenizer: Any) -> None:
    from infer.core.errors import ConfigError

    with pytest.raises(ConfigError, match=r"greedy decoding .*generation_config.json sets temperature 0.0; --generation-config none"):
        effective(byte_tokenizer, ["--n", "2"], {"do_sample": False}, {})
