"""Workloads: JSONL in memory, from a file or made at random, so that it can be answered again and again."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from ..errors import ConfigError, RecordError
from ..jobs.input.inputs import Inputs
from ..jobs.input.lines import CHUNK_BYTES
from ..jobs.input.reader import RecordReader
from ..jobs.input.selection import Selection
from ..jobs.jsonl import dumps, loads
from ..types.params import ALIASES


@dataclass(frozen=True)
class RandomLengths:
    """Prompts of random tokens. Names as in `vllm bench throughput`.

    `random_range_ratio` r: lengths are drawn evenly from length * (1 - r) to length * (1 + r); 0: all alike.
    """

    num_prompts: int = 256
    input_len: int = 128
    output_len: int = 128
    random_range_ratio: float = 0.0

    @property
    def most_tokens(self) -> int:
        """Of a prompt and its output together."""
        return _around(self.input_len, self.random_range_ratio)[1] + _around(self.output_len, self.random_range_ratio)[1]


@dataclass(frozen=True)
class Workload:
    """Input lines, and at most how many of their records are answered."""

    name: str
    data: bytes
    num_prompts: int | None = None

    def __post_init__(self) -> None:
        if not self.data.strip() or self.num_prompts == 0:
            raise ConfigError(f"{self.name} has no records: there is nothing to measure")

    @classmethod
    def from_file(cls, name: str, *, num_prompts: int | None = None) -> Workload:
        """All of a file, or of stdin for `-`; compressed ones are decompressed. Raises ConfigError, InferError."""
        inputs = Inputs([name])
        try:
            pieces = []
            while piece := inputs.sources[0].read(CHUNK_BYTES):
                pieces.append(piece)
        finally:
            inputs.close()
        return cls("stdin" if name == "-" else name, b"".join(pieces), num_prompts)

    @classmethod
    def of_random(cls, lengths: RandomLengths, *, vocab_size: int, avoid: Collection[int] = (), seed: int = 0) -> Workload:
        """Prompts of token ids below `vocab_size` but those to `avoid`, each with its own `max_tokens`."""
        generator = random.Random(seed)
        tokens = [i for i in range(vocab_size) if i not in avoid]
        ratio = lengths.random_range_ratio
        lines = []
        for _ in range(lengths.num_prompts):
            prompt = generator.choices(tokens, k=generator.randint(*_around(lengths.input_len, ratio)))
            lines.append(dumps({"prompt_token_ids": prompt, "max_tokens": generator.randint(*_around(lengths.output_len, ratio))}))
        return cls("random", b"\n".join(lines))

    def without(self, names: Sequence[str]) -> Workload:
        """These records without some fields (in OpenAI Batch lines: of the body), so that the command's own values count."""
        drop = {*names, *(alias for alias, name in ALIASES.items() if name in names)}
        return Workload(self.name, b"\n".join(_without(line, drop) for line in self.data.split(b"\n")), self.num_prompts)

    def reader(self) -> RecordReader:
        """All records, from the first."""
        return RecordReader(_Memory(self.data), selection=Selection(limit=self.num_prompts))


class _Memory(BytesIO):
    """Bytes as a Source."""

    def ready(self, seconds: float = 0.0) -> bool:
        return True


def _around(length: int, ratio: float) -> tuple[int, int]:
    return max(1, math.floor(length * (1 - ratio))), math.ceil(length * (1 + ratio))


def _without(line: bytes, names: set[str]) -> bytes:
    try:
        fields: dict[str, Any] = loads(line)
    except RecordError:
        return line  # it fails where it is answered, and says why
    kept = {name: value for name, value in fields.items() if name not in names}
    if isinstance(kept.get("body"), dict):
        kept["body"] = {name: value for name, value in kept["body"].items() if name not in names}
    return dumps(kept)
