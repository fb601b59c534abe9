"""The arguments of `LLM`'s calls that pool, checked: how texts are cut, prompts, and pairs of them."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError, nearest
from ..types.prompts import as_prompts

#: What `tokenization_kwargs` may hold, as vLLM and transformers call it.
_TOKENIZATION = ("truncate_prompt_tokens", "truncation_side", "truncation", "max_length", "add_special_tokens")


def truncation(limit: Any, more: dict[str, Any], longest: int) -> tuple[int | None, str | None]:
    """Most tokens of a prompt, and the end that is cut; None is the tokenizer's. Raises ConfigError."""
    for name in more:
        if name not in _TOKENIZATION:
            raise ConfigError(
                f"tokenization_kwargs {name!r} is not supported{nearest(name, _TOKENIZATION)}; for now: {', '.join(_TOKENIZATION)}"
            )
    if more.get("add_special_tokens") not in (None, True):
        raise ConfigError("add_special_tokens=False is not supported: give token ids in place of texts")
    side = more.get("truncation_side")
    if side not in (None, "left", "right"):
        raise ConfigError(f"truncation_side must be 'left' or 'right', not {side!r}")
    asked = {"truncate_prompt_tokens": limit} if limit is not None else {}
    if more.get("truncate_prompt_tokens") is not None:
        if asked and limit != more["truncate_prompt_tokens"]:
            raise ConfigError("truncate_prompt_tokens is given twice, with two values; leave one of the two out")
        asked = {"truncate_prompt_tokens": more["truncate_prompt_tokens"]}
    if more.get("truncation") not in (None, False, True, "longest_first"):
        raise ConfigError(f"truncation must be true, false or 'longest_first', not {more['truncation']!r}")
    if more.get("truncation") and not asked:
        asked = {"max_length": -1 if more.get("max_length") is None else more["max_length"]}
    for name, value in asked.items():
        if isinstance(value, bool) or not isinstance(value, int) or (value != -1 and not 1 <= value <= longest):
            raise ConfigError(f"{name} must be -1 or an integer from 1 to max_model_len ({longest}), not {value!r}")
        return longest if value == -1 else value, side
    return None, side


def paired(text_1: Any, text_2: Any) -> tuple[list[Any], list[Any]]:
    """Both sides of `LLM.score` as lists, the first of one or as many as the second. Raises ConfigError."""
    first, second = as_prompts(text_1), as_prompts(text_2)
    if not first or not second:
        raise ConfigError("score needs at least one text on either side")
    if len(first) not in (1, len(second)):
        raise ConfigError(f"score takes one text and one or many, or as many of both; not {len(first)} and {len(second)}")
    return first, second
