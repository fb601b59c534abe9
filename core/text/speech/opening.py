"""The opening of an output whose language nobody has named: the model says which one it hears. Tensors are used, torch is not imported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .rules import SpeechRules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Opening:
    """A logits processor behind the decoder's first token alone: the output begins with the likeliest language, and with the tokens that
    `SpeechTokens.beginning` puts behind a language that was detected; `rules` hold for what comes then.

    transformers asks which language it is before it writes; here both are one request. What must come has log-probability 0.
    """

    rules: SpeechRules
    of_the_model = True

    def __call__(self, output: Sequence[int], logits: Tensor) -> Tensor:
        """Of float32 [vocabulary], which it writes to."""
        tokens = self.rules.tokens
        if not output:
            codes = sorted(tokens.languages.values())
            return _only(codes[int(logits[codes].argmax())], logits)
        language = next((code for code, token in tokens.languages.items() if token == output[0]), None)
        forced = tokens.beginning(language=language, task=None, timestamps=False, is_detected=True)[2:]
        if len(output) <= len(forced):
            return _only(forced[len(output) - 1], logits)
        return self.rules(output[1 + len(forced) :], logits)


def _only(token: int, logits: Tensor) -> Tensor:
    logits[:] = -math.inf
    logits[token] = 0.0
    return logits
