"""A drafter for tests that knows what the answers are, and tells the truth, half of it, or anything else."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from infer.core.engine.engine import Engine
from infer.core.engine.speculation.drafter import Draft, Drafter
from infer.core.types.outputs import RequestOutput
from infer.core.types.request import Sequence


def guided(engine: Engine, guesses: Drafter) -> None:
    """Has an engine of one lane take its drafts from `guesses`."""
    assert engine._lane.speculation is not None
    engine._lane.speculation.drafter = guesses


class Guesses:
    """
    Args:
        answers: what requests get, by their id.
        tokens: those of wrong guesses, which may end outputs.
    """

    def __init__(self, answers: Mapping[str, RequestOutput], seed: int, tokens: range) -> None:
        self._outputs = {key: [c.token_ids for c in answer.outputs] for key, answer in answers.items()}
        self._random = random.Random(seed)
        self._tokens = tokens
        self.num_wanted = 0

    def draft(self, wanted: list[tuple[Sequence, int]]) -> list[Draft]:
        """See `Drafter`."""
        assert all(most > 0 for _, most in wanted)
        self.num_wanted += len(wanted)
        return [Draft(self._guess(sequence, most), self._random.randrange(20)) for sequence, most in wanted]

    def keep(self, sequences: Iterable[Sequence]) -> None:
        """Nothing is remembered."""

    def _guess(self, sequence: Sequence, most: int) -> list[int]:
        said = sequence.output_ids
        begun = [ids[len(said) :] for ids in self._outputs[sequence.request.request_id] if ids[: len(said)] == said]
        truth = begun[0] if begun else []
        wrong = self._random.choices(self._tokens, k=most)
        right = self._random.choice([0, 1, self._random.randrange(most + 1), most, most])
        return (truth[:right] + wrong)[: self._random.choice([0, 1, most, most])]
