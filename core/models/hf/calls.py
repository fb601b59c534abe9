"""The calls of attention in a forward pass, as a model's layers make them: what each asks for, and transformers' own code for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import AttentionConfig

from ...errors import ModelError

#: Attention calls of an unlimited view are tried this far back.
_FAR = 256
#: Tensors that layers hand to attention beside queries, keys, values and a mask, and that change nothing or are read.
_KNOWN = frozenset({"s_aux", "position_ids", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k", "input_ids", "token_type_ids"})


@dataclass(frozen=True)
class Call:
    """One call of the attention function in a forward pass. `head_dim` and `value_dim` are the layer's own sizes, which the
    cache's head size, `config.head_dim`, may exceed: the rest is zeros."""

    config: AttentionConfig
    head_dim: int
    value_dim: int


@dataclass(frozen=True)
class Own:
    """The same call in transformers' own code, with the options that the layer gave."""

    attend: Callable[..., Any]
    module: Any
    options: Mapping[str, Any]
    mask: Tensor | None
    """Added to scores [1, 1, T, T], of the tokens that the layer was looked at with."""
    sees: Callable[[int, int], Tensor] | None
    """From numbers of queries and of keys, the last of the same sequence, to a bool mask; None where the layer changed the mask."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """query [1, H, N, D], key [1, K, L, D], value [1, K, L, Dv], mask [1, 1, N, L] -> [1, N, H, Dv]."""
        output: Tensor = self.attend(self.module, query, key, value, mask, **self.options)[0]
        return output


def call_of(module: Any, query: Tensor, key: Tensor, value: Tensor, window: int | None, options: Mapping[str, Any]) -> Call:
    """Raises ModelError for what a paged cache cannot hold, or our kernels do not compute."""
    (batch, heads, rows, dim), kv_heads, value_dim = query.shape, key.shape[1], value.shape[-1]
    if batch != 1 or key.shape != (1, kv_heads, rows, dim) or value.shape[:3] != key.shape[:3] or heads % kv_heads:
        shapes = ", ".join(str(tuple(t.shape)) for t in (query, key, value))
        raise ModelError(f"its attention is given queries, keys and values of shapes {shapes}, which a paged cache cannot hold")
    if value_dim > dim:
        raise ModelError(f"its values have {value_dim} features per head and its keys {dim}; the cache holds no wider values")
    causal = options.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise ModelError("its attention is not causal, so it cannot generate text")
    if more := sorted(key for key, value in options.items() if isinstance(value, Tensor) and key not in _KNOWN):
        raise ModelError(f"its attention depends on more than queries, keys, values and a window ({', '.join(more)})")
    scale, sinks = options.get("scaling"), options.get("s_aux")
    config = AttentionConfig(
        heads,
        kv_heads,
        dim,
        float(dim**-0.5 if scale is None else scale),
        window,
        options.get("softcap"),
        sinks=None if sinks is None else sinks.detach().float().contiguous(),
    )
    return Call(config, dim, value_dim)


def own_attention(module: Any) -> Callable[..., Any] | None:
    """What transformers' code of a layer attends with where it is told no other; None where its file has no such function."""
    found = inspect.unwrap(type(module).forward).__globals__.get("eager_attention_forward") if module is not None else None
    return found if callable(found) else None


def window_of(sees: Callable[..., Any], size: int | None) -> int | None:
    """The number of positions that a mask function of transformers lets a token see, itself included; None is all before it.

    Raises ModelError for any other pattern: bidirectional, in chunks, or by what the tokens are.
    """
    zero = torch.tensor(0)
    span = size or _FAR
    good = True
    try:
        for query in (4 * span + 1, 5 * span - 1, 6 * span):

            def seen(key: int, query: int = query) -> bool:
                return bool(sees(zero, zero, torch.tensor(query), torch.tensor(key)))

            good &= seen(query) and not seen(query + 1)
            good &= seen(0) if size is None else seen(query - size + 1) and not seen(query - size)
    except Exception as error:  # it may index tensors of this very batch
        raise ModelError(f"its attention mask depends on more than positions ({error}), which is not supported") from error
    if not good:
        raise ModelError("its attention mask is neither causal nor a sliding window, which is not supported")
    return size


def seen_by(sees: Callable[..., Any]) -> Callable[[int, int], Tensor]:
    """A mask function of transformers, which depends on positions alone, as `Own.sees`."""

    def seen(queries: int, keys: int) -> Tensor:
        zero = torch.tensor(0)
        at = torch.arange(keys)
        found: Tensor = sees(zero, zero, at[keys - queries :, None], at[None, :])
        return found.expand(queries, keys)

    return seen
