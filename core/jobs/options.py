"""Decisions of a person about a job, apart from model and sampling."""

from __future__ import annotations

from dataclasses import dataclass

from .input.selection import Selection, Shard
from .output.previous import Again

#: What --redo may say beside a finish_reason.
CHANGED = "changed"


@dataclass(frozen=True)
class JobOptions:
    """The inputs and which of their records, the output and what becomes of an earlier one, and what is said meanwhile."""

    inputs: tuple[str, ...]  # in order, globs expanded, URLs among them; "-" is stdin
    output: str  # "-" is stdout; or a URL
    overwrite: bool
    stats: str | None
    quiet: bool
    verbose: int
    progress_interval: float  # seconds
    max_line_bytes: int
    report_cache: bool
    strict: bool
    input_format: str = "auto"  # one of forms.FORMATS
    # which records
    limit: int | None = None
    offset: int = 0
    shard: Shard | None = None
    # the output and the run behind it
    compression: str = "auto"  # of OUT: "auto" (by its name), "none", "gzip" or "zstd"
    resume: bool = False  # also when `resume_force`
    resume_force: bool = False
    state_dir: str | None = None  # for what is remembered of an OUT that lies elsewhere; see state.py
    verify: bool = False
    output_format: str = "jsonl"  # one of output.output_format.FORMATS
    vectors: bool = False  # answers are vectors, of which a Parquet file is a matrix
    embedding_dtype: str = "float32"  # of the values in them, one of sinks.vectors.DTYPES
    error_format: str = "object"  # of rows: "object" or "flat", see row_format.py
    fsync: str = "interval"  # "interval", "always" or "never"
    # failures
    errors: str | None = None
    max_errors: int | float | None = None  # an int is a number of records, a float a share of them (0.05 for 5%)
    keep_going: bool = False  # also where all of the first records fail in one way
    retry_errors: bool = False
    redo: str | None = None  # the finish_reason of the records to answer anew; or CHANGED: those that are other lines than they were
    dry_run: bool = False
    # what other programs are told
    metrics: str | None = None
    metrics_port: str | None = None  # [HOST:]PORT
    trace: str | None = None

    @property
    def again(self) -> Again:
        """The choice of rows of a finished output that are answered anew."""
        reason = self.redo if self.redo != CHANGED else None
        return Again(errors=self.retry_errors, finish_reason=reason, changed=self.redo == CHANGED)

    @property
    def selection(self) -> Selection:
        """The records that are wanted, of the whole input."""
        return Selection(self.offset, self.limit, self.shard or Shard(0, 1))
