"""EngineConfig: what the settings mean on this machine and for this model.

Frozen; only this travels inward.

The `choose_*` functions decide one thing each and say why in `notes`, a list of sentences shown once.
torch is imported inside them, never when this file is. The file is as long as the list of settings and of these decisions.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import ConfigError, nearest
from ..spec.model_spec import ModelSpec
from ..spec.read import DTYPE_NAMES

#: Used when config.json names no length.
FALLBACK_MODEL_LEN = 2048


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
    quantize_lm_head: bool
    load_format: str
    hf_overrides: dict[str, Any]  # merged into config.json, see spec/hf_config.py
    generation_config: str  # "auto", "none" or a folder: where default sampling parameters come from
    override_generation_config: dict[str, Any]  # over what it says
    structured_outputs_config: dict[str, Any]  # how JSON is written where a request does not say
    skip_tokenizer_init: bool  # token ids in, token ids out
    trust_remote_code: bool  # Python code that comes with the model may run
    model_impl: str  # "auto", "infer" or "transformers": whose model code runs
    seed: int

    device: str  # "cpu", "cuda:0", ...
    dtype: str  # "float32", "float16" or "bfloat16"
    kernels: str  # a folder of kernels/
    kernel_build: str | None  # which build of them, where they are compiled
    threads: int
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

    tensor_parallel_size: int  # ranks that share the model
    data_parallel_size: int  # engines that share the input
    stall_timeout: float  # seconds that a rank may keep the others waiting

    block_size: int
    num_gpu_blocks_override: int | None
    kv_cache_memory_bytes: int | None
    gpu_memory_utilization: float
    cpu_offload_gb: float  # of weights that each GPU leaves in CPU memory
    enable_prefix_caching: bool
    prefix_caching_hash_algo: str
    watermark: float
    swap_space: float  # GiB of CPU memory for preempted records on each rank; 0 where they are computed again
    preemption_mode: str | None  # "recompute", "swap", or what takes less time

    notes: tuple[str, ...] = ()  # said once, when the run starts

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


def choose_device(device: str, notes: list[str]) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> "cpu" or "cuda:N". Raises ConfigError if there is no such GPU."""
    if device == "cpu":
        return device
    import torch

    if not torch.cuda.is_available():
        if device == "auto":
            notes.append("device: cpu (torch sees no GPU)")
            return "cpu"
        built = "it sees none" if torch.version.cuda or torch.version.hip else "this torch is built without CUDA"
        raise ConfigError(f"device={device}: torch cannot use a GPU here: {built}; try device=cpu")
    index = int(device.partition(":")[2] or torch.cuda.current_device())
    if index >= torch.cuda.device_count():
        raise ConfigError(f"device={device}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
    notes.append(f"device: cuda:{index} ({torch.cuda.get_device_name(index)})")
    return f"cuda:{index}"


def check_gpus(device: str, tensor_parallel_size: int, data_parallel_size: int) -> None:
    """Raises ConfigError if there are too few GPUs: each rank takes one, in order from `device`."""
    needed = tensor_parallel_size * data_parallel_size
    if device == "cpu" or needed == 1:
        return
    import torch

    there = torch.cuda.device_count() - int(device.partition(":")[2])
    if needed > there:
        sizes = f"tensor_parallel_size={tensor_parallel_size} and data_parallel_size={data_parallel_size}"
        raise ConfigError(f"{sizes} take {needed} GPUs, and from {device} on there are {there}; lower them, or take device=cpu")


def choose_kernels(kernels: str, device: str, notes: list[str], *, require: bool, build: bool) -> tuple[str, str | None]:
    """The kernel backend, and which build of it where it is compiled (two builds may round differently).

    Args:
        require: the slow reference kernels will not do.
        build: compile the CPU's if need be, and take the reference kernels if that cannot be done; else `auto` is a guess.

    Raises ConfigError for a backend there is not, or that cannot be had here.
    """
    from infer.kernels import available, usable

    known = available()
    if kernels not in ("auto", *known):
        raise ConfigError(f"unknown kernels {kernels!r}{nearest(kernels, known)}; available: {', '.join(known)}")
    kind = device.partition(":")[0]
    if kernels not in ("auto", *usable(kind)):
        raise ConfigError(f"kernels={kernels} cannot run on {device}; leave it out, or take device={kernels}")
    if require and kernels == "reference":
        raise ConfigError("require_kernels contradicts kernels=reference; leave one of the two out")
    if kernels == "reference":
        return kernels, None
    found, why = _triton(device) if kind == "cuda" else _compiled() if build else (None, "")
    if why:
        if require or kernels != "auto":
            raise ConfigError(f"{'require_kernels' if require else f'kernels={kernels}'}: {why}")
        notes.append(Caution(f"kernels: reference, which is much slower ({why})"))
        return "reference", None
    return kind, found


def _compiled() -> tuple[str | None, str]:
    """(which build of the CPU kernels, why there is none), made now if need be."""
    from infer.kernels.cpu.library import BuildError, library

    try:
        return library().digest, ""
    except BuildError as error:
        return None, str(error)


def _triton(device: str) -> tuple[str | None, str]:
    """(which compiler makes the kernels of that GPU, why none can). They are made as they are met, in seconds all together."""
    import torch

    if not torch.version.hip and (capability := torch.cuda.get_device_capability(device)) < (8, 0):
        return None, f"this GPU has compute capability {capability[0]}.{capability[1]}, and the Triton kernels need 8.0"
    try:
        from infer.kernels.cuda.build import digest, lacking
    except Exception as error:  # whatever a broken installation raises
        return None, f"triton cannot be used: {error}; pip install 'triton>=3.4'"
    return (None, why) if (why := lacking()) else (digest(), "")


def choose_dtype(dtype: str, spec: ModelSpec, device: str, notes: list[str]) -> str:
    """float32, float16 or bfloat16. Raises ConfigError for one this device or model cannot use."""
    stated = spec.dtype
    cuda = device.startswith("cuda")
    fast = has_bfloat16(device)
    narrow = "float16" in spec.unsafe_dtypes
    if dtype != "auto":
        chosen = DTYPE_NAMES.get(dtype, dtype)
        _check_dtype(chosen, device, narrow=narrow, fast=fast)
        if chosen == "bfloat16" and not fast:
            notes.append(Caution("dtype: bfloat16 is slow on this CPU, which has no bfloat16 dot products"))
        if chosen != stated:
            notes.append(f"dtype: {chosen} (the checkpoint has {stated or 'no dtype'})")
        return chosen

    name = f"a {stated} checkpoint" if stated else "a checkpoint that states no dtype"
    if cuda:
        half = "bfloat16" if narrow and fast else "float32" if narrow else "float16"
        chosen = "bfloat16" if stated == "bfloat16" and fast else half
        reason = "the checkpoint's" if chosen == stated else f"{name} on this GPU"
    elif stated in ("bfloat16", "float16") or fast:
        chosen = "bfloat16" if fast else "float32"
        why = "which has bfloat16 dot products" if fast else "which has no bfloat16 dot products"
        reason = "the checkpoint's" if chosen == stated else f"{name} on a CPU {why}"
    else:
        chosen, reason = "float32", "the checkpoint's" if stated else f"{name} on this CPU"
    notes.append(f"dtype: {chosen} ({reason})")
    return chosen


def has_bfloat16(device: str) -> bool:
    """True if the device multiplies bfloat16 natively."""
    if device.startswith("cuda"):
        import torch

        return bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= 8
    from infer.kernels.features import BFLOAT16, features

    return bool(features() & BFLOAT16)


def instruction_set(device: str) -> str:
    """The hardware that the device computes with: two that differ may round differently."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability()) if device == "cpu" else torch.cuda.get_device_name(device)


def _check_dtype(dtype: str, device: str, *, narrow: bool, fast: bool) -> None:
    if dtype == "float16" and narrow:
        raise ConfigError("dtype=float16: this model's activations do not fit float16; use bfloat16 or float32")
    if dtype == "bfloat16" and device.startswith("cuda") and not fast:
        raise ConfigError("dtype=bfloat16: this GPU has no bfloat16 (it needs compute capability 8.0); use float16")
    if dtype == "float16" and device == "cpu":
        import torch

        try:
            torch.nn.functional.linear(torch.zeros(2, 16, dtype=torch.float16), torch.zeros(4, 16, dtype=torch.float16))
        except RuntimeError as error:
            raise ConfigError(f"dtype=float16: torch cannot multiply float16 on this CPU ({error}); use bfloat16 or float32") from None


def choose_max_model_len(asked: int | None, spec: ModelSpec, notes: list[str], max_seq_length: int | None = None) -> int:
    """Most tokens of prompt and output together. Raises ConfigError if more is asked for than the model was made for.

    Args:
        max_seq_length: what sentence_bert_config.json says: the length where none is asked for and the model can do more.
    """
    derived = spec.max_length
    if asked is None and max_seq_length is not None and (derived is None or max_seq_length < derived):
        notes.append(f"max_model_len: {max_seq_length} (sentence_bert_config.json)")
        return max_seq_length
    if derived is None:
        derived = asked or FALLBACK_MODEL_LEN
        notes.append(f"max_model_len: {derived} (config.json states no length)")
    if asked is None or asked <= derived:
        return asked or derived
    if spec.stated_length is not None and asked <= spec.stated_length:
        return asked
    if os.environ.get("INFER_ALLOW_LONG_MAX_MODEL_LEN", "").lower() in ("1", "true", "yes", "on"):
        notes.append(Caution(f"max_model_len: {asked} is beyond the {derived} this model was made for; outputs may be nonsense"))
        return asked
    raise ConfigError(
        f"max_model_len={asked} is more than the {derived} this model was made for "
        "(INFER_ALLOW_LONG_MAX_MODEL_LEN=1 allows it; outputs may be nonsense)"
    )


def choose_limits(
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int | None,
    max_model_len: int,
    chunked_prefill: bool,
    long_prefill_token_threshold: int,
    default_tokens: int,
    given: Mapping[str, str],
    notes: list[str],
) -> dict[str, Any]:
    """max_num_seqs, max_num_batched_tokens and max_model_len that agree with each other.

    A default gives way to a given value, which is noted; two given values that contradict raise ConfigError.
    `given` is field name -> where it came from, or "".
    """
    tokens = max_num_batched_tokens or default_tokens
    small = ("max_num_batched_tokens", tokens)
    if not chunked_prefill:
        if long_prefill_token_threshold:
            raise ConfigError("long_prefill_token_threshold needs chunked prefill; leave one of the two out")
        if tokens < max_model_len:
            if max_num_batched_tokens is None:
                tokens = max_model_len
                notes.append(f"max_num_batched_tokens: {tokens}, so that every prompt fits one step (no chunked prefill)")
            elif "max_model_len" in given:
                raise _contradiction(given, small, ("max_model_len", max_model_len), " without chunked prefill")
            else:
                max_model_len = tokens
                notes.append(f"max_model_len: {tokens}, so that every prompt fits one step (no chunked prefill)")
    if tokens < max_num_seqs:
        if max_num_batched_tokens is None:
            tokens = max_num_seqs
            notes.append(f"max_num_batched_tokens: {tokens}, raised to max_num_seqs")
        elif "max_num_seqs" in given:
            raise _contradiction(given, small, ("max_num_seqs", max_num_seqs))
        else:
            max_num_seqs = tokens
            notes.append(f"max_num_seqs: {tokens}, lowered to max_num_batched_tokens")
    return {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": tokens, "max_model_len": max_model_len}


def _contradiction(given: Mapping[str, str], small: tuple[str, int], large: tuple[str, int], more: str = "") -> ConfigError:
    def told(name: str, value: int) -> str:
        return f"{name}={value} ({given[name]})" if given[name] else f"{name}={value}"

    return ConfigError(f"{told(*small)} is below {told(*large)}{more}; raise the one or lower the other")
