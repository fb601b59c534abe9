"""A look at the first records of a job: what is wrong with all of them is wrong with the command, and is said at once."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError, RecordError, TooManyErrors, nearest
from .record import Record
from .tasks.pending import Pending
from .tasks.protocol import AnyTask

#: Records after which it is no accident that all have failed with one code.
ENOUGH = 100
#: Names of a record's fields that are shown.
_SHOWN = 8


class FirstRecords:
    """
    Args:
        over: nothing is to be looked at, and all that is told here is of no interest.
        limited: the job says itself how many records may fail; then these are not counted.
    """

    def __init__(self, *, over: bool, limited: bool = False) -> None:
        self.over = over
        self._limited = limited
        self._entered = 0
        self._waiting: set[int] = set()
        self._first: tuple[int, RecordError] | None = None

    def check_read(self, records: Sequence[Record], pendings: Sequence[Pending], task: AnyTask, *, at_end: bool) -> None:
        """Of records as they were read, before there is an engine.

        Args:
            at_end: there are no others than these.

        Raises:
            ConfigError: none of them has the field that --prompt-field names.
            TooManyErrors: all of enough of them failed with one code.
        """
        errors = [pending.error for pending in pendings[:ENOUGH] if pending.error is not None]
        if self.over or not errors or len(errors) < len(pendings[:ENOUGH]) or len({error.code for error in errors}) > 1:
            return
        enough, field = len(errors) == ENOUGH, task.options.prompt_field
        if field is not None and (enough or at_end) and all(error.code == "missing_field" and error.param == field for error in errors):
            has = sorted(pendings[0].extra or records[0].fields)
            shown = ", ".join(has[:_SHOWN]) + (", …" if len(has) > _SHOWN else "")
            raise ConfigError(
                f"--prompt-field {field}: {_all(len(errors))} without this field{nearest(field, has)} (the first has: {shown or 'none'})"
                f"{_separators(has)}; --keep-going makes each an error record"
            )
        if enough and not self._limited:
            raise _too_many(pendings[0].line, errors[0])

    def entered(self, pendings: Sequence[Pending]) -> None:
        """They are on their way to their rows."""
        if not self.over and self._entered < ENOUGH:
            first = pendings[: ENOUGH - self._entered]
            self._entered += len(first)
            self._waiting.update(pending.ordinal for pending in first)

    def answered(self, pending: Pending) -> None:
        self.over |= pending.ordinal in self._waiting

    def failed(self, pending: Pending, error: RecordError) -> None:
        if self.over or pending.ordinal not in self._waiting:
            return
        self._waiting.remove(pending.ordinal)
        if self._first is None:
            self._first = pending.line, error
        self.over = error.code != self._first[1].code
        if pending.line < self._first[0]:
            self._first = pending.line, error

    def check(self) -> None:
        """Raises TooManyErrors, once: the first records have their rows, and all failed with one code."""
        if not self.over and not self._limited and self._first is not None and self._entered == ENOUGH and not self._waiting:
            self.over = True
            raise _too_many(*self._first)


def _all(count: int) -> str:
    return "the only record is" if count == 1 else f"all of the first {count:,} records are"


def _separators(has: Sequence[str]) -> str:
    """ "; …" where the only column is a line of several that something else than a comma separates, or an empty string."""
    found = next((mark for mark in ";\t|" if len(has) == 1 and mark in has[0]), None)
    if found is None:
        return ""
    return f"; its columns seem to be separated by {found!r}: " + (
        "--input-format tsv reads that" if found == "\t" else "write it with commas, or with tabs for --input-format tsv"
    )


def _too_many(line: int, error: RecordError) -> TooManyErrors:
    return TooManyErrors(
        f"the first {ENOUGH} records have all failed with {error.code} (first on line {line:,}: {error.message}); "
        "--keep-going answers the rest too"
    )
