"""Continuations of a prompt as sequences that share it, and their log-probabilities as an answer.

    prompt          [ p p p p p ]           -> the first token of every continuation
    a b             [ p p p p p | a ]       -> b
    a b c, a b d    [ p p p p p | a b ]     -> b, and c and d

The prompt is one sequence, and each beginning of a continuation (all but its last token) another, which starts from the blocks of the
prompt. Continuations of one token cost nothing more than the prompt does, and those that differ in their last token alone are
computed together. Every log-probability is of one row of logits, which depends on the tokens before it and nothing else.
"""

from __future__ import annotations

from dataclasses import replace

from ...types.outputs import CompletionOutput, Logprob, RequestOutput
from ...types.request import Request, Sequence

Beginning = tuple[int, ...]


def sequences_of(request: Request, run_seed: int, max_model_len: int, block_size: int = 1) -> list[Sequence]:
    """The prompt's sequence, and those of beginnings; each draws one token, which nobody reads."""
    prompt = Sequence.of(request, 0, run_seed, max_model_len, block_size)
    last_tokens: dict[Beginning, set[int]] = {}
    for one in request.continuations or ():
        last_tokens.setdefault(one[:-1], set()).add(one[-1])
        last_tokens.setdefault((), set()).add(one[0])
    asked = {beginning: tuple(sorted(tokens)) for beginning, tokens in sorted(last_tokens.items())}
    size = len(prompt.tokens)
    prompt.asked, prompt.max_length = asked.pop((), ()), size + 1
    return [prompt, *(_sequence(prompt, choice, *item) for choice, item in enumerate(asked.items(), start=1))]


def _sequence(prompt: Sequence, choice: int, beginning: Beginning, last: tuple[int, ...]) -> Sequence:
    made = replace(prompt, choice=choice, tokens=[*prompt.tokens, *beginning], num_forced=len(beginning), asked=last, hashes=[], borders=[])
    made.logprobs = None if prompt.logprobs is None else []
    made.num_prompt = len(made.tokens)
    made.max_length = made.num_prompt + 1
    # The first token of the beginning is told of by the prompt's sequence, the others after that are not known yet.
    made.prompt_logprobs = [None] * (prompt.num_prompt + 1) if len(beginning) > 1 else None
    return made


def scored(sequences: list[Sequence]) -> RequestOutput:
    """The answer of such sequences when all have ended: a choice for each continuation, with `logprobs` of its tokens alone."""
    prompt, request = sequences[0], sequences[0].request
    by_beginning = {tuple(s.tokens[prompt.num_prompt : s.num_prompt]): s for s in sequences}
    outputs = [
        CompletionOutput(i, "", list(one), "length", None, *_told(one, prompt, by_beginning[one[:-1]]))
        for i, one in enumerate(request.continuations or ())
    ]
    return RequestOutput(
        request.request_id,
        request.prompt,
        request.prompt_token_ids,
        outputs or [CompletionOutput(0, "", [], "length", logprobs=[] if prompt.logprobs is not None else None)],
        num_cached_tokens=prompt.num_cached,
        prompt_logprobs=told_prompt(prompt),
        lora_request=request.lora,
        num_virtual_tokens=request.num_virtual,
    )


def _told(one: Beginning, prompt: Sequence, own: Sequence) -> tuple[float, list[dict[int, Logprob]]]:
    """The log-probability of a continuation, and of each of its tokens."""
    assert prompt.logprobs is not None
    assert own.logprobs is not None
    inner = [entries for entries in (own.prompt_logprobs or ())[prompt.num_prompt + 1 :] if entries is not None]
    rows = [prompt.logprobs[0], *inner, *([own.logprobs[0]] if own is not prompt else ())]
    told = [{token: row[token]} for token, row in zip(one, rows, strict=True)]
    return sum(entries[token].logprob for token, entries in zip(one, told, strict=True)), told


def told_prompt(sequence: Sequence) -> list[dict[int, Logprob] | None] | None:
    """The log-probabilities of a prompt's tokens, without the encoder's input."""
    found = sequence.prompt_logprobs
    return found if found is None or not sequence.num_encoder else found[sequence.num_encoder :]
