"""The KV cache: its tensors, and how many blocks they have."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from infer.kernels.ops import KVCache, Ops

from ..errors import ConfigError, EngineError
from ..settings.config import EngineConfig
from ..spec.stack import KVSpec
from .device_memory import Usage, no_room

log = logging.getLogger(__name__)

#: Share of the free memory that the cache takes on a CPU when nothing is said. Pages are used only when written.
CPU_SHARE = 0.25
#: On a CPU: content that no running record uses is kept in so much memory, or a quarter of what running ones ever used, before
#: memory is taken that was never used.
IDLE_BYTES = 128 << 20
#: Bytes taken to be free where the system does not say.
UNKNOWN_FREE = 4 << 30
#: What `kv_cache_dtype` names, but for the model's own.
DTYPES = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2, "int8": torch.int8}
#: Kernels count a cache's tokens in 32 bits.
MOST_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class KVShape:
    """Bytes of one token's keys and values, layer by layer."""

    caches: tuple[KVSpec, ...]
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return sum(map(sum, self.token_bytes))

    @property
    def token_bytes(self) -> list[tuple[int, ...]]:
        """Of each tensor of each cache."""
        return [cache.token_bytes(self.dtype.itemsize, scaled=self.dtype == torch.int8) for cache in self.caches]


def kv_dtype(config: EngineConfig, dtype: torch.dtype) -> torch.dtype:
    """The type of keys and values of a model in `dtype`."""
    return DTYPES.get(config.kv_cache_dtype, dtype)


def budget_of(config: EngineConfig, free_bytes: int, usage: Usage | None = None) -> int:
    """Bytes for the KV cache and states; arguments as of `choose_num_blocks`."""
    if config.kv_cache_memory_bytes is not None:
        return config.kv_cache_memory_bytes
    return usage.left if usage is not None else int(free_bytes * CPU_SHARE)


def choose_num_blocks(config: EngineConfig, shape: KVShape, free_bytes: int, usage: Usage | None = None, *, state_bytes: int = 0) -> int:
    """Blocks for tokens (the null block not counted).

    Args:
        state_bytes: bytes of its part that states take.
        free_bytes: of main memory; what a CPU's cache takes a share of.
        usage: of a GPU's memory; what is left of it the cache takes whole.

    Raises ConfigError, naming the largest length that fits, if `max_model_len` was given and does not; and for no block at all.
    """
    block_bytes = config.block_size * shape.bytes_per_token
    whole = -(-config.max_kept // config.block_size)
    useful = config.max_num_seqs * whole
    budget = budget_of(config, free_bytes, usage) - state_bytes
    raise_it = f"raise kv_cache_memory_bytes to {whole * block_bytes + state_bytes}"
    if config.num_gpu_blocks_override is not None:
        blocks, reason = config.num_gpu_blocks_override, "num_gpu_blocks_override"
        raise_it = f"raise num_gpu_blocks_override to {whole}"
    elif not block_bytes:
        return useful  # no layer attends: blocks are there to count with
    elif config.kv_cache_memory_bytes is not None:
        blocks, reason = max(budget, 0) // block_bytes, "kv_cache_memory_bytes"
    elif usage is not None:
        blocks, reason = min(budget // block_bytes, MOST_TOKENS // config.block_size) - 1, "gpu_memory_utilization"
        if blocks < 1:
            raise ConfigError(f"the KV cache has no room for one block of {block_bytes} bytes: {no_room(usage)}")
        raise_it = "raise gpu_memory_utilization"
    else:
        blocks = min(useful, max(budget, 0) // block_bytes)
        reason = f"{CPU_SHARE:.0%} of the free {free_bytes / 2**30:.1f} GiB at most"
    if blocks < 1:
        raise ConfigError(f"the KV cache ({reason}) has no room for one block of {block_bytes} bytes; raise kv_cache_memory_bytes")
    tokens = blocks * config.block_size
    if tokens < config.max_kept:
        both = config.has_encoder and config.encoder_len == config.max_model_len  # then the encoder's part is as long
        fits = tokens // 2 // config.block_size * config.block_size if both else tokens - (config.max_kept - config.max_model_len)
        if config.max_model_len_given:
            raise ConfigError(
                f"max_model_len={config.max_model_len} does not fit the KV cache: {blocks} blocks ({reason}) hold {tokens} tokens; "
                f"lower it to {fits}, or {raise_it}"
            )
        log.warning(
            "the KV cache holds %d tokens, the model could %d: longer records fail with kv_capacity; raise --%s",
            tokens,
            config.max_kept,
            "kv-cache-memory-bytes" if usage is None else "gpu-memory-utilization",
        )
    log.info(
        "KV cache: %d blocks of %d tokens, %.2f GiB (%s); %.1f records of %d tokens at a time",
        blocks,
        config.block_size,
        blocks * block_bytes / 2**30,
        reason,
        tokens / config.max_kept,
        config.max_kept,
    )
    return blocks


def choose_num_host_blocks(config: EngineConfig, shape: KVShape) -> int:
    """Blocks in CPU memory for preempted sequences. No more than the running ones could ever leave there."""
    total = int(config.swap_space * 2**30)
    if not shape.bytes_per_token:
        return 0
    blocks = total // (config.block_size * shape.bytes_per_token)
    if config.device != "cpu" and total:  # pinned memory is taken in powers of two, for each tensor of each layer
        sizes = [config.block_size * size for sizes in shape.token_bytes for size in sizes]
        shares = [total * size // sum(sizes) for size in sizes]
        blocks = min((1 << share.bit_length() - 1) // size if share else 0 for share, size in zip(shares, sizes, strict=True))
    return min(blocks, config.max_num_seqs * -(-config.max_kept // config.block_size))


def max_idle_blocks(caches: list[KVCache]) -> int | None:
    """`BlockManager`'s max_idle for these caches; None where their memory is taken from the start anyway, or there is none."""
    if not caches or caches[0].key.device.type != "cpu":
        return None
    return IDLE_BYTES // sum(cache.key[0].nbytes + cache.value[0].nbytes for cache in caches)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken: of the GPU, or of this machine within its control group's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = UNKNOWN_FREE
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or "max"
    return max(free, 0)


def allocate(ops: Ops, shape: KVShape, num_blocks: int, block_size: int, device: torch.device) -> list[KVCache]:
    """One cache for each layer that attends, with the null block in front of `num_blocks`. Raises EngineError when memory runs out."""
    try:
        return [
            ops.new_kv_cache(num_blocks + 1, block_size, cache.num_kv_heads, cache.head_dim, shape.dtype, device, latent=cache.latent)
            for cache in shape.caches
        ]
    except (RuntimeError, MemoryError) as error:
        size = num_blocks * block_size * shape.bytes_per_token / 2**30
        raise EngineError(f"no memory for a KV cache of {size:.2f} GiB; lower --kv-cache-memory-bytes or --max-num-seqs") from error
