"""Run by test_compilations.py, in a process without Triton's interpreter: calls as a run makes them, of steps of many sizes.

Nothing is computed. Triton is asked for its key of each launch, by which it decides whether to compile; prints how many keys there are
of each kernel after the steps of the first sizes, and which come later.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from infer.kernels import load
from infer.kernels.cuda import sampling
from infer.kernels.grouped import GroupedWeight, Scales
from infer.kernels.ops import AttentionConfig, AttentionMeta, Ops, Penalties, Rotation, SamplingRows, Segments, TokenMask

#: Nothing in it is a multiple of 16 elements.
ODD = 1003
HEADS, KV_HEADS, DIM, BLOCK_SIZE = 4, 2, 64, 16
WIDTH = (HEADS + 2 * KV_HEADS) * DIM
#: One of each class of tiles, see kernels/cuda/configs.py.
FIRST = (3, 40, 70)
LATER = (1, 2, 5, 16, 17, 32, 100, 257)


class NoGPU:
    """What Triton asks of a driver before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def layers(ops: Ops, n: int, dtype: torch.dtype) -> None:
    """A step of n rows through every kind of layer."""
    grouped = GroupedWeight(torch.ones(96, 64, dtype=torch.uint8), 4, 32, Scales(torch.ones(96, 2)))
    in_groups = ops.pack_grouped(grouped, dtype, quantize_input=False)
    x, weight, bias = torch.ones(n, 64, dtype=dtype), torch.ones(96, 64, dtype=dtype), torch.ones(96, dtype=dtype)
    norm = torch.ones(64, dtype=dtype)
    for b in (None, bias):
        ops.linear(x, weight, b)
        ops.linear_grouped(x, in_groups, b)
        ops.linear_int8(ops.quantize(x), ops.pack_int8(weight), b, dtype)
    ops.rms_norm(x, norm, 1e-5)
    ops.add_rms_norm(x, x.clone(), norm, 1e-5, quantize=True)
    ops.layer_norm(x, norm, norm, 1e-5)
    ops.add_layer_norm(x, x.clone(), norm, norm, 1e-5)
    ops.gated_activation(x, "silu")
    ops.activation(x, "gelu", quantize=True)


def attention(ops: Ops, n: int, window: int | None) -> None:
    """A step of n sequences of one token, and of one of n tokens, over contexts of some length; and texts side by side."""
    config = AttentionConfig(HEADS, KV_HEADS, DIM, 0.125, sliding_window=window)
    qkv, angles = torch.ones(n + -n % 16, WIDTH, dtype=torch.bfloat16), torch.ones(600, DIM // 2)
    rotation = Rotation(torch.zeros(len(qkv), dtype=torch.int64), angles, angles)
    cache = ops.new_kv_cache(8, BLOCK_SIZE, KV_HEADS, DIM, torch.bfloat16, torch.device("cpu"))
    for starts in (torch.arange(n + 1, dtype=torch.int32), torch.tensor([0, n], dtype=torch.int32)):
        count = len(starts) - 1
        tables, slots = torch.ones(count, 1 + n // 3, dtype=torch.int32), torch.ones(n, dtype=torch.int64)
        meta = AttentionMeta(starts, torch.full((count,), n + 20, dtype=torch.int32), tables, slots, BLOCK_SIZE)
        meta.plan = ops.plan_attention(meta, HEADS, KV_HEADS)
        ops.attention(ops.rope_and_store(qkv, rotation, None, cache, meta, config), cache, meta, config)
        segments = Segments(starts)
        segments.plan = ops.plan_segments(segments, HEADS, KV_HEADS)
        ops.segment_attention(qkv, rotation, segments, config)


def draws(ops: Ops, n: int, size: int) -> None:
    """n rows of logits, drawn from in every way; those of records beside others begin anywhere."""
    every = torch.ones(n + 3, size, dtype=torch.bfloat16)
    rows = SamplingRows(
        torch.ones(n), torch.zeros(n, dtype=torch.int64), torch.ones(n), torch.zeros(n), torch.zeros(n, dtype=torch.float64)
    )
    entries = 3 * n + n % 5
    bias, repetition, subtract = torch.zeros(3, entries)
    penalties = Penalties(torch.arange(n + 1) * entries // n, torch.zeros(entries, dtype=torch.int64), bias, repetition, subtract)
    mask = TokenMask(torch.zeros(n, dtype=torch.int64), torch.zeros(1, -(-size // 32), dtype=torch.int32))
    places, tokens = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    for first in (0, 1, 3):
        logits = every[first : first + n]
        ops.sample(logits, None, None, None)
        ops.sample(logits, rows, None, None)
        ops.sample(logits, rows, penalties, None)
        ops.sample(logits, rows, penalties, mask)
        ops.processed_logits(logits, places, rows, penalties, mask)
        ops.top_logprobs(logits, places, tokens, min(n, size))
    ops.complete_tokens(torch.zeros(n, dtype=torch.int64), tokens)


def step(n: int) -> None:
    """Of n rows, in both ways of the backend."""
    for deterministic in (False, True):
        ops: Any = load("cuda")
        ops.deterministic = deterministic
        for dtype in (torch.bfloat16, torch.float32):
            layers(ops, n, dtype)
        for window in (None, n + 1):
            attention(ops, n, window)
        for size in (512, ODD):
            draws(ops, n, size)


def main() -> None:
    driver.set_active(NoGPU())
    sampling.WORKSPACE = 1 << 14  # rows are seen to in several parts
    known: dict[str, set[str]] = defaultdict(set)
    late: dict[str, int] = defaultdict(int)

    def decide(*, key: str, fn: Any, **_: Any) -> bool:
        if later and key not in known[fn.name]:
            late[fn.name] += 1
        known[fn.name].add(key)
        return True  # it is not to be compiled

    triton.knobs.runtime.jit_cache_hook = decide
    later = False
    for n in FIRST:
        step(n)
    first = {name: len(keys) for name, keys in known.items()}
    later = True
    for n in LATER:
        step(n)
    print(json.dumps({"first": first, "late": late}))


if __name__ == "__main__":
    main()
