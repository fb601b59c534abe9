"""Rules of a transcript's next token, as transformers' logits processors for Whisper have them. Tensors are used, torch is not imported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .tokens import SpeechTokens

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SpeechRules:
    """A logits processor: some tokens are never said, or not first; with `timestamps` times come in pairs around what is said, do not
    go back, and come as soon as all of them together are likelier than any other token.

    It is part of the model: log-probabilities are of what it leaves (`of_the_model`).
    """

    tokens: SpeechTokens
    timestamps: bool
    of_the_model = True

    def __call__(self, output: Sequence[int], logits: Tensor) -> Tensor:
        """Of float32 [vocabulary], which it writes to."""
        tokens = self.tokens
        if tokens.suppressed:
            logits[list(tokens.suppressed)] = -math.inf
        if not output and tokens.begin_suppressed:
            logits[list(tokens.begin_suppressed)] = -math.inf
        if self.timestamps and tokens.no_timestamps is not None:
            self._times(output, logits)
        return logits

    def _times(self, output: Sequence[int], logits: Tensor) -> None:
        first, end = self.tokens.first_time, self.tokens.end
        logits[first - 1] = -math.inf
        was_time = len(output) > 0 and output[-1] >= first
        if was_time and (len(output) < 2 or output[-2] >= first):
            logits[first:] = -math.inf  # a pair is complete
        elif was_time:
            logits[:end] = -math.inf  # the second of a pair, or the end
        newest = next((token for token in reversed(output) if token >= first), None)
        if newest is not None:
            is_open = was_time and not (len(output) < 2 or output[-2] >= first)
            logits[first : newest if is_open else newest + 1] = -math.inf
        if not output:
            logits[:first] = -math.inf
            if self.tokens.max_initial is not None:
                logits[first + self.tokens.max_initial + 1 :] = -math.inf
        likely = logits.log_softmax(dim=-1)
        if bool(likely[first:].logsumexp(dim=-1) > likely[:first].max()):
            logits[:first] = -math.inf
