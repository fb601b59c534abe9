"""Two outputs of the same input, compared row by row: what is equal, what changed, and by how much. Memory does not grow with them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..jobs.input.inputs import Inputs
from .answer import Answer
from .rows import Rows

#: Characters of a text that are shown on either side of the place where it changes.
SHOWN = 40


@dataclass
class Spread:
    """Count, mean, least and most of numbers that are not kept."""

    count: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)

    def to_json(self) -> dict[str, Any] | None:
        """None where there were none."""
        return {"count": self.count, "mean": self.total / self.count, "min": self.least, "max": self.most} if self.count else None


@dataclass
class Diff:
    """The totals so far.

    Args:
        tolerance: numbers that are no further apart are equal.
        examples: rows that differ of which an example is kept.
        failed: rows with an error in both.
    """

    tolerance: float = 0.0
    examples: int = 0
    rows: int = 0
    equal: int = 0
    failed: int = 0
    only: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    choices: int = 0
    same_texts: int = 0
    kept: Spread = field(default_factory=Spread)
    longer: Spread = field(default_factory=Spread)
    logprob: Spread = field(default_factory=Spread)
    shift: Spread = field(default_factory=Spread)
    cosine: Spread = field(default_factory=Spread)
    number: Spread = field(default_factory=Spread)
    shown: list[dict[str, Any]] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """True if no row differs and none is missing."""
        return self.equal == self.rows and not self.only

    def one_sided(self, side: str, index: int) -> None:
        """A row that the other output lacks."""
        self.only[side] += 1
        self._show({"index": index, "changed": [f"only in {side.upper()}"]})

    def pair(self, index: int, a: Answer, b: Answer) -> None:
        """The two rows of one record."""
        self.rows += 1
        self.failed += bool(a.error and b.error)
        changed = self._changes(a, b)
        if not changed:
            self.equal += 1
            return
        self.changed.update(changed)
        self._show({"index": index, "changed": changed, **_shown(a, b)})

    def _show(self, example: dict[str, Any]) -> None:
        if len(self.shown) < self.examples:
            self.shown.append(example)

    def _changes(self, a: Answer, b: Answer) -> list[str]:
        if a.error or b.error:
            if a.error != b.error:
                self.errors[f"{a.error or 'answered'} -> {b.error or 'answered'}"] += 1
                return ["error"]
            return [] if a.message == b.message else ["message"]
        found = []
        if self._texts_differ(a, b):
            found.append("text")
        if a.tokens != b.tokens:
            found.append("length")
        self.longer.add(b.tokens - a.tokens)
        if a.reasons != b.reasons:
            self.reasons.update(f"{one} -> {other}" for one, other in zip(a.reasons, b.reasons, strict=False) if one != other)
            found.append("finish_reason")
        if self._logprobs_differ(a, b):
            found.append("logprobs")
        if self._vectors_differ(a, b):
            found.append("vectors")
        if a.labels != b.labels:
            found.append("labels")
        if self._numbers_differ(a, b):
            found.append("numbers")
        if not found and not self.tolerance and a.content() != b.content():
            found.append("other fields")
        return found

    def _texts_differ(self, a: Answer, b: Answer) -> bool:
        self.choices += max(len(a.texts), len(b.texts))
        same = [one == other for one, other in zip(a.texts, b.texts, strict=False)]
        self.same_texts += sum(same)
        for one, other, equal in zip(a.texts, b.texts, same, strict=False):
            if not equal:
                self.kept.add(_common(one, other) / max(len(one), len(other)))
        return len(a.texts) != len(b.texts) or not all(same)

    def _logprobs_differ(self, a: Answer, b: Answer) -> bool:
        """Where texts are equal all of their tokens are compared; otherwise the first alone, which both drew from the same prompt."""
        differ = False
        for i, (one, other) in enumerate(zip(a.logprobs, b.logprobs, strict=False)):
            same = i < min(len(a.texts), len(b.texts)) and a.texts[i] == b.texts[i] and len(one) == len(other)
            for before, after in list(zip(one, other, strict=False))[: None if same else 1]:
                if math.isfinite(before) and math.isfinite(after):
                    self.logprob.add(abs(after - before))
                    self.shift.add(after - before)
                    differ |= abs(after - before) > self.tolerance
            differ |= same and bool(one) != bool(other)
        return differ

    def _vectors_differ(self, a: Answer, b: Answer) -> bool:
        differ = len(a.vectors) != len(b.vectors)
        for one, other in zip(a.vectors, b.vectors, strict=False):
            if one.shape != other.shape:
                differ = True
                continue
            sizes = float(np.linalg.norm(one) * np.linalg.norm(other))
            self.cosine.add(min(1.0, float(one @ other) / sizes) if sizes else float(np.array_equal(one, other)))
            differ |= bool(one.size) and float(np.abs(one - other).max()) > self.tolerance
        return differ

    def _numbers_differ(self, a: Answer, b: Answer) -> bool:
        for name in a.numbers.keys() & b.numbers.keys():
            self.number.add(abs(a.numbers[name] - b.numbers[name]))
        return a.numbers.keys() != b.numbers.keys() or any(abs(a.numbers[name] - b.numbers[name]) > self.tolerance for name in a.numbers)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "same": self.same,
            "rows": self.rows,
            "equal": self.equal,
            "differ": self.rows - self.equal,
            "failed_in_both": self.failed,
            "only_in_a": self.only["a"],
            "only_in_b": self.only["b"],
            "changed": dict(self.changed.most_common()),
            "finish_reasons": dict(self.reasons.most_common()),
            "errors": dict(self.errors.most_common()),
            "texts": {"choices": self.choices, "equal": self.same_texts, "share_before_the_change": self.kept.to_json()},
            "tokens_more_in_b": self.longer.to_json(),
            "logprobs": {"apart": self.logprob.to_json(), "b_minus_a": self.shift.to_json()},
            "cosine": self.cosine.to_json(),
            "numbers_apart": self.number.to_json(),
            "examples": self.shown,
        }


def compare(a: str, b: str, *, tolerance: float = 0.0, examples: int = 0) -> Diff:
    """The outputs named `a` and `b` (`-`: stdin), matched by the index of their rows, or by their place where rows have none.

    Raises ConfigError for what cannot be read or is no output.
    """
    diff = Diff(tolerance, examples)
    inputs = Inputs([a, b], "jsonl")
    try:
        ours, theirs = (Rows(name, source) for name, source in zip((a, b), inputs.sources, strict=True))
        one = ours.next()
        other = theirs.next(one)
        while one is not None or other is not None:
            if one is not None and other is not None and one.index == other.index:
                diff.pair(one.index, one.answer, other.answer)
                one = ours.next()
                other = theirs.next(one)
            elif other is None or (one is not None and one.index < other.index):
                assert one is not None
                diff.one_sided("a", one.index)
                one = ours.next()
            else:
                diff.one_sided("b", other.index)
                other = theirs.next(one)
    finally:
        inputs.close()
    return diff


def _common(one: str, other: str) -> int:
    """Characters that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _shown(a: Answer, b: Answer) -> dict[str, Any]:
    """The place where the first text that changed does, or the errors."""
    if a.error or b.error:
        return {"a": a.error or "answered", "b": b.error or "answered"}
    for one, other in zip(a.texts, b.texts, strict=False):
        if one != other:
            at = _common(one, other)
            start = max(0, at - SHOWN // 2)
            return {"at": at, "a": one[start : at + SHOWN], "b": other[start : at + SHOWN]}
    return {}
