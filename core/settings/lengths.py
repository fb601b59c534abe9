"""The length of a context and the size of a step: decided once, and why is said in `notes`, a list of sentences shown once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..spec.model_spec import ModelSpec
from .config import Caution

#: Used when config.json names no length.
FALLBACK_MODEL_LEN = 2048


def choose_max_model_len(asked: int | None, spec: ModelSpec, notes: list[str], max_seq_length: int | None = None) -> int:
    """Most tokens of prompt and output together. Raises ConfigError if more is asked for than the model was made for.

    Args:
        max_seq_length: what sentence_bert_config.json says: the length where none is asked for and the model can do more.
    """
    derived = spec.max_length
    if asked is None and max_seq_length is not None and (derived is None or max_seq_length < derived):
        notes.append(f"max_model_len: {max_seq_length} (sentence_bert_config.json)")
        return max_seq_length
    if derived is None:
        derived = asked or FALLBACK_MODEL_LEN
        notes.append(f"max_model_len: {derived} (config.json states no length)")
    if asked is None or asked <= derived:
        return asked or derived
    if spec.stated_length is not None and asked <= spec.stated_length:
        return asked
    if os.environ.get("INFER_ALLOW_LONG_MAX_MODEL_LEN", "").lower() in ("1", "true", "yes", "on"):
        notes.append(Caution(f"max_model_len: {asked} is beyond the {derived} this model was made for; outputs may be nonsense"))
        return asked
    raise ConfigError(
        f"max_model_len={asked} is more than the {derived} this model was made for "
        "(INFER_ALLOW_LONG_MAX_MODEL_LEN=1 allows it; outputs may be nonsense)"
    )


def choose_limits(
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int | None,
    max_model_len: int,
    chunked_prefill: bool,
    long_prefill_token_threshold: int,
    whole_input: int = 0,
    default_tokens: int,
    given: Mapping[str, str],
    notes: list[str],
) -> dict[str, Any]:
    """max_num_seqs, max_num_batched_tokens and max_model_len that agree with each other.

    A default gives way to a given value, which is noted; two given values that contradict raise ConfigError.
    `given` is field name -> where it came from, or "". `whole_input`: tokens that a step must have room for, of a model whose encoder reads
    its input as a whole.
    """
    tokens = max_num_batched_tokens or default_tokens
    if tokens < whole_input:
        if max_num_batched_tokens is not None:
            name = f"max_num_batched_tokens={tokens}"
            raise ConfigError(f"{name}: the model's encoder reads up to {whole_input - 1} tokens in one step; raise it to {whole_input}")
        tokens = whole_input
        notes.append(f"max_num_batched_tokens: {tokens}, so that every encoder input fits one step")
    small = ("max_num_batched_tokens", tokens)
    if not chunked_prefill:
        if long_prefill_token_threshold:
            raise ConfigError("long_prefill_token_threshold needs chunked prefill; leave one of the two out")
        if tokens < max_model_len:
            if max_num_batched_tokens is None:
                tokens = max_model_len
                notes.append(f"max_num_batched_tokens: {tokens}, so that every prompt fits one step (no chunked prefill)")
            elif "max_model_len" in given:
                raise _contradiction(given, small, ("max_model_len", max_model_len), " without chunked prefill")
            else:
                max_model_len = tokens
                notes.append(f"max_model_len: {tokens}, so that every prompt fits one step (no chunked prefill)")
    if tokens < max_num_seqs:
        if max_num_batched_tokens is None:
            tokens = max_num_seqs
            notes.append(f"max_num_batched_tokens: {tokens}, raised to max_num_seqs")
        elif "max_num_seqs" in given:
            raise _contradiction(given, small, ("max_num_seqs", max_num_seqs))
        else:
            max_num_seqs = tokens
            notes.append(f"max_num_seqs: {tokens}, lowered to max_num_batched_tokens")
    return {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": tokens, "max_model_len": max_model_len}


def _contradiction(given: Mapping[str, str], small: tuple[str, int], large: tuple[str, int], more: str = "") -> ConfigError:
    def told(name: str, value: int) -> str:
        return f"{name}={value} ({given[name]})" if given[name] else f"{name}={value}"

    return ConfigError(f"{told(*small)} is below {told(*large)}{more}; raise the one or lower the other")
