"""The works of the suite: records that are made of real text, in the lengths that make one part of an engine or another matter.

The text is Python's own library, which is wherever this runs; token ids at random stand in where there is none of it, or no tokenizer.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..build.plan import Plan
from ..jobs.jsonl import dumps
from .workload import Workload

#: Bytes of text that pieces are cut from.
TEXT_BYTES = 2 << 20
#: Random ids, where there is no text.
RANDOM_IDS = 1 << 18

Record = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """Sizes as people have them, or divided, so that the whole suite takes seconds. Counts below 9 stay as they are."""

    counts: int = 1
    lengths: int = 1

    def count(self, number: int) -> int:
        return number if number < 9 else max(2, number // self.counts)

    def length(self, tokens: int) -> int:
        return max(1, tokens // self.lengths)


FULL = Scale()
QUICK = Scale(counts=8, lengths=4)


@dataclass(frozen=True)
class Source:
    """The text that prompts are cut from, as token ids and as words; the generator that draws where to cut; and the scale of the suite."""

    ids: Sequence[int]
    words: Sequence[str]
    dice: random.Random
    scale: Scale

    def piece(self, tokens: int) -> list[int]:
        """So many token ids in a row."""
        start = self.dice.randrange(len(self.ids) - tokens)
        return list(self.ids[start : start + tokens])

    def text(self, words: int) -> str:
        """So many words in a row."""
        start = self.dice.randrange(len(self.words) - words)
        return " ".join(self.words[start : start + words])

    def lognormal(self, mu: float, sigma: float, least: int, most: int) -> int:
        """A length as those of people's prompts are spread."""
        drawn = max(least, min(most, int(self.dice.lognormvariate(mu, sigma))))
        return self.scale.length(drawn)

    def greedy(self, prompt: list[int], max_tokens: int) -> Record:
        return {"prompt_token_ids": prompt, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}


@dataclass(frozen=True)
class Work:
    """
    Args:
        embeds: its records are texts to embed; otherwise prompts to continue.
    """

    name: str
    about: str
    make: Callable[[Source], list[Record]]
    embeds: bool = False


def _mixed(count: int) -> Callable[[Source], list[Record]]:
    def make(source: Source) -> list[Record]:
        return [
            source.greedy(source.piece(source.lognormal(4.8, 0.8, 8, 1024)), source.lognormal(4.4, 0.7, 8, 512))
            for _ in range(source.scale.count(count))
        ]

    return make


def _prefix(source: Source) -> list[Record]:
    length = source.scale.length
    prefixes = [source.piece(length(512)) for _ in range(4)]
    return [source.greedy(source.dice.choice(prefixes) + source.piece(length(48)), length(32)) for _ in range(source.scale.count(256))]


def _long(source: Source) -> list[Record]:
    length = source.scale.length
    return [source.greedy(source.piece(length(source.dice.randrange(3500, 7000))), length(64)) for _ in range(source.scale.count(10))]


def _few(count: int) -> Callable[[Source], list[Record]]:
    def make(source: Source) -> list[Record]:
        length = source.scale.length
        return [source.greedy(source.piece(length(96)) * 3, length(192)) for _ in range(source.scale.count(count))]

    return make


def _texts(source: Source) -> list[Record]:
    return [{"input": source.text(source.lognormal(3.6, 0.8, 4, 200))} for _ in range(source.scale.count(2000))]


WORKS = {
    work.name: work
    for work in (
        Work("mixed", "prompts and outputs of many lengths", _mixed(256)),
        Work("small", "the same, too few to fill a batch for long", _mixed(48)),
        Work("prefix", "prompts that begin with one of four texts of 512 tokens", _prefix),
        Work("long", "prompts of 3,500 to 7,000 tokens", _long),
        *(Work(f"few{n}", f"{n} long output{'s' * (n > 1)} of text that repeats itself", _few(n)) for n in (1, 4, 8)),
        Work("embed", "texts of 4 to 200 words", _texts, embeds=True),
    )
}


@dataclass(frozen=True)
class Corpus:
    """The token ids and words of some text, for one model."""

    ids: Sequence[int]
    words: Sequence[str]

    @classmethod
    def of(cls, plan: Plan) -> Corpus:
        """Raises ModelError where nothing says how many token ids there are."""
        text = _library_text()
        ids = [] if plan.tokenizer is None else plan.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) < RANDOM_IDS // 8:
            vocab_size = plan.vocab_size if plan.tokenizer is None else min(plan.vocab_size, plan.tokenizer.vocab_size)
            ids = random.Random(0).choices(range(vocab_size), k=RANDOM_IDS)
        words = text.split()
        return cls(ids, words if len(words) > 1000 else [f"word{i}" for i in range(1000)])

    def workload(self, work: Work, scale: Scale, seed: int = 0) -> tuple[Workload, int]:
        """The records of a work, the same for the same seed, and the tokens that the longest needs (of texts: 0, they can be cut)."""
        records = work.make(Source(self.ids, self.words, random.Random(seed), scale))
        longest = max(len(record.get("prompt_token_ids", ())) + record.get("max_tokens", 0) for record in records)
        return Workload(work.name, b"\n".join(map(dumps, records))), longest


def _library_text() -> str:
    """Some of the Python library's source; empty where it is not kept as files."""
    found, size = [], 0
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        found.append(path.read_text(encoding="utf-8", errors="ignore"))
        size += len(found[-1])
        if size > TEXT_BYTES:
            break
    return "".join(found)
