"""Each call of attention against transformers' own code for it, on numbers drawn for the purpose.

With a model's own numbers a wrong scale, cap or sink would show only as far as its weights let it: in random weights all scores are
near 0 and attention is a mean, however it is computed. Scores here spread as those of trained models do, once around 0 and once
around a level where caps bend them.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, AttentionMeta

from ...errors import ModelError
from .attention import PagedAttention
from .calls import Call, Own

log = logging.getLogger(__name__)

#: Standard deviation of scores, and the levels they spread around.
SPREAD, LEVELS = 2.0, (0.0, 30.0)
#: Relative distance that rounding explains, TF32's on GPUs counted.
FAR = 5e-3
#: Windows are tried at their edge if they are no longer; where there is none, all of so many tokens have to be seen.
LONGEST, UNLIMITED = 8192, 1024


def check_calls(attention: PagedAttention, tokens: int, device: torch.device) -> None:
    """Raises ModelError for a call that our kernels answer otherwise than transformers' own code. In float32, whatever the model is
    in: what is compared is what they compute, and that shows best there.

    Args:
        tokens: the length of the sequence that `attention` was looked at with.
    """
    tried = set()
    for number, (call, own) in enumerate(zip(attention.calls, attention.own, strict=True)):
        if own is None:
            continue
        _compare(attention, number, call, own, own.mask, tokens, tokens, device)
        window = call.config.sliding_window
        far = window or UNLIMITED
        if own.sees is None or window in tried or tokens - ROW_MULTIPLE >= far or far > LONGEST:
            continue
        tried.add(window)
        keys = far + 2 * ROW_MULTIPLE - far % ROW_MULTIPLE
        hidden = torch.zeros(ROW_MULTIPLE, keys).masked_fill(~own.sees(ROW_MULTIPLE, keys), torch.finfo(torch.float32).min)
        _compare(attention, number, call, own, hidden[None, None].to(device), ROW_MULTIPLE, keys, device)


def _compare(
    attention: PagedAttention,
    number: int,
    call: Call,
    own: Own,
    mask: Tensor | None,
    queries: int,
    keys: int,
    device: torch.device,
) -> None:
    for level in LEVELS:
        query, key, value = (one.to(device) for one in _drawn(call, level, queries, keys))
        try:
            expected = own(query, key, value, None if mask is None else mask.float())[0].float()
            got = _ours(attention, call, query, key, value)[0].float()
        except Exception as error:  # code that looks at more than what it is given, a kernel without room for float32
            log.debug("attention call %d cannot be tried: %s", number, error)
            return
        distance = distance_of(got, expected)
        if not distance <= FAR:
            where = f"{type(own.module).__name__}, call {number} of {len(attention.calls)}"
            raise ModelError(
                f"its attention computes something else than our kernels ({where}: relative distance {distance:.2g}), "
                "which a paged cache cannot hold"
            )


def distance_of(got: Tensor, expected: Tensor) -> float:
    """Of the head and row [N, H, D] that are farthest apart, relative to that row or to a quarter of a usual one, if that is more."""
    norms = expected.norm(dim=-1)
    usual = norms.square().mean().sqrt() / 4
    return float(((got - expected).norm(dim=-1) / norms.clamp_min(usual).clamp_min(1e-30)).max())


def _drawn(call: Call, level: float, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """float32 query [1, H, queries, D], key [1, K, keys, D] and value [1, K, keys, Dv]; the queries are those of the last keys.

    A common direction in queries and keys lifts every score to the level.
    """
    c, dim = call.config, call.head_dim
    dice = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=dice)

    common = torch.zeros(dim)
    common[0] = 1.0
    lift = 2 * dim**0.5
    query = normal(1, c.num_heads, queries, dim) * (SPREAD / (c.scale * dim**0.5)) + common * (level / (c.scale * lift))
    key = normal(1, c.num_kv_heads, keys, dim) + common * lift
    value = normal(1, c.num_kv_heads, keys, call.value_dim)
    if c.sliding_window is not None and keys > queries:  # what leaves a window or enters it is one key of many: it is loud
        edge = keys - queries - c.sliding_window
        value[:, :, max(edge, 0) : edge + queries + 2] *= c.sliding_window**0.5
    return query, key, value


def _ours(attention: PagedAttention, call: Call, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `Own`: all but the last keys are there before."""
    queries, keys, device = query.shape[2], key.shape[2], query.device
    blocks = -(-keys // ROW_MULTIPLE)
    cache = attention.ops.new_kv_cache(blocks + 1, ROW_MULTIPLE, call.config.num_kv_heads, call.config.head_dim, query.dtype, device)
    before = keys - queries
    if before:
        unused = query.new_zeros(1, call.config.num_heads, before, call.head_dim)
        attention.store(call, unused, key[:, :, :before], value[:, :, :before], cache, _meta(0, before, blocks, device))
    return attention.attend(call, query, key[:, :, before:], value[:, :, before:], cache, _meta(before, keys, blocks, device), {})


def _meta(start: int, stop: int, blocks: int, device: torch.device) -> AttentionMeta:
    """Tokens [start, stop) of the only sequence, in blocks 1, 2..."""
    return AttentionMeta(
        query_start=torch.tensor([0, stop - start], dtype=torch.int32, device=device),
        kv_lens=torch.tensor([stop], dtype=torch.int32, device=device),
        block_tables=torch.arange(1, blocks + 1, dtype=torch.int32, device=device)[None],
        slots=torch.arange(start, stop, device=device) + ROW_MULTIPLE,
        block_size=ROW_MULTIPLE,
    )
