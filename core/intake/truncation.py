"""Cutting a prompt that is too long, where its parameters ask for that. Used by `LLM` and by the tasks of a job."""

from __future__ import annotations

from ..types.params import SamplingParams


def truncated(ids: list[int], params: SamplingParams, max_model_len: int) -> list[int]:
    """The prompt tokens that are left after `truncate_prompt_tokens`; the same list where nothing is to be cut.

    Tokens are counted after special tokens were added, and cut whatever they are: with side "left" the last ones stay, as in
    vLLM's seed, so a BOS at the beginning goes too. -1 leaves room for one output token. A limit above `max_model_len` is no
    error here: the prompt that it lets through is refused like any other that is too long.
    """
    limit = params.truncate_prompt_tokens
    if limit is None:
        return ids
    if limit == -1:
        limit = max(1, max_model_len - 1)
    if len(ids) <= limit:
        return ids
    return ids[len(ids) - limit :] if params.truncation_side == "left" else ids[:limit]
