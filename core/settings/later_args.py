"""The settings that vLLM has and we do not support yet, as part of `EngineArgs`: refused unless left at their defaults."""

# ruff: noqa: RUF009 (the defaults are fields, made by `setting`)

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from .setting import setting

_later = partial(setting, group="later", pending=True)


@dataclass(kw_only=True)
class LaterArgs:
    """See `EngineArgs`."""

    ignore_patterns: list[str] | None = _later(None, "Files not to load.")
    config_format: str = _later("auto", "Format of the model's config.")
    hf_config_path: str | None = _later(None, "Take config.json from another place.")
    logits_processors: list[str] | None = _later(None, "Logits processors for all records.")
    disable_sliding_window: bool = _later(False, "Cap the length at the sliding window instead.")
    lora_dtype: str = _later("auto", "Type of adapter weights.")
    lora_extra_vocab_size: int = _later(256, "Room for tokens adapters add.", low=0)
    fully_sharded_loras: bool = _later(False, "Shard both halves of adapters.")
    kv_offloading_size: float | None = _later(None, "GiB of CPU memory behind the KV cache.", low=0)
    optimization_level: int | None = _later(None, "How much is compiled.", low=0)
    performance_mode: str | None = _later(None, "Throughput or latency.")
    num_scheduler_steps: int = _later(1, "Steps per scheduling round.", low=1)
    scheduler_delay_factor: float = _later(0.0, "Wait before the next prompt.", low=0)
    num_lookahead_slots: int = _later(0, "Slots for speculative tokens.", low=0)
    tokenizer_pool_size: int = _later(0, "Processes that tokenize.", low=0)
