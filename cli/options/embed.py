"""The options that say how `infer embed` and `infer score` make vectors of texts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeVar

import click

from ..command import Option, usage, with_options

F = TypeVar("F", bound=Callable[..., Any])

_POOLING = "infer.pooling"

_option = partial(click.option, cls=Option, store=_POOLING, default=None)
_vectors = partial(_option, group="Vectors (default: as the model's files say)")
_texts = partial(_option, group="Texts (a record's own fields win)")

_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "pooling": _vectors(
        "--pooling",
        type=click.Choice(["cls", "mean", "last", "all"]),
        help="Tokens that a vector is made of: the first, all together, or the last; with all, each token has its own.",
    ),
    "normalize": _vectors("--normalize/--no-normalize", type=click.BOOL, help="Scale vectors to length 1."),
    "dimensions": _vectors(
        "--dimensions", type=click.IntRange(min=1), metavar="N", help="Cut vectors to their first N values, if the model was made for that."
    ),
    "prompt_name": _texts(
        "--prompt-name", metavar="NAME", help="Put this prompt of the model's before texts; default: the one its files call the default."
    ),
    "prefix": _texts("--prefix", metavar="TEXT", help="Put this before texts, in place of a prompt of the model's."),
    "query_prefix": _texts(
        "--query-prefix", metavar="TEXT", help="Put this before query or text_1; default: the model's prompt for queries."
    ),
    "document_prefix": _texts(
        "--document-prefix", metavar="TEXT", help="Put this before documents or text_2; default: the model's prompt for documents."
    ),
    "encoding": _option(
        "--encoding",
        group="Rows",
        type=click.Choice(["float", "base64"]),
        shown="float",
        help="Vectors in lines: numbers, or base64 of their bytes.",
    ),
}
EMBED = frozenset({"pooling", "normalize", "dimensions", "prompt_name", "prefix", "encoding"})
SCORE = frozenset({"pooling", "normalize", "dimensions", "query_prefix", "document_prefix"})
BATCH = EMBED | SCORE


def pooling_options(command: F, *, only: Collection[str]) -> F:
    """Adds those of the options that are named; read them with `given_pooling()`."""
    return with_options(command, [option for name, option in _OPTIONS.items() if name in only])


def dtype_option(command: F) -> F:
    """Adds --embedding-dtype, a field of JobOptions."""
    return click.option(
        "--embedding-dtype",
        type=click.Choice(["float32", "float16", "int8", "binary"]),
        default="float32",
        show_default=True,
        help="Type of the values: int8 scales each vector by itself, binary keeps the sign of each value as a bit.",
    )(command)


def given_pooling() -> dict[str, Any]:
    """Those of these options that were given. Raises click.UsageError where two contradict each other."""
    given = dict(click.get_current_context().meta.get(_POOLING, {}))
    if "prefix" in given and "prompt_name" in given:
        raise usage("--prefix and --prompt-name both say what is put before texts; give one.")
    return given
