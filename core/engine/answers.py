"""Answers: the output of a request whose sequences have all ended."""

from __future__ import annotations

from ..types.outputs import CompletionOutput, RequestOutput
from ..types.request import Sequence
from .scoring.continuations import scored, told_prompt


def answer(choices: list[Sequence]) -> RequestOutput:
    """The choices in their order; of more than `n` (best_of) the `n` that the model thinks most likely, best first."""
    first = choices[0]
    request = first.request
    if request.continuations is not None:
        return scored(choices)
    if request.beam is None and len(choices) > request.params.n:
        choices = sorted(choices, key=lambda s: -s.cumulative_logprob)[: request.params.n]  # stable: the lower choice first
    outputs = [
        CompletionOutput(
            index=index,
            text=s.text or "",
            token_ids=s.output_ids,
            finish_reason=s.finish_reason,
            stop_reason=s.stop_reason,
            cumulative_logprob=s.cumulative_logprob if s.logprobs is not None or request.beam is not None else None,
            logprobs=s.logprobs,
            score=s.score,
            lora_request=request.lora,
        )
        for index, s in enumerate(choices)
    ]
    read = () if request.media else request.encoder_ids  # of a sound they are no tokens
    return RequestOutput(
        request.request_id,
        request.prompt,
        request.prompt_token_ids,
        outputs,
        num_cached_tokens=first.num_cached,
        prompt_logprobs=told_prompt(first),
        lora_request=request.lora,
        num_virtual_tokens=request.num_virtual,
        encoder_prompt=request.prompt if read else None,
        encoder_prompt_token_ids=list(read) or None,
    )
