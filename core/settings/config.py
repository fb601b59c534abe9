"""EngineConfig: what the settings mean on this machine and for this model. Frozen; only this travels inward."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any


class Caution(str):
    """A note of something that is not as it was asked for, or as one would expect: a warning, where others are information."""

    __slots__ = ()


@dataclass(frozen=True)
class EngineConfig:
    """Every decided setting, in plain types."""

    model: str
    task: str  # "generate", "embed" or "classify"
    pooler_config: dict[str, Any]  # what the user says of pooling over the model's files
    tokenizer: str
    tokenizer_mode: str
    revision: str | None
    tokenizer_revision: str | None
    download_dir: str | None
    hf_token: str | None = field(repr=False)
    quantization: str | None  # a scheme of quant/
    activation_dtype: str  # "auto", "int8" or "model"
    quantize_lm_head: bool
    load_format: str
    hf_overrides: dict[str, Any]  # merged into config.json, see spec/hf_config.py
    generation_config: str  # "auto", "none" or a folder: where default sampling parameters come from
    override_generation_config: dict[str, Any]  # over what it says
    structured_outputs_config: dict[str, Any]  # how JSON is written where a request does not say
    reasoning_config: dict[str, Any]  # how the model marks its reasoning
    skip_tokenizer_init: bool  # token ids in, token ids out
    trust_remote_code: bool  # Python code that comes with the model may run
    model_impl: str  # "auto", "infer" or "transformers": whose model code runs
    seed: int

    device: str  # "cpu", "cuda:0", ...
    dtype: str  # "float32", "float16" or "bfloat16"
    kernels: str  # a folder of kernels/
    kernel_build: str | None  # which build of them, where they are compiled
    threads: int
    threads_given: bool
    cpus: Sequence[int]  # where its threads are kept, in order; none: wherever the system puts them
    lanes: int  # most batches that are computed at a time, each by its share of the threads
    lanes_always: bool  # also where no other process wants the cores
    deterministic: bool
    enforce_eager: bool
    max_seq_len_to_capture: int
    disable_async_output_proc: bool  # a step is not begun before the one before it is done

    max_model_len: int
    max_model_len_given: bool  # the user asked for it, so it is refused rather than cut when it does not fit
    max_num_seqs: int
    max_num_batched_tokens: int
    chunked_prefill: bool
    long_prefill_token_threshold: int  # 0: no such limit
    scheduling_policy: str
    max_logprobs: int  # -1: no limit
    logprobs_mode: str  # "raw_logprobs" or "processed_logprobs"

    tensor_parallel_size: int  # ranks that share the model, or each stage of it
    pipeline_parallel_size: int  # stages that its layers are cut into
    enable_expert_parallel: bool  # each expert is one rank's
    disable_custom_all_reduce: bool  # ranks on a CPU exchange over sockets
    data_parallel_size: int  # engines that share the input
    executor: str  # "processes" or "ray": what they run in
    ray_address: str
    resources: dict[str, Any]  # of a Ray cluster that each takes; empty: chosen there
    ship_model: bool  # its files are sent to the cluster
    max_restarts: int  # of them that are replaced when they are lost
    stall_timeout: float  # seconds that a rank or engine may keep the others waiting

    block_size: int
    num_gpu_blocks_override: int | None
    kv_cache_memory_bytes: int | None
    gpu_memory_utilization: float
    cpu_offload_gb: float  # of weights that each GPU leaves in CPU memory
    kv_cache_dtype: str  # "auto" for the model's, "int8", "fp8_e4m3" or "fp8_e5m2"
    enable_prefix_caching: bool
    prefix_caching_hash_algo: str
    watermark: float
    swap_space: float  # GiB of CPU memory for preempted records on each rank; 0 where they are computed again
    preemption_mode: str | None  # "recompute", "swap", or what takes less time

    enable_lora: bool  # records may name LoRA adapters
    max_loras: int  # of them in one step
    max_cpu_loras: int  # of them in memory
    max_lora_rank: int
    lora_merge: str | None  # the folder of the one that is part of the weights
    enable_prompt_adapter: bool  # prompts may name prompt adapters
    max_prompt_adapter_token: int  # their virtual tokens; 0: no such limit
    enable_prompt_embeds: bool  # prompts may be embeddings
    embeds_size: int | None  # features of embeddings in place of tokens; None: there are none

    allowed_local_media_path: str = ""  # the folder that records may name files in; "": none
    allowed_media_domains: list[str] = field(default_factory=list)  # hosts that media may be fetched from
    limit_mm_per_prompt: dict[str, Any] = field(default_factory=dict)  # kind -> most media in a record
    mm_processor_kwargs: dict[str, Any] = field(default_factory=dict)  # of the model's media processor
    media_io_kwargs: dict[str, Any] = field(default_factory=dict)  # how media are read, see MediaArgs
    max_media_bytes: int = 64 << 20  # of a medium's file
    max_image_pixels: int = 1 << 26  # of an image or a frame
    max_audio_seconds: float = 3600.0  # of a sound
    media_timeout: float = 10.0  # seconds for fetching one medium

    speculation: str = "off"  # "off", "auto", "ngram" or "draft": where guesses at the next tokens come from
    speculative_model: str | None = None  # the smaller model that makes them
    num_speculative_tokens: int | None = None  # most guessed of a sequence in a step
    prompt_lookup_min: int = 2  # tokens that must have come before in the same order for a guess
    prompt_lookup_max: int = 16  # tokens that are compared at most

    encoder_len: int = 0  # most tokens that its encoder reads, of a model with one; what is said of lengths is then of the decoder
    hears: bool = False  # it reads sound

    notes: tuple[str, ...] = ()  # said once, when the run starts

    @property
    def max_kept(self) -> int:
        """Most tokens that one sequence keeps in the KV cache; an encoder's input fills whole blocks."""
        return self.max_model_len + -(-self.encoder_len // self.block_size) * self.block_size

    @property
    def has_encoder(self) -> bool:
        return self.encoder_len > 0

    @property
    def num_ranks(self) -> int:
        """Processes that compute one model together."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def kv_size_is_given(self) -> bool:
        """True if the number of KV blocks does not depend on the memory that is free."""
        return self.num_gpu_blocks_override is not None or self.kv_cache_memory_bytes is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for the stats file; the token is not in it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "hf_token": "***" if self.hf_token else None, "notes": list(self.notes)}

    def tell(self, log: logging.Logger) -> None:
        """Logs the notes: cautions as warnings, which Python shows unless told otherwise."""
        for note in self.notes:
            log.log(logging.WARNING if isinstance(note, Caution) else logging.INFO, note)
