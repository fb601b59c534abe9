"""The options of `infer classify`: labels of a language model, and what becomes of a classifier's scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from infer.core.errors import RecordError
from infer.core.text.labels import checked

from ..command import Option, usage, with_options

F = TypeVar("F", bound=Callable[..., Any])

_CLASSIFY = "infer.classify"
_option = partial(click.option, cls=Option, store=_CLASSIFY, default=None)
_labels = partial(_option, group="Labels of a language model (a record's own labels win)")
_scores = partial(_option, group="Scores of a classifier")

_OPTIONS = [
    _labels("--label", "labels", multiple=True, metavar="TEXT", help="A label to choose from; repeat it for each."),
    _labels("--chat", is_flag=True, help="Ask through the chat template: a prompt that is text becomes a user message."),
    _labels(
        "--calibration-prompt",
        metavar="TEXT",
        help="Take off what the labels have after this prompt, which should ask the same about nothing (N/A); off unless given.",
    ),
    _scores(
        "--activation",
        type=click.Choice(["softmax", "sigmoid", "none"]),
        help="How scores become probabilities; none leaves them raw. Default: as the model's config.json says (problem_type).",
    ),
    _scores(
        "--threshold",
        type=click.FloatRange(0, 1),
        metavar="P",
        shown=0.5,
        help="Where labels do not exclude each other (sigmoid): `labels` are those of at least this probability.",
    ),
]


def classify_options(command: F) -> F:
    """Adds the options; read them with `given_labels()`."""
    decorated: F = with_options(command, _OPTIONS)
    return decorated


def given_labels() -> dict[str, Any]:
    """Those of these options that were given; `labels` is always there. Raises click.UsageError for labels that cannot be told apart."""
    given = {"labels": (), **click.get_current_context().meta.get(_CLASSIFY, {})}
    if given["labels"]:
        try:
            given["labels"] = checked(given["labels"])
        except RecordError as error:
            raise usage(f"--label: {error.message.removeprefix('labels: ')}") from None
    if given.get("activation") == "none":
        given["activation"] = "identity"
    if given.get("calibration_prompt") == "":
        raise usage("--calibration-prompt is empty; leave it out.")
    return given
