"""`infer diff`: two outputs of the same input compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from infer.core.errors import InferError

from ..command import usage
from ..options import Command
from ..terminal import messages, streams
from ..terminal.table import table

#: Exit codes, as those of diff and cmp.
SAME, DIFFERENT, TROUBLE = 0, 1, 2


@click.command(cls=Command)
@click.argument("a", metavar="A", type=click.Path(allow_dash=True))
@click.argument("b", metavar="B", type=click.Path(allow_dash=True))
@click.option(
    "--tolerance",
    metavar="X",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Log-probabilities, scores and elements of vectors that are no further apart are equal; other fields are then not compared.",
)
@click.option("--show", metavar="N", type=click.IntRange(min=0), default=3, show_default=True, help="Rows that differ to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.option("--quiet", "-q", is_flag=True, help="Only the exit status.")
def diff(*, a: str, b: str, tolerance: float, show: int, as_json: bool, quiet: bool) -> int:
    """Compare two outputs of the same input: two models, two quantizations, two versions.

    A and B are JSONL outputs of infer, also compressed ones; one may be - for stdin. Rows are matched by their index (those of
    OpenAI Batch files by their place). Told are the rows that are equal, and what changed in the others: text, length, finish
    reason, log-probabilities (of texts that are equal, and of first tokens), vectors (cosine), labels and scores, errors.

    The exit status is that of diff: 0 all equal, 1 something differs, 2 they cannot be compared.

    \b
    infer diff bf16.jsonl int8.jsonl
    infer diff --tolerance 1e-3 old.jsonl.zst new.jsonl.zst
    infer diff --json a.jsonl b.jsonl | jq .changed
    """
    if a == b == "-":
        raise usage("A and B cannot both be stdin.")
    from infer.core.review.diff import compare

    try:
        found = compare(a, b, tolerance=tolerance, examples=show)
    except InferError as error:
        messages.say(str(error), event="error", level="error", label="Error: ", exit_code=TROUBLE)
        return TROUBLE
    except OSError as error:
        text = f"{error.filename!r}: {error.strerror}" if error.filename else str(error)
        messages.say(text, event="error", level="error", label="Error: ", exit_code=TROUBLE)
        return TROUBLE
    if not quiet:
        told = found.to_json()
        streams.write(streams.to_json(told, indent=1) + "\n" if as_json else "".join(_shown(told)))
    return SAME if found.same else DIFFERENT


def _shown(told: Mapping[str, Any]) -> Iterator[str]:
    yield table(list(_rows(told)), right=frozenset({1}))
    for example in told["examples"]:
        place = f", at character {example['at']:,}" if "at" in example else ""
        yield f"\nrecord {example['index']}: {', '.join(example['changed'])}{place}\n"
        yield from (f"  {side.upper()}: {example[side]!r}\n" for side in ("a", "b") if side in example)


def _rows(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    rows = told["rows"]
    yield "rows in both", f"{rows:,}", ""
    yield "equal", f"{told['equal']:,}", _share(told["equal"], rows)
    if told["failed_in_both"]:
        yield "failed in both", f"{told['failed_in_both']:,}", _share(told["failed_in_both"], rows)
    yield "different", f"{told['differ']:,}", _share(told["differ"], rows)
    for side in ("a", "b"):
        if told[f"only_in_{side}"]:
            yield f"only in {side.upper()}", f"{told[f'only_in_{side}']:,}", ""
    below = {"finish_reason": told["finish_reasons"], "error": told["errors"]}
    for name, count in told["changed"].items():
        yield f"  {name.replace('_', ' ')}", f"{count:,}", _share(count, rows)
        for change, number in below.get(name, {}).items():
            yield f"    {change}", f"{number:,}", ""
    texts, kept = told["texts"], told["texts"]["share_before_the_change"]
    if texts["choices"]:
        yield "texts equal", f"{texts['equal']:,}", f"of {texts['choices']:,}"
    if kept:
        yield "equal before the change", f"{kept['mean']:.1%}", "of a text, on average"
    yield from _spread("output tokens, B - A", told["tokens_more_in_b"], "{:+.2f}", "records")
    yield from _spread("log-probabilities apart", told["logprobs"]["apart"], "{:.3g}", "tokens")
    yield from _spread("log-probabilities, B - A", told["logprobs"]["b_minus_a"], "{:+.3g}", "tokens")
    yield from _spread("cosine", told["cosine"], "{:.6f}", "vectors")
    yield from _spread("scores apart", told["numbers_apart"], "{:.3g}", "scores")


def _spread(name: str, told: Mapping[str, Any] | None, form: str, noun: str) -> Iterator[tuple[str, str, str]]:
    if told is not None and (told["min"] or told["max"]):
        mean, least, most = (form.format(told[key]) for key in ("mean", "min", "max"))
        yield name, mean, f"on average, {least} to {most}, of {told['count']:,} {noun}"


def _share(count: int, rows: int) -> str:
    return f"{count / rows:.1%}" if rows else ""
