"""What a job is: everything that can change a byte of its output, by name, so that a difference can be named."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ..config import instruction_set
from ..errors import ConfigError
from ..pooling.recipe_files import small_files
from .stats import versions

if TYPE_CHECKING:
    from ..config import EngineConfig
    from ..weights.source import ModelSource

#: Engine settings that can change an answer. Not batch size, chunking, caching, threads: promise 4.
SETTINGS = (
    "dtype",
    "device",
    "kernels",
    "kernel_build",
    "deterministic",
    "tensor_parallel_size",
    "seed",
    "max_model_len",
    "max_logprobs",
    "logprobs_mode",
    "model_impl",
    "structured_outputs_config",
    "trust_remote_code",
    "skip_tokenizer_init",
    "quantization",
    "quantize_lm_head",
    "load_format",
    "hf_overrides",
    "tokenizer_mode",
    "num_gpu_blocks_override",
    "kv_cache_memory_bytes",
)
#: More of them, where a model pools.
_POOLING_SETTINGS = ("task", "pooler_config")
_MODEL_FILES = ("config.json", "generation_config.json")
_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
)


def fingerprint(
    config: EngineConfig, model: ModelSource, tokenizer: ModelSource, job: Mapping[str, Any], *, verify: bool = False
) -> dict[str, Any]:
    """Name -> value, both JSON.

    Args:
        model, tokenizer: where the small files and the weights are.
        job: what the command itself decides (its name, sampling defaults, template…).
        verify: hash the weights, not only their headers and sizes.
    """
    found: dict[str, Any] = {f"version of {name}": value for name, value in versions().items() if name != "python"}
    found |= {f"model's {name}": _hash(model.read(name)) for name in _MODEL_FILES}
    if config.task != "generate":
        found |= {f"model's {name}": _hash(model.read(name)) for name in small_files(model)}
        found |= {name: getattr(config, name) for name in _POOLING_SETTINGS}
    found |= {f"tokenizer's {name}": _hash(tokenizer.read(name)) for name in _TEXT_FILES}
    if config.load_format != "dummy":
        found["model's weights"] = _weights(model, verify=verify)
    found |= {name: getattr(config, name) for name in SETTINGS}
    found["instruction set"] = instruction_set(config.device)
    # A record's own seed is another thing than the run's: one name must never hide another.
    found |= {f"default {name}" if name in found else name: value for name, value in job.items()}
    return orjson.loads(orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS))  # as a journal gives it back


def digest(found: Mapping[str, Any]) -> str:
    """One hash of a fingerprint, in hex."""
    return hashlib.blake2b(orjson.dumps(found, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def refuse_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ConfigError naming what is not as it was."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return
    shown = "; ".join(f"{name} was {_short(before.get(name))}, is {_short(now.get(name))}" for name in names[:5])
    more = f"; and {len(names) - 5} more" if len(names) > 5 else ""
    advice = "start again with --overwrite, or mix both with --resume-force"
    raise ConfigError(f"cannot resume, this is not the same job: {shown}{more}; {advice}")


def _short(value: Any) -> str:
    text = "not set" if value is None else orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:57] + "…"


def _hash(data: bytes | None) -> str | None:
    return None if data is None else hashlib.blake2b(data, digest_size=12).hexdigest()


def _weights(model: ModelSource, *, verify: bool) -> str:
    """Hash of names, shapes, dtypes and file sizes; with `verify` of the files' bytes."""
    tensors = model.tensors()
    hasher = hashlib.blake2b(digest_size=12)
    for name in sorted(tensors):
        info = tensors[name]
        hasher.update(f"{name} {tuple(info.shape)} {info.dtype}\n".encode())
    folder = model.path if model.path.is_dir() else model.path.parent
    for file in sorted({info.file for info in tensors.values()}):
        path = folder / Path(file).name
        hasher.update(f"{path.stat().st_size}\n".encode())
        if verify:
            with path.open("rb") as opened:
                while chunk := opened.read(1 << 22):
                    hasher.update(chunk)
    return hasher.hexdigest() + (" (verified)" if verify else "")
