"""The options that set the default BeamSearchParams of `infer beam`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from infer.core.errors import RecordError
from infer.core.types.beam_params import OF_TOKENS, SCORINGS, BeamSearchParams

from ..command import Option, usage, with_options
from .sampling import given_sampling, sampling_options
from .value_types import number

F = TypeVar("F", bound=Callable[..., Any])

_BEAM = "infer.beam"
_option = partial(click.option, cls=Option, group="Search (a record's own fields win)", store=_BEAM, default=None)
_EARLY = {"true": True, "false": False, "never": "never"}


def beam_options(command: F) -> F:
    """Adds the options of the search, and those of sampling that mean something in one."""
    command = sampling_options(command, only={"max_tokens", *OF_TOKENS}, unless_given={"temperature": 0.0})
    options = [
        _option("--width", "beam_width", type=click.INT, shown=4, help="Beams kept at each step; at most 64."),
        _option("--num-return", type=click.INT, help="Continuations to write, best first; default: all of --width."),
        _option("--length-penalty", type=number(float, none=False), shown=1.0, help="A score is the log-probability / length ** this."),
        _option(
            "--early-stopping",
            type=click.Choice(list(_EARLY)),
            shown="false",
            help="Stop at --width finished beams; never: only when no better one can come.",
        ),
        _option("--scoring", type=click.Choice(SCORINGS), shown="vllm", help="What length is: prompt and output, or (hf) the output."),
    ]
    return with_options(command, options)


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
