"""The attention function that transformers' layers call: keys and values go into the paged cache, our kernel attends.

A layer hands over its queries, keys and values, rotated already. What it wants done with them (scale, window, cap) is
learned once, by looking on while a few tokens go through the model; from then on call i of a step is layer i's.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import AttentionConfig, AttentionMeta, KVCache, Ops

from ...errors import ModelError

_numbers = itertools.count()
#: Attention calls of an unlimited view are tried this far back.
_FAR = 256


@dataclass(frozen=True)
class Call:
    """One call of the attention function in a forward pass. `head_dim` and `value_dim` are the layer's own sizes, which the
    cache's head size, `config.head_dim`, may exceed: the rest is zeros."""

    config: AttentionConfig
    head_dim: int
    value_dim: int


@dataclass(slots=True)
class _Step:
    caches: list[KVCache]
    meta: AttentionMeta
    plans: dict[tuple[int, int], Any]
    done: int = 0


class PagedAttention:
    """The attention of one model.

    Attributes:
        name: what to pass to transformers as `attn_implementation`.
        calls: one for each time the model attends in a forward pass, in order; known after `looking`.
    """

    def __init__(self, ops: Ops) -> None:
        self.ops = ops
        self.name = f"infer_paged_{next(_numbers)}"
        self.calls: list[Call] = []
        self._looking = False
        self._windows: set[int | None] = set()
        self._step: _Step | None = None
        _register(self)

    @property
    def num_kv_heads(self) -> int:
        return self.calls[0].config.num_kv_heads

    @property
    def head_dim(self) -> int:
        """Head size of the cache."""
        return self.calls[0].config.head_dim

    @contextmanager
    def looking(self) -> Iterator[None]:
        """A forward pass of one sequence within learns the `calls`; what it computes means nothing. Raises ModelError for what
        we cannot do."""
        self._looking = True
        self.calls, self._windows = [], set()
        try:
            yield
        finally:
            self._looking = False
        if not self.calls:
            raise ModelError("its attention does not go through transformers' AttentionInterface, so it cannot use a paged cache")
        kv_heads = {call.config.num_kv_heads for call in self.calls}
        if len(kv_heads) > 1:
            raise ModelError(f"its layers differ in their number of key/value heads ({sorted(kv_heads)}), which one cache cannot hold")
        width = max(call.config.head_dim for call in self.calls)
        self.calls = [replace(call, config=replace(call.config, head_dim=width)) for call in self.calls]

    @contextmanager
    def step(self, caches: list[KVCache], meta: AttentionMeta) -> Iterator[None]:
        """A forward pass within attends to the tokens in `caches`, one for each of the `calls`, and to its own."""
        self._step = step = _Step(caches, meta, {})
        try:
            yield
            if step.done != len(self.calls):
                raise ModelError(f"the model attended {step.done} times, not {len(self.calls)} times as at first")
        finally:
            self._step = None

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **options: Any
    ) -> tuple[Tensor, None]:
        """query [1, H, N, D], key [1, K, N, D], value [1, K, N, Dv] -> [1, N, H, Dv]."""
        if self._looking:
            return self._look(module, query, key, value, attention_mask, options), None
        step = self._step
        if step is None or step.done == len(self.calls):
            raise ModelError("the model attends more often than at first")
        call, cache, meta = self.calls[step.done], step.caches[step.done], step.meta
        step.done += 1
        c = call.config
        heads = (c.num_heads, c.num_kv_heads)
        if heads not in step.plans:
            step.plans[heads] = self.ops.plan_attention(meta, *heads)
        meta.plan = step.plans[heads]
        fused = _fuse(query[0], key[0], value[0], call, cache.value.dtype)
        out = self.ops.attention(self.ops.rope_and_store(fused, None, None, cache, meta, c), cache, meta, c)
        return out.view(1, -1, c.num_heads, c.head_dim)[..., : call.value_dim].to(query.dtype), None

    def mask(self, *, mask_function: Callable[..., Any], kv_length: int, local_size: int | None = None, **_: Any) -> Tensor | None:
        """Takes the place of transformers' function that makes masks: none is needed, but while looking, the window is read off it."""
        if not self._looking:
            return None
        window: int | ModelError | None
        try:
            window = _window(mask_function, local_size)
            self._windows.add(window)
        except ModelError as error:  # raised where a layer attends with it: some models make masks that no layer uses
            window = error
        marked = torch.ones(1, 1, kv_length, kv_length, dtype=torch.bool)
        marked.infer_window = window  # type: ignore[attr-defined]
        return marked

    def _look(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, options: dict[str, Any]) -> Tensor:
        (batch, heads, rows, dim), kv_heads, value_dim = query.shape, key.shape[1], value.shape[-1]
        if batch != 1 or key.shape != (1, kv_heads, rows, dim) or value.shape[:3] != key.shape[:3] or heads % kv_heads:
            shapes = ", ".join(str(tuple(t.shape)) for t in (query, key, value))
            raise ModelError(f"its attention is given queries, keys and values of shapes {shapes}, which a paged cache cannot hold")
        if value_dim > dim:
            raise ModelError(f"its values have {value_dim} features per head and its keys {dim}; the cache holds no wider values")
        causal = options.get("is_causal")
        if not (getattr(module, "is_causal", True) if causal is None else causal):
            raise ModelError("its attention is not causal, so it cannot generate text")
        window = getattr(mask, "infer_window", options.get("sliding_window"))
        if isinstance(window, ModelError):
            raise window
        if mask is not None and not hasattr(mask, "infer_window") and self._windows - {None, window}:
            raise ModelError("it changes the mask of its sliding windows, which cannot be followed")
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
        self.calls.append(Call(config, dim, value_dim))
        return query.new_zeros(1, rows, heads, value_dim)


def _register(attention: PagedAttention) -> None:
    """Makes transformers know the attention by its name, without keeping it alive. Raises ModelError."""
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
    except ImportError as error:
        raise ModelError(f"this version of transformers has no attention interface ({error}); take 4.56 or later") from error
    alive = weakref.ref(attention)

    def attend(*args: Any, **kwargs: Any) -> Any:
        known = alive()
        assert known is not None, "a model outlives its attention"
        return known(*args, **kwargs)

    def mask(**kwargs: Any) -> Any:
        known = alive()
        return None if known is None else known.mask(**kwargs)

    AttentionInterface.register(attention.name, attend)
    AttentionMaskInterface.register(attention.name, mask)


def _fuse(query: Tensor, key: Tensor, value: Tensor, call: Call, dtype: torch.dtype) -> Tensor:
    """[N, (H + 2K) * width] of heads [H, N, D], [K, N, D] and [K, N, Dv], as `rope_and_store` takes it."""
    heads, kv_heads, width = call.config.num_heads, call.config.num_kv_heads, call.config.head_dim
    shape = (query.shape[1], heads + 2 * kv_heads, width)
    narrow = width > call.head_dim or width > call.value_dim
    fused = (torch.zeros if narrow else torch.empty)(shape, dtype=dtype, device=query.device)
    fused[:, :heads, : call.head_dim] = query.transpose(0, 1)
    fused[:, heads : heads + kv_heads, : call.head_dim] = key.transpose(0, 1)
    fused[:, heads + kv_heads :, : call.value_dim] = value.transpose(0, 1)
    return fused.view(shape[0], -1)


def _window(sees: Callable[..., Any], size: int | None) -> int | None:
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
