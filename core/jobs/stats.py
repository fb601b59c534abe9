"""Statistics of a run: counted while it goes on, read by the progress display, the closing summary and `--stats`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine.stats import EngineStats
from .histogram import Histogram
from .tally import Tally

_IMPORTED_AT = time.monotonic()

#: Settings that are nobody's business, wherever a run's settings are written.
_SECRET = frozenset({"hf_token"})


def process_start() -> float:
    """The time at which this process began, on the clock of `time.monotonic`. The time of this import where the system does not say."""
    try:
        started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")
        return min(time.monotonic() - max(age, 0.0), _IMPORTED_AT)
    except (OSError, ValueError, IndexError, AttributeError):
        return _IMPORTED_AT


def peak_memory() -> int:
    """Most memory this process ever had resident, in bytes; 0 where the system does not say."""
    try:
        # Not ru_maxrss where this can be had: that one starts at the size of the process that started us.
        with open("/proc/self/status") as status:  # noqa: PTH123
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class JobStats(Tally):
    """Counts and times of one run, rows of earlier attempts included. Times are `time.monotonic`; None: did not happen."""

    started_at: float = field(default_factory=process_start)
    ready_at: float | None = None
    admitted_at: float | None = None
    finished_at: float | None = None
    num_blank: int = 0
    #: Rows that earlier attempts finished, and how many attempts and seconds those took.
    num_resumed: int = 0
    earlier_attempts: int = 0
    earlier_run_s: float = 0.0
    #: Tokens of earlier attempts, which this one's speeds leave out.
    resumed_tokens: tuple[int, int] = (0, 0)
    resumed_texts: int = 0
    #: Bytes of input lines that they are done with.
    resumed_bytes: int = 0
    #: Sequences that the engine runs at a time, once there is one.
    at_a_time: int = 0
    #: Sequences that wait in the engine, requests in it, and rows that wait for an earlier one, at the last step.
    num_waiting: int = 0
    num_open: int = 0
    num_held: int = 0
    #: Texts are only read: there are no output tokens.
    pools: bool = False
    #: SHA-256 of the output file, once it is finished.
    output_sha256: str | None = None
    #: Filled in by whoever starts the engine; None until then, and if no engine was needed.
    engine: EngineStats | None = None

    #: Tokens of the prompts and outputs of this attempt's answers.
    prompt_lengths: Histogram = field(default_factory=Histogram)
    output_lengths: Histogram = field(default_factory=Histogram)

    def add_row(self, tally: Tally) -> None:
        """Counts one row of this attempt."""
        self.add(tally)
        if tally.num_answered:
            self.prompt_lengths.add(tally.prompt_tokens)
            self.output_lengths.add(tally.output_tokens)

    def resume(self, tally: Tally, *, attempts: int, run_s: float) -> None:
        """Takes over what earlier attempts finished."""
        self.add(tally)
        self.num_resumed, self.earlier_attempts, self.earlier_run_s = tally.num_records, attempts, run_s
        self.resumed_tokens = tally.prompt_tokens, tally.output_tokens
        self.resumed_texts, self.resumed_bytes = tally.num_texts, tally.bytes_done

    @property
    def exit_code(self) -> int:
        """3 if any record failed."""
        return 3 if self.num_failed else 0

    @property
    def startup_s(self) -> float | None:
        """From the start of the process until the engine was ready."""
        return None if self.ready_at is None else self.ready_at - self.started_at

    @property
    def run_s(self) -> float | None:
        """From the first record admitted to the last record written; so far, while the run goes on."""
        if self.admitted_at is None:
            return None
        return (time.monotonic() if self.finished_at is None else self.finished_at) - self.admitted_at

    @property
    def attempts(self) -> int:
        """The number of attempts at the job, this one included."""
        return self.earlier_attempts + 1

    @property
    def run_all_s(self) -> float:
        """The seconds of all of them, up to now."""
        return self.earlier_run_s + (self.run_s or 0.0)

    @property
    def first_token_at(self) -> float | None:
        return self.engine.first_token_at if self.engine else None

    @property
    def prompt_per_second(self) -> float | None:
        return self._per_second(self.prompt_tokens - self.resumed_tokens[0])

    @property
    def output_per_second(self) -> float | None:
        return self._per_second(self.output_tokens - self.resumed_tokens[1])

    @property
    def texts_per_second(self) -> float | None:
        return self._per_second(self.num_texts - self.resumed_texts)

    def seconds_left(self, num_bytes: int | None) -> float | None:
        """An estimate of the seconds until all of an input of `num_bytes` is answered; None while nothing can be told.

        What is left is counted in tokens: those that a byte of input has taken so far, less what unfinished records have already. The
        first records to finish are the short ones: until as many as run at a time are done, they tell too little.
        """
        done = self.bytes_done - self.resumed_bytes
        if not num_bytes or not done or self.engine is None or not self.run_s:
            return None
        if not self.pools and self.num_records - self.num_resumed < self.at_a_time:
            return None
        finished = self.prompt_tokens - self.resumed_tokens[0] + self.output_tokens - self.resumed_tokens[1]
        computed = max(self.engine.num_prompt_tokens + self.engine.num_output_tokens, finished)
        left = max(num_bytes - self.bytes_done, 0)
        if not computed:  # all of them failed
            return self.run_s * left / done
        return max(left / done * finished - (computed - finished), 0.0) / computed * self.run_s

    def _per_second(self, tokens: int) -> float | None:
        return tokens / self.run_s if self.run_s else None

    def to_json(self, *, command: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The run as `--stats` writes it. Seconds are rounded to milliseconds.

        Args:
            command: "generate", "chat"…
            settings: the resolved engine settings.
            defaults: what was asked of every record, as {"sampling": …} or, where texts are only read, {"embedding": …}.
        """
        engine = self.engine
        first = self.first_token_at
        media = {"media_encoded": engine.num_media} if engine and engine.num_media else {}
        return {
            "command": command,
            "exit_code": self.exit_code,
            "records": {
                "total": self.num_records,
                "answered": self.num_answered,
                "failed": self.num_failed,
                "blank_lines": self.num_blank,
                "from_earlier_attempts": self.num_resumed,
            },
            "attempts": self.attempts,
            "output_sha256": self.output_sha256,
            "errors": dict(self.errors),
            **(self._read_numbers() if self.pools else self._written_numbers()),
            "timing": {
                "startup_s": _rounded(self.startup_s),
                "run_s": _rounded(self.run_s),
                "run_all_attempts_s": _rounded(self.run_all_s),
                "total_s": _rounded((self.finished_at or time.monotonic()) - self.started_at),
                f"{self.first}_s": _rounded(first - self.started_at if first is not None else None),
                f"{self.first}_after_admission_s": _rounded(
                    first - self.admitted_at if first is not None and self.admitted_at is not None else None
                ),
            },
            "engine": {"steps": engine.num_steps if engine else 0, **({} if self.pools else self._kv_numbers()), **media},
            "memory": {"peak_bytes": peak_memory()},
            "weights": engine.weights if engine else {},
            "settings": {name: value for name, value in settings.items() if name not in _SECRET},
            **({"adapters": dict(self.adapters)} if self.adapters else {}),
            **({name: {**made, "truncated": self.num_truncated} for name, made in defaults.items()} if self.pools else defaults),
            "versions": versions(),
        }

    @property
    def first(self) -> str:
        """The name of the first thing that an engine makes."""
        return "first_vector" if self.pools else "first_token"

    def _written_numbers(self) -> dict[str, Any]:
        return {
            "finish_reasons": dict(self.finish_reasons),
            "cut_by_default_max_tokens": self.num_cut_by_default,
            "tokens": {
                "prompt": self.prompt_tokens,
                "output": self.output_tokens,
                "cached": self.engine.num_cached_tokens if self.engine else 0,
                "prompt_per_s": _rounded(self.prompt_per_second),
                "output_per_s": _rounded(self.output_per_second),
            },
        }

    def _read_numbers(self) -> dict[str, Any]:
        return {
            "texts": {"total": self.num_texts, "truncated": self.num_truncated, "per_s": _rounded(self.texts_per_second)},
            "tokens": {
                "prompt": self.prompt_tokens,
                "repeated": self.engine.num_cached_tokens if self.engine else 0,
                "prompt_per_s": _rounded(self.prompt_per_second),
            },
        }

    def _kv_numbers(self) -> dict[str, int]:
        engine = self.engine
        states = {"state_slots": engine.num_states, "peak_state_slots": engine.peak_states} if engine and engine.num_states else {}
        drafts = {"drafts": engine.num_drafts, "accepted_drafts": engine.num_accepted} if engine and engine.num_drafts else {}
        return {
            "computed_tokens": engine.num_computed_tokens if engine else 0,
            "preemptions": engine.num_preemptions if engine else 0,
            "kv_blocks": engine.num_kv_blocks if engine else 0,
            "peak_kv_blocks": engine.peak_kv_blocks if engine else 0,
            **states,
            **drafts,
        }


def versions() -> dict[str, str]:
    """Of what decides the output: infer, torch, tokenizers, python."""
    found = {"infer": "infer-jsonl", "torch": "torch", "tokenizers": "tokenizers"}
    return {"python": platform.python_version(), **{name: library_version(one) or "unknown" for name, one in found.items()}}


def library_version(name: str) -> str | None:
    """Of an installed distribution, which is not imported; None if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
