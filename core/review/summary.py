"""A finished output in figures: counts, lengths, endings, errors; and what other files tell of its runs: settings, shards, course."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..jobs.histogram import Histogram
from ..jobs.input.inputs import Inputs
from .rows import Rows

#: Examples kept of each error code, and characters of each.
EXAMPLES, MESSAGE = 3, 300
#: Points of a line in a plot; more are averaged.
POINTS = 600
#: Names of settings that are nobody's business, wherever they come from.
_SECRET = re.compile(r"token$|secret|password|api_?key|credential", re.IGNORECASE)
#: The folders of an absolute path, also behind NAME= as --lora has it: they name people and machines.
_PATH = re.compile(r"^([\w.-]+=)?(?:~|file:/)?/(?:[^/\n]+/)+(?=[^/\n]+/?$)")
_LONGEST_PATH = 4096
#: Settings that have such a name and are none.
_PLAIN = frozenset({"max_tokens", "classifier_from_token"})


@dataclass
class Summary:
    """The rows of an output, counted."""

    answered: int = 0
    failed: int = 0
    prompts: Histogram = field(default_factory=Histogram)
    outputs: Histogram = field(default_factory=Histogram)
    reasons: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    sizes: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, name: str) -> Summary:
        """All rows of an output. Raises ConfigError for what is none."""
        found, inputs = cls(), Inputs([name], "jsonl")
        try:
            rows = Rows(name, inputs.sources[0])
            while (row := rows.next()) is not None:
                answer = row.answer
                if answer.error is not None:
                    found._fail(row.index, answer.error, answer.message)
                    continue
                found.answered += 1
                found.prompts.add(answer.prompt_tokens)
                if answer.reasons or answer.tokens:
                    found.outputs.add(answer.tokens)
                found.reasons.update(answer.reasons)
                found.labels.update(answer.labels)
                found.sizes.update(vector.size for vector in answer.vectors)
        finally:
            inputs.close()
        return found

    def _fail(self, index: int, code: str, message: str) -> None:
        self.failed += 1
        self.errors[code] += 1
        kept = self.examples.setdefault(code, [])
        if len(kept) < EXAMPLES:
            kept.append((index, message[:MESSAGE]))


def read_stats(names: Sequence[str]) -> list[dict[str, Any]]:
    """What --stats wrote, without secrets and without the folders that things are in; `name` is the file's. Raises ConfigError for what is
    none of it."""
    return [_without_secrets({"name": Path(name).name, **_one(name)}) for name in names]


def _one(name: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(name).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name!r} is not what --stats writes: {error}") from None
    if not isinstance(found, dict) or not {"command", "exit_code", "records"} <= found.keys():
        raise ConfigError(f"{name!r} is not what --stats writes; give OUT first, then the files of --stats")
    return found


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_secrets(v) for k, v in value.items() if k in _PLAIN or not _SECRET.search(str(k))}
    if isinstance(value, list):
        return [_without_secrets(one) for one in value]
    return _PATH.sub(r"\1…/", value) if isinstance(value, str) and len(value) < _LONGEST_PATH else value


@dataclass(frozen=True)
class Course:
    """Lines of one file of --trace: seconds since the first, and the values of each field at these times."""

    name: str
    seconds: list[float]
    values: Mapping[str, list[float]]


def read_trace(name: str) -> Course:
    """Fewer than 2 * POINTS points, each the mean of as many lines. Raises ConfigError for what is no trace."""
    points: list[_Point] = []
    every = 1
    for i, line in enumerate(_lines(name)):
        if i % every == 0:
            if len(points) == 2 * POINTS:
                points = [first.joined(second) for first, second in zip(points[::2], points[1::2], strict=True)]
                every *= 2
            points.append(_Point(float(line["time"])))
        points[-1].add(line)
    if not points:
        raise ConfigError(f"{name!r} has no lines of --trace")
    fields = dict.fromkeys(key for point in points for key in point.sums)
    values = {key: [point.sums[key] / point.count for point in points] for key in fields}
    return Course(Path(name).name, [point.time - points[0].time for point in points], values)


@dataclass
class _Point:
    """Sums of the numbers of some lines, the first of them written at `time`."""

    time: float
    count: int = 0
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, line: Mapping[str, Any]) -> None:
        self.count += 1
        for key, value in line.items():
            if isinstance(value, (int, float)):
                self.sums[key] += value

    def joined(self, other: _Point) -> _Point:
        made = _Point(self.time, self.count + other.count, defaultdict(float, self.sums))
        for key, value in other.sums.items():
            made.sums[key] += value
        return made


def _lines(name: str) -> Iterator[dict[str, Any]]:
    """A line that a killed process left unfinished is passed over."""
    try:
        with Path(name).open("rb") as file:
            for line in file:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if not isinstance(found, dict) or not {"t", "time"} <= found.keys():
                    raise ConfigError(f"{name!r} is not what --trace writes")
                yield found
    except OSError as error:
        raise ConfigError(f"{name!r} cannot be read: {error.strerror}") from None
