"""Checking an input without the model's weights: every line parsed, templated and tokenized.

    reader -> take -> task.prepare -> limits.check -> findings

Records go the way they go in `run.py` up to the engine's door, so they fail here if and only if they would be refused there
(what depends on the memory of the machine is known only where the size of the KV cache was given).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..containment import contained
from ..errors import RecordError
from .distinct import Distinct
from .histogram import Histogram
from .input.reader import RecordReader
from .record import Record
from .tasks.pending import Pending
from .tasks.protocol import AnyTask

if TYPE_CHECKING:
    from ..engine.limits import Limits
    from ..pooling.limits import PoolingLimits

#: Records prepared at once, and about how many bytes of them; two such batches are in work at a time.
_BATCH, _BATCH_BYTES = 512, 2 << 20
#: While one batch is in the tokenizer, which does not hold the interpreter lock, the next one is parsed and templated.
_WORKERS = 2


class Place(NamedTuple):
    """The place of a record: its line, and the input's name where there are several."""

    line: int
    source: str

    def __str__(self) -> str:
        return f"line {self.line:,}" + (f" of {self.source}" if self.source else "")

    def to_json(self) -> dict[str, Any]:
        return {"line": self.line, **({"input": self.source} if self.source else {})}


@dataclass
class Findings:
    """The counts of a check. Tokens of failed records are in none of the numbers but `tokenized`.

    A prompt is what the model reads at once: a record that asks for the vectors of several texts has as many.
    """

    num_records: int = 0
    num_blank: int = 0
    bytes_done: int = 0
    #: Error code -> count, and the first record that had it with its message.
    errors: Counter[str] = field(default_factory=Counter)
    first_errors: dict[str, tuple[Place, str]] = field(default_factory=dict)
    #: Tokens of each prompt of the good records.
    prompts: Histogram = field(default_factory=Histogram)
    #: Of all records that could be tokenized, too long or not.
    tokenized: Histogram = field(default_factory=Histogram)
    #: Prompts of good records of which something is cut off.
    num_truncated: int = 0
    #: Most tokens, prompt and output, of each sequence: a record of n (or best_of) choices is so many of them.
    sequences: Histogram = field(default_factory=Histogram)
    #: The good record whose sequences are longest, and the tokens of one of them.
    largest: tuple[Place, int] | None = None
    max_output_tokens: int = 0
    distinct: Distinct = field(default_factory=Distinct)

    @property
    def num_failed(self) -> int:
        return self.errors.total()

    @property
    def exit_code(self) -> int:
        """As that of a run: 3 if any record would fail."""
        return 3 if self.num_failed else 0

    def fail(self, pending: Pending, error: RecordError) -> None:
        """One record would fail."""
        self.errors[error.code] += 1
        self.first_errors.setdefault(error.code, (Place(pending.line, pending.source), error.message))

    def accept(self, pending: Pending, max_model_len: int) -> None:
        """One record would be answered."""
        self.num_truncated += pending.num_cut
        for prompt, (length, choices) in zip(pending.asked(), pending.lengths(max_model_len), strict=True):
            self.prompts.add(len(prompt))
            self.sequences.add(length, choices)
            self.max_output_tokens += (length - len(prompt)) * choices
            self.distinct.add(hash(tuple(prompt)))
            if self.largest is None or length > self.largest[1]:
                self.largest = Place(pending.line, pending.source), length

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        first = self.first_errors
        errors = {
            code: {"count": count, **first[code][0].to_json(), "message": first[code][1]} for code, count in self.errors.most_common()
        }
        return {
            "records": {
                "total": self.num_records,
                "good": self.num_records - self.num_failed,
                "failed": self.num_failed,
                "blank_lines": self.num_blank,
            },
            "errors": errors,
            "prompt_tokens": {"total": self.prompts.total, **self.prompts.to_json()},
            "prompt_histogram": [{"from": low, "to": high, "records": count} for low, high, count in self.tokenized.buckets()],
            "longest_prompt": self.tokenized.max or 0,
            "truncated_prompts": self.num_truncated,
            "max_output_tokens": self.max_output_tokens,
            "repeated_prompts": {"count": self.distinct.repeats, "exact": self.distinct.exact},
        }


def check(
    reader: RecordReader,
    task_for: Callable[[Record], AnyTask],
    limits: Limits | PoolingLimits,
    *,
    findings: Findings | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> Findings:
    """Goes over the whole input, in memory that does not grow with it.

    Args:
        reader: the input.
        task_for: makes the task, given the first record that is a JSON object. Not called if there is none.
        limits: what the engine would hold requests to.
        findings: counts into these, for whoever shows progress.
        on_progress: called after each batch.

    Raises what cannot be put down to one record (InferError).
    """
    findings = findings or Findings()
    for batch in _prepared(reader, task_for):
        for pending in batch:
            _count(findings, pending, limits)
        findings.num_blank = reader.num_blank
        on_progress()
    findings.num_blank = reader.num_blank
    return findings


def _count(findings: Findings, pending: Pending, limits: Limits | PoolingLimits) -> None:
    findings.num_records += 1
    findings.bytes_done += pending.size
    if pending.error is None:
        for prompt in pending.asked():
            findings.tokenized.add(len(prompt))
        with contained(pending):
            for request in pending.to_requests():
                limits.check(request)
    if pending.error is None:
        findings.accept(pending, limits.max_model_len)
    else:
        findings.fail(pending, pending.error)


def _prepared(reader: RecordReader, task_for: Callable[[Record], AnyTask]) -> Iterator[list[Pending]]:
    """Batches of prepared records, in input order."""
    task: AnyTask | None = None
    in_work: deque[Future[list[Pending]]] = deque()
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="check") as pool:
        while records := reader.take(_BATCH, _BATCH_BYTES, wait=True):
            if task is None:
                good = next((r for r in records if r.error is None), None)
                if good is None:
                    yield [_failed(record) for record in records]
                    continue
                task = task_for(good)
            in_work.append(pool.submit(task.prepare, records))
            if len(in_work) >= _WORKERS:
                yield in_work.popleft().result()
        while in_work:
            yield in_work.popleft().result()


def _failed(record: Record) -> Pending:
    pending = Pending.of(record)
    pending.error = record.error
    return pending
