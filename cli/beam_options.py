"""The options that set the default BeamSearchParams of `infer beam`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from infer.core.errors import RecordError
from infer.core.types.beam_params import OF_TOKENS, SCORINGS, BeamSearchParams

from .command import Option, usage
from .sampling_options import given_sampling, sampling_options
from .value_types import number

F = TypeVar("F", bound=Callable[..., Any])

_BEAM = "infer.beam"
_EARLY = {"true": True, "false": False, "never": "never"}


def beam_options(command: F) -> F:
    """Adds the options of the search, and those of sampling that mean something in one."""
    command = sampling_options(command, only={"max_tokens", *OF_TOKENS}, unless_given={"temperature": 0.0})
    options = (
        ("--width", "beam_width", click.INT, 4, "Beams kept at each step; at most 64."),
        ("--num-return", "num_return", click.INT, None, "Continuations to write, best first; default: all of --width."),
        ("--length-penalty", "length_penalty", number(float, none=False), 1.0, "A score is the log-probability / length ** this."),
        (
            "--early-stopping",
            "early_stopping",
            click.Choice(list(_EARLY)),
            "false",
            "Stop at --width finished beams; never: only when no better one can come.",
        ),
        ("--scoring", "scoring", click.Choice(SCORINGS), "vllm", "What length is: prompt and output, or (hf) the output."),
    )
    for flag, name, type_, shown, text in reversed(options):
        option = click.option(
            flag,
            name,
            cls=Option,
            group="Search (a record's own fields win)",
            store=_BEAM,
            type=type_,
            default=None,
            shown=shown,
            help=text,
        )
        command = option(command)
    return command


def beam_params() -> BeamSearchParams:
    """The command's default BeamSearchParams. Raises click.UsageError for values out of range."""
    given = dict(click.get_current_context().meta.get(_BEAM, {}))
    if "early_stopping" in given:
        given["early_stopping"] = _EARLY[given["early_stopping"]]
    known = BeamSearchParams.field_names()
    tokens = {name: value for name, value in given_sampling().items() if name in known}  # infer check has options of other tasks too
    if tokens.get("max_tokens", 16) is None:
        raise usage("--max-tokens none: a beam search needs a number.")
    try:
        return BeamSearchParams(**{"beam_width": 4, "max_tokens": 16, **tokens, **given})
    except RecordError as error:
        raise usage(str(error)) from None
