"""The options that set a command's default SamplingParams: one for each field a command line can set. Use them through `options.py`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import click

from infer.core.errors import RecordError
from infer.core.types.bounds import bounds_of
from infer.core.types.params import SamplingParams

from ..command import Option, usage
from .value_types import BIAS, JSON_OBJECT, TOKEN_IDS, number, text_or_file

F = TypeVar("F", bound=Callable[..., Any])

_SAMPLING = "infer.sampling"

#: Fields of SamplingParams that are no option, and why not.
NOT_OPTIONS = {
    "seed": "--seed is the run seed; a record's own seed is a field of the record",
    "logits_processors": "Python functions",
    "output_kind": "answers are written when they are finished",
    "structured_outputs": "its parts are options: see STRUCTURED",
    "guided_decoding": "vLLM's former name of structured_outputs",
}

#: Section of the help -> field -> what it does.
SAMPLING_HELP: dict[str, dict[str, str]] = {
    "Sampling (a record's own fields win)": {
        "n": "Outputs per record.",
        "best_of": "Compute this many outputs and write the --n likeliest of them.",
        "temperature": "0 is greedy.",
        "top_p": "Keep the most likely tokens whose probabilities reach this sum.",
        "top_k": "Keep the K most likely tokens; -1 keeps all.",
        "min_p": "Drop tokens less likely than this fraction of the most likely one.",
    },
    "Penalties and bans": {
        "presence_penalty": "Subtracted from the logit of tokens already in the output.",
        "frequency_penalty": "Subtracted from a token's logit once per occurrence in the output.",
        "repetition_penalty": "Above 1: tokens in prompt or output become less likely.",
        "logit_bias": "Added to the logits of these tokens: ID=BIAS, or a JSON object of them; may be repeated.",
        "allowed_token_ids": "No other tokens are drawn: an id, or several with commas; may be repeated.",
        "bad_words": "A text that is not produced; may be repeated.",
    },
    "Stopping": {
        "stop": "End the output before this text; may be repeated.",
        "stop_token_ids": "End the output after this token id; may be repeated.",
        "include_stop_str_in_output": "Keep the stop text.",
        "ignore_eos": "Do not end at the end-of-sequence token.",
        "max_tokens": "Most output tokens; auto: as many as --max-model-len leaves.",
        "min_tokens": "No end before this many output tokens.",
        "repetition_detection": 'End an output that repeats itself: {"max_pattern_size": 20, "min_count": 4} where up to 20 tokens '
        "stand 4 times in a row.",
        "thinking_token_budget": "Most tokens of reasoning: the text that ends it is then written; -1: no limit.",
    },
    "Long prompts": {
        "truncate_prompt_tokens": "Cut prompts to this many tokens; -1: to what leaves room for one output token.",
        "truncation_side": "The end of the prompt that is cut off.",
        "skip_reading_prefix_cache": "Compute whole prompts, even where their beginnings are known.",
    },
    "Output": {
        "logprobs": "Report the log-probabilities of the K most likely tokens; -1: of all.",
        "logprob_token_ids": "Report those of these tokens too: an id, or several with commas; may be repeated.",
        "prompt_logprobs": "Report log-probabilities of the prompt's tokens in the same way.",
        "prompt_logprob_start": "Only those after this place of the prompt (0 is its first token).",
        "skip_special_tokens": "Leave special tokens out of the text.",
        "spaces_between_special_tokens": "Spaces around special tokens in the text, where a slow tokenizer writes them.",
        "detokenize": "Turn tokens into text; without it answers hold token ids.",
        "return_token_ids": "Write the token ids of prompt and output beside the text.",
    },
}

STRUCTURED_GROUP = "Structured output (one of these; a record's own constraint wins)"

#: Option -> field of StructuredOutputsParams, how its value is written, what it does.
STRUCTURED: dict[str, tuple[str, str, str]] = {
    "json_schema": ("json", "FILE|JSON", "Outputs are JSON that this schema allows."),
    "json_object": ("json_object", "", "Outputs are JSON objects."),
    "regex": ("regex", "REGEX", "The whole output matches this regular expression."),
    "choice": ("choice", "TEXT", "Outputs are one of these; repeat it for each."),
    "grammar": ("grammar", "FILE", "Outputs follow this EBNF grammar, from its rule root."),
    "structural_tag": ("structural_tag", "FILE|JSON", "Parts of outputs between tags follow schemas, as xgrammar's structural tags say."),
    "structured_outputs": ("", "JSON", "Any of these as one JSON object, with the fields of StructuredOutputsParams."),
}

#: What --truncate stands for.
TRUNCATE: dict[str, dict[str, Any]] = {
    "left": {"truncate_prompt_tokens": -1, "truncation_side": "left"},
    "right": {"truncate_prompt_tokens": -1, "truncation_side": "right"},
    "error": {"truncate_prompt_tokens": None},
}


def sampling_options(command: F, *, only: Collection[str] | None = None, unless_given: Mapping[str, Any] | None = None) -> F:
    """Adds an option for each field of SamplingParams a command line can set.

    Args:
        only: those of these fields alone.
        unless_given: defaults to show, where the command has its own.
    """
    by_name = {f.name: f for f in dataclasses.fields(SamplingParams)}
    for name, (_, metavar, text) in reversed(STRUCTURED.items()):
        command = _structured_option(name, metavar, text)(command)
    for group, names in reversed(SAMPLING_HELP.items()):
        if group == "Long prompts":
            command = truncate_option(command, group=group)
        for name, text in reversed(names.items()):
            if only is None or name in only:
                shown = {**(unless_given or {})}.get(name, by_name[name].default)
                command = _sampling_option(by_name[name], group, text, shown)(command)
    return command


def _sampling_option(f: dataclasses.Field[Any], group: str, text: str, shown: Any) -> Callable[[F], F]:
    flag = "--" + f.name.replace("_", "-")
    kind = str(f.type)
    type_: Any
    if kind == "bool":
        flag, type_ = f"{flag}/--no-{flag[2:]}", click.BOOL
    elif kind.startswith("tuple"):
        type_ = TOKEN_IDS if "int" in kind else click.STRING
    elif kind.startswith("dict"):
        type_ = BIAS
    elif kind.startswith("RepetitionDetectionParams"):
        type_ = JSON_OBJECT
    elif "choices" in f.metadata:
        type_ = click.Choice(f.metadata["choices"])
    else:
        bounds = bounds_of(f)
        assert bounds is not None
        type_ = number(float if bounds.kind == "float" else int, none=bounds.none, auto=f.name == "max_tokens")
    return click.option(
        flag,
        f.name,
        cls=Option,
        group=group,
        store=_SAMPLING,
        type=type_,
        multiple=kind.startswith(("tuple", "dict")),
        default=None,
        shown=shown,
        help=text,
    )


def truncate_option(command: F, *, group: str = "Texts (a record's own fields win)") -> F:
    """Adds --truncate, which `sampling_params` reads, or `given_truncate`."""
    return click.option(
        "--truncate",
        cls=Option,
        group=group,
        store=_SAMPLING,
        type=click.Choice(list(TRUNCATE)),
        shown="error",
        help="What to do with a prompt that is too long: cut off an end of it, or make it the record's error.",
    )(command)


def _structured_option(name: str, metavar: str, text: str) -> Callable[[F], F]:
    kwargs: dict[str, Any]
    if not metavar:
        kwargs = {"is_flag": True}
    else:
        kwargs = {"type": text_or_file(metavar) if "FILE" in metavar else click.STRING, "metavar": metavar, "multiple": name == "choice"}
    flag = "--" + name.replace("_", "-")
    return click.option(flag, name, cls=Option, group=STRUCTURED_GROUP, store=_SAMPLING, default=None, help=text, **kwargs)


def given_truncate() -> str | None:
    """The end that --truncate says is cut off; None: nothing is."""
    side = click.get_current_context().meta.get(_SAMPLING, {}).get("truncate")
    return None if side == "error" else side


def given_sampling() -> dict[str, Any]:
    """The sampling fields given on the running command's line. Raises click.UsageError where two options contradict."""
    given = dict(click.get_current_context().meta.get(_SAMPLING, {}))
    structured = {name: given.pop(name) for name in STRUCTURED if name in given}
    for name, value in given.items():
        if name == "logit_bias":
            given[name] = {token: bias for part in value for token, bias in part.items()}
        elif isinstance(value, tuple):
            given[name] = tuple(one for part in value for one in (part if isinstance(part, tuple) else (part,)))
    if structured:
        given["structured_outputs"] = _structured(structured)
    truncate = given.pop("truncate", None)
    if truncate is None:
        return given
    if truncate == "error" and "truncate_prompt_tokens" in given:
        raise usage("--truncate error and --truncate-prompt-tokens contradict each other; give one.")
    if "truncation_side" in given:
        raise usage("--truncate and --truncation-side both say which end is cut off; give one.")
    return {**TRUNCATE[truncate], **given}


def _structured(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of StructuredOutputsParams."""
    if "structured_outputs" not in given:
        return {STRUCTURED[name][0]: value for name, value in given.items()}
    if len(given) > 1:
        other = next(name for name in given if name != "structured_outputs")
        raise usage(f"--structured-outputs and --{other.replace('_', '-')} contradict each other; give one.")
    try:
        fields = json.loads(given["structured_outputs"])
    except ValueError as error:
        raise usage(f"--structured-outputs is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise usage(f"--structured-outputs must be a JSON object, not {type(fields).__name__}")
    return fields


def sampling_params(**unless_given: Any) -> SamplingParams:
    """The command's default SamplingParams. Raises click.UsageError for values out of range.

    Args:
        unless_given: fields of which this command has a default of its own.
    """
    try:
        return SamplingParams(**{**unless_given, **given_sampling()})
    except RecordError as error:
        raise usage(str(error)) from None
