"""Sizes that ranks may share a model by: which numbers of ranks divide it, and what each holds.

No torch.
"""

from __future__ import annotations

from collections.abc import Collection

from ..errors import ConfigError
from ..spec.model_spec import ModelSpec
from ..spec.stack import Shares

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


def fitting_sizes(shares: Collection[Shares], most: int = _MOST) -> list[int]:
    """The numbers of ranks, up to `most`, that can share a model's kinds of layers."""
    return [size for size in range(1, most + 1) if all(one.fit(size) for one in shares)]


def shares_of(spec: ModelSpec, *, whole_experts: bool) -> frozenset[Shares]:
    """What ranks share of a model, each expert or whole ones."""
    if not whole_experts or spec.stack is None:
        return spec.shares
    return frozenset(shares for layer in spec.stack.layers for shares in layer.shares(whole_experts=True))


def check_size(spec: ModelSpec, size: int, *, whole_experts: bool = False) -> None:
    """Raises ConfigError, naming the sizes that work, if `size` ranks cannot share the model, each expert or whole ones."""
    if size == 1:
        return
    if not spec.shares:
        how = "have an encoder" if spec.has_encoder else "run through transformers' code"
        why = f"{spec.model_type} models {how}, which ranks cannot share"
        raise ConfigError(f"tensor_parallel_size={size}: {why}; leave it at 1")
    shares = shares_of(spec, whole_experts=whole_experts)
    fitting = fitting_sizes(shares, max(_MOST, size))
    if size not in fitting:
        worst = next(one for one in shares if not one.fit(size))
        if worst.experts % size:
            raise ConfigError(
                f"enable_expert_parallel: {size} ranks (tensor_parallel_size) cannot have as many of the model's {worst.experts} experts "
                f"each; sizes that work: {', '.join(map(str, fitting))}"
            )
        counts = {
            "attention heads": worst.num_heads,
            "key/value heads": worst.num_kv_heads,
            "channels or heads of layers that keep states": worst.mixed,
            "features between its feed-forward layers": worst.inner,
        }
        *told, last = [f"{count} {what}" for what, count in counts.items() if count]
        raise ConfigError(
            f"tensor_parallel_size={size}: the model's {', '.join(told)}{' and ' if told else ''}{last} cannot be shared evenly; "
            f"sizes that work: {', '.join(map(str, fitting))}"
        )
