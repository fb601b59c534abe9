"""`infer beam`: text or token ids in, the best continuations out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import RecordError
from ...types.beam_params import ALIASES, OF_TOKENS, BeamSearchParams
from ...types.outputs import CompletionOutput
from ...types.params import SamplingParams
from . import constraint
from .generate import GenerateTask
from .pending import PendingPrompt

#: Fields of a record that only a search has.
BEAM_FIELDS = (BeamSearchParams.field_names() | frozenset(ALIASES)) - frozenset(OF_TOKENS) - {"max_tokens", "max_completion_tokens"}
#: Sampling parameters that ask for what every search does.
_NEUTRAL = {"n": 1, "top_p": 1, "min_p": 0, "seed": None, "detokenize": True, "skip_reading_prefix_cache": False, "best_of": 1}


class BeamTask(GenerateTask):
    """Records of `infer generate`, with `beam_width`, `num_return`, `length_penalty`, `early_stopping` and `scoring` of their own."""

    command = "beam"

    def own_fields(self) -> frozenset[str]:
        return (super().own_fields() - {"echo"}) | BEAM_FIELDS | {"use_beam_search"}

    def _set_params(self, pending: PendingPrompt, fields: Mapping[str, Any]) -> None:
        default = self.options.beam
        assert default is not None
        given = self.sampling_of(fields)
        for name in [name for name in given if name not in OF_TOKENS and name not in ("max_tokens", "max_completion_tokens")]:
            value = given.pop(name)
            if name == "n" and type(value) is int:
                given["num_return"] = value  # OpenAI's name for how many to write
            elif value is not None and (name not in _NEUTRAL or value != _NEUTRAL[name]):
                raise RecordError("unsupported", f"{name} has no meaning in a beam search", param=name)
        given.update({name: fields[name] for name in BEAM_FIELDS if fields.get(name) is not None})
        says, wanted = constraint.constraint_of(fields)
        if says:
            default = replace(default, structured_outputs=wanted)
        pending.beam = default.override(given)
        pending.params = pending.beam.sampling()
        chosen = any(given.get(name) is not None for name in ("max_tokens", "max_completion_tokens"))
        pending.default_max_tokens = not (chosen or self.options.max_tokens_given)
        self._set_common(pending, fields)

    def _choice(
        self, choice: CompletionOutput, pending: PendingPrompt, params: SamplingParams, prompt_ids: Sequence[int]
    ) -> dict[str, Any]:
        row = super()._choice(choice, pending, params, prompt_ids)
        row["score"], row["cumulative_logprob"] = choice.score, choice.cumulative_logprob
        return row
