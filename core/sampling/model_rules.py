"""Rules of generation_config.json about the next token, as transformers' logits processors have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..types.params import SamplingParams

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NoRepeatedNgrams:
    """A logits processor: no `size` tokens in a row come twice, those of the decoder's prompt counted (`no_repeat_ngram_size`)."""

    size: int
    of_the_model = True

    def __call__(self, prompt: Sequence[int], output: Sequence[int], logits: Tensor) -> Tensor:
        tokens, before = [*prompt, *output], self.size - 1
        last = tokens[len(tokens) - before :]
        ends = range(before, len(tokens))
        banned = {tokens[end] for end in ends if tokens[end - before : end] == last} if len(tokens) >= before else set()
        if banned:
            logits[sorted(banned)] = -math.inf
        return logits


@dataclass(frozen=True)
class ForcedEnd:
    """A logits processor: the output's token number `place`, which is its last one, is `token` (`forced_eos_token_id`)."""

    token: int
    place: int
    of_the_model = True

    def __call__(self, output: Sequence[int], logits: Tensor) -> Tensor:
        if len(output) == self.place:
            kept = logits[self.token].clone()
            logits[:] = -math.inf
            logits[self.token] = kept
        return logits


@dataclass(frozen=True)
class ModelRules:
    """What a model's files say; 0 and None: nothing."""

    no_repeat_ngram_size: int = 0
    forced_end: int | None = None

    def applied(self, params: SamplingParams) -> SamplingParams:
        """Parameters with the rules before a record's own logits processors."""
        rules: list[Any] = [NoRepeatedNgrams(self.no_repeat_ngram_size)] if self.no_repeat_ngram_size else []
        if self.forced_end is not None and params.max_tokens is not None:
            rules.append(ForcedEnd(self.forced_end, params.max_tokens - 1))
        return replace(params, logits_processors=(*rules, *params.logits_processors)) if rules else params
