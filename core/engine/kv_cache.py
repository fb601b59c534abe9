"""How many blocks the KV cache has, and its tensors."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from infer.kernels.ops import KVCache, Ops

from ..config import EngineConfig
from ..errors import ConfigError, EngineError

log = logging.getLogger(__name__)

#: Share of the free memory that the cache takes on a CPU when nothing is said. Pages are used only when written.
CPU_SHARE = 0.25
#: On a CPU: content that no running record uses is kept in so much memory, or a quarter of what running ones ever used, before
#: memory is taken that was never used.
IDLE_BYTES = 128 << 20
#: Bytes taken to be free where the system does not say.
UNKNOWN_FREE = 4 << 30


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token's keys and values take."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize


def choose_num_blocks(config: EngineConfig, shape: KVShape, free_bytes: int) -> int:
    """Blocks for tokens (the null block not counted).

    Raises ConfigError, naming the largest length that fits, if `max_model_len` was given and does not.
    """
    block_bytes = config.block_size * shape.bytes_per_token
    if config.num_gpu_blocks_override is not None:
        blocks, reason = config.num_gpu_blocks_override, "num_gpu_blocks_override"
    elif config.kv_cache_memory_bytes is not None:
        blocks, reason = config.kv_cache_memory_bytes // block_bytes, "kv_cache_memory_bytes"
    else:
        useful = config.max_num_seqs * -(-config.max_model_len // config.block_size)
        share = CPU_SHARE if config.device == "cpu" else config.gpu_memory_utilization
        blocks, reason = (
            min(useful, int(free_bytes * share) // block_bytes),
            f"{share:.0%} of the free {free_bytes / 2**30:.1f} GiB at most",
        )
    if blocks < 1:
        raise ConfigError(f"the KV cache ({reason}) has no room for one block of {block_bytes} bytes; raise kv_cache_memory_bytes")
    tokens = blocks * config.block_size
    if tokens < config.max_model_len:
        if config.max_model_len_given:
            raise ConfigError(
                f"max_model_len={config.max_model_len} does not fit the KV cache: {blocks} blocks ({reason}) hold {tokens} tokens; "
                f"lower it to {tokens}, or raise kv_cache_memory_bytes to {-(-config.max_model_len // config.block_size) * block_bytes}"
            )
        log.warning(
            "the KV cache holds %d tokens, the model could %d: longer records fail with kv_capacity; raise --kv-cache-memory-bytes",
            tokens,
            config.max_model_len,
        )
    log.info(
        "KV cache: %d blocks of %d tokens, %.2f GiB (%s); %.1f records of %d tokens at a time",
        blocks,
        config.block_size,
        blocks * block_bytes / 2**30,
        reason,
        tokens / config.max_model_len,
        config.max_model_len,
    )
    return blocks


def max_idle_blocks(caches: list[KVCache]) -> int | None:
    """`BlockManager`'s max_idle for these caches; None where their memory is taken from the start anyway."""
    if caches[0].key.device.type != "cpu":
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
    """One cache a layer, with the null block in front of `num_blocks`. Raises EngineError when memory runs out."""
    try:
        return [
            ops.new_kv_cache(num_blocks + 1, block_size, shape.num_kv_heads, shape.head_dim, shape.dtype, device)
            for _ in range(shape.num_layers)
        ]
    except (RuntimeError, MemoryError) as error:
        size = num_blocks * block_size * shape.bytes_per_token / 2**30
        raise EngineError(f"no memory for a KV cache of {size:.2f} GiB; lower --kv-cache-memory-bytes or --max-num-seqs") from error
