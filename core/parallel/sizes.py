"""Sizes that ranks may share a model by: which numbers of ranks divide it, and what each holds. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

#: Sizes that a message names.
_MOST = 64


def share(count: int, size: int) -> int:
    """The share that each of `size` ranks holds of `count` things that divide evenly."""
    assert count % size == 0, f"{count} things do not divide among {size} ranks; `check_size` refuses that"
    return count // size


def kv_share(num_kv_heads: int, rank: int, size: int) -> tuple[int, int]:
    """(first, count) of the key/value heads of a rank. With more ranks than heads, neighbouring ranks hold the same one."""
    if size <= num_kv_heads:
        count = share(num_kv_heads, size)
        return rank * count, count
    return rank // share(size, num_kv_heads), 1


def padded_share(count: int, size: int) -> int:
    """The share of a vocabulary that each rank holds, the last one's padded."""
    return -(-count // size)


def fitting_sizes(hf_config: Mapping[str, Any], most: int = _MOST) -> list[int]:
    """The numbers of ranks, up to `most`, that can share the model of a config.json."""
    heads = int(hf_config["num_attention_heads"])
    kv_heads = int(hf_config.get("num_key_value_heads") or heads)
    inner = int(hf_config["intermediate_size"])
    return [
        size for size in range(1, most + 1) if heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0) and inner % size == 0
    ]


def check_size(hf_config: Mapping[str, Any], size: int) -> None:
    """Raises ConfigError, naming the sizes that work, if `size` ranks cannot share the model."""
    if size == 1:
        return
    try:
        fitting = fitting_sizes(hf_config, max(_MOST, size))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"tensor_parallel_size={size}: config.json does not say how the model could be shared (no {error})") from None
    if size not in fitting:
        heads, inner = hf_config["num_attention_heads"], hf_config["intermediate_size"]
        kv_heads = hf_config.get("num_key_value_heads") or heads
        raise ConfigError(
            f"tensor_parallel_size={size}: the model's {heads} attention heads, {kv_heads} key/value heads and "
            f"{inner} features between its feed-forward layers cannot be shared evenly; sizes that work: {', '.join(map(str, fitting))}"
        )
