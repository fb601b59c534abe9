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

from infer.kernels.ops import AttentionMeta, KVCache, Ops

from ...errors import ModelError
from .calls import Call, Own, call_of, own_attention, seen_by, window_of

#: Names that transformers knows these attentions by begin so.
PREFIX = "infer_paged_"
_numbers = itertools.count()

#: Queries [N, H, D] and keys [N, K, D] of a call.
Heard = tuple[Tensor, Tensor]


@dataclass(slots=True)
class _Step:
    caches: list[KVCache]
    meta: AttentionMeta
    plans: dict[tuple[int, int], Any]
    done: int = 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a mask was made of."""

    window: int | None
    error: ModelError | None
    """Raised where a layer attends with it: some models make masks that no layer uses."""
    sees: Callable[[int, int], Tensor] | None


class PagedAttention:
    """The attention of one model.

    Attributes:
        name: what to pass to transformers as `attn_implementation`.
        calls: one for each time the model attends in a forward pass, in order; known after `looking`.
        own: the same calls in transformers' own code, where it is known; known after `looking`, until `forget`.
    """

    def __init__(self, ops: Ops) -> None:
        self.ops = ops
        self.name = f"{PREFIX}{next(_numbers)}"
        self.calls: list[Call] = []
        self.own: list[Own | None] = []
        self._looking = False
        self._windows: set[int | None] = set()
        self._step: _Step | None = None
        self._heard: list[Heard] | None = None
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
        """A forward pass of one sequence within learns the `calls`, and attends by transformers' own code where that is known:
        else what it computes means nothing. Raises ModelError for what we cannot do."""
        self._looking = True
        self.calls, self.own, self._windows = [], [], set()
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

    def forget(self) -> None:
        """Lets go of transformers' own code, once it has been compared with."""
        self.own = []

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

    @contextmanager
    def hearing(self) -> Iterator[list[Heard]]:
        """Gives the queries and keys of each call of the forward passes within."""
        heard: list[Heard] = []
        self._heard = heard
        try:
            yield heard
        finally:
            self._heard = None

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **options: Any
    ) -> tuple[Tensor, None]:
        """query [1, H, N, D], key [1, K, N, D], value [1, K, N, Dv] -> [1, N, H, Dv]."""
        if self._heard is not None:
            self._heard.append((query[0].transpose(0, 1).clone(), key[0].transpose(0, 1).clone()))
        if self._looking:
            return self._look(module, query, key, value, attention_mask, options), None
        step = self._step
        if step is None or step.done == len(self.calls):
            raise ModelError("the model attends more often than at first")
        number, step.done = step.done, step.done + 1
        return self.attend(self.calls[number], query, key, value, step.caches[number], step.meta, step.plans), None

    def attend(
        self,
        call: Call,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cache: KVCache,
        meta: AttentionMeta,
        plans: dict[tuple[int, int], Any],
    ) -> Tensor:
        """As `__call__`, for one call. `plans`: those of this step, by numbers of heads."""
        c = call.config
        heads = (c.num_heads, c.num_kv_heads)
        if heads not in plans:
            plans[heads] = self.ops.plan_attention(meta, *heads)
        meta.plan = plans[heads]
        queries = self.store(call, query, key, value, cache, meta)
        out = self.ops.attention(queries, cache, meta, c)
        return out.view(1, -1, c.num_heads, c.head_dim)[..., : call.value_dim].to(query.dtype)

    def store(self, call: Call, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, meta: AttentionMeta) -> Tensor:
        """Puts keys and values into the cache and gives the queries as our kernel takes them."""
        fused = _fuse(query[0], key[0], value[0], call, cache.value.dtype if cache.value.dtype.itemsize > 1 else query.dtype)
        return self.ops.rope_and_store(fused, None, None, cache, meta, call.config)

    def mask(self, *, mask_function: Callable[..., Any], local_size: int | None = None, **how: Any) -> Tensor | None:
        """Takes the place of transformers' function that makes masks: none is needed, but while looking, the window is read off it."""
        if not self._looking:
            return None
        try:
            window = window_of(mask_function, local_size)
            seen = _Seen(window, None, seen_by(mask_function))
            self._windows.add(window)
        except ModelError as error:
            seen = _Seen(None, error, None)
        made = _own_mask(mask_function=mask_function, local_size=local_size, **how)
        made.infer_seen = seen  # type: ignore[attr-defined]
        return made

    def _look(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, options: dict[str, Any]) -> Tensor:
        seen: _Seen | None = getattr(mask, "infer_seen", None)
        if seen is not None and seen.error is not None:
            raise seen.error
        window = options.get("sliding_window") if seen is None else seen.window
        if mask is not None and seen is None and self._windows - {None, window}:
            raise ModelError("it changes the mask of its sliding windows, which cannot be followed")
        if mask is not None and seen is None and not _hides_later(mask):
            raise ModelError("its layers change the mask of attention, which cannot be followed")
        self.calls.append(call_of(module, query, key, value, window, options))
        attend = own_attention(module)
        if attend is None:
            self.own.append(None)
            return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1])
        own = Own(attend, module, options, mask, None if seen is None else seen.sees)
        self.own.append(own)
        return own(query, key, value, mask)


def _own_mask(**how: Any) -> Tensor:
    """The mask that transformers' own attention adds to scores, [1, 1, T, T]."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    made: Tensor | None = ALL_MASK_ATTENTION_FUNCTIONS["eager"](**how)
    if made is None:  # it hides nothing
        made = torch.zeros(1, 1, how["q_length"], how["kv_length"], dtype=how["dtype"], device=how.get("device"))
    return made


def _hides_later(mask: Any) -> bool:
    """True for a mask [1, 1, T, T] that hides later tokens and does nothing else."""
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        return False
    earlier = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).tril()
    if mask.dtype == torch.bool:
        return bool((mask == earlier).all())
    return bool((mask == 0).where(earlier, mask < -1e4).all())


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
