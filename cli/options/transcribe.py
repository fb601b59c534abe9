"""The options that say how `infer transcribe` reads sounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from infer.core.text.speech.transcript import SpeechParams

from ..command import Option, with_options
from .value_types import number

F = TypeVar("F", bound=Callable[..., Any])

_SPEECH = "infer.speech"
_option = partial(click.option, cls=Option, group="Speech (a record's own fields win)", store=_SPEECH, default=None)
_DEFAULT = SpeechParams()


def speech_options(command: F) -> F:
    """Adds the options; read them with `speech_params()`."""
    ladder = " ".join(f"{one:g}" for one in _DEFAULT.temperatures)
    options = [
        _option("--language", metavar="CODE", help="Language of the sounds (en, or english); default: the model detects it."),
        _option("--translate", is_flag=True, type=click.BOOL, help="Translate into English, in place of writing what is said."),
        _option(
            "--timestamps/--no-timestamps", type=click.BOOL, shown=True, help="Have the model say when; without, one window is one text."
        ),
        _option(
            "--temperature",
            type=number(float, none=False),
            multiple=True,
            shown=ladder,
            help="Tried in turn until an output is good enough; repeat for several.",
        ),
        _threshold("--compression-ratio-threshold", "An output that compresses better than this repeats itself."),
        _threshold("--logprob-threshold", "An output whose tokens are less likely than this on average is doubtful."),
        _threshold("--no-speech-threshold", "A doubtful one is left out where silence is likelier than this."),
        _option(
            "--condition-on-prev-tokens/--no-condition-on-prev-tokens",
            type=click.BOOL,
            shown=False,
            help="Begin each window with what was said before it.",
        ),
        _option("--beams", "num_beams", type=click.IntRange(1, 64), metavar="N", shown=1, help="Beams of a search, at temperature 0."),
        _option(
            "--response-format",
            type=click.Choice(["json", "text", "srt", "verbose_json", "vtt"]),
            shown="verbose_json",
            help="Form of answers: text alone, with segments, or text that is subtitles.",
        ),
    ]
    return with_options(command, options)


def _threshold(name: str, text: str) -> Callable[[Any], Any]:
    shown = getattr(_DEFAULT, name.lstrip("-").replace("-", "_"))
    return _option(name, type=number(float, none=True), shown=shown, help=f"{text[:-1]}; none: off.")


def speech_params() -> tuple[SpeechParams, str | None]:
    """(the options that apply to every sound, the response format or None), as the command line gives them."""
    given = dict(click.get_current_context().meta.get(_SPEECH, {}))
    form = given.pop("response_format", None)
    if given.pop("translate", None):
        given["task"] = "translate"
    if temperatures := given.pop("temperature", None):
        given["temperatures"] = tuple(temperatures)
    return SpeechParams(**given), form
