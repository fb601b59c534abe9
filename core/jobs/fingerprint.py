"""Everything that can change a byte of a row, by name, so that a difference can be named: model, settings, options, versions.

What only decides how fast, where or in what file rows are written is not in it, nor which records are answered: see `identity.py`.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ..build.generation_config import FILE as GENERATION_CONFIG
from ..build.generation_config import NONE
from ..errors import ModelError
from ..media.files import FILES as PROCESSOR_FILES
from ..media.files import VIDEO_FILE, takes_images, takes_sounds
from ..media.policy import fingerprint as media_settings
from ..pooling.recipe_files import small_files
from ..settings.hardware import instruction_set
from .stats import library_version, versions

if TYPE_CHECKING:
    from ..settings.config import EngineConfig
    from ..weights.source import ModelSource

#: Engine settings that can change an answer. Not batch size, chunking, caching, threads: no answer depends on those.
SETTINGS = (
    "dtype",
    "device",
    "kernels",
    "kernel_build",
    "tensor_parallel_size",
    "enable_expert_parallel",
    "max_model_len",
    "skip_tokenizer_init",
    "quantization",
    "activation_dtype",
    "quantize_lm_head",
    "hf_overrides",
    "tokenizer_mode",
)
#: More of them, where a model writes,
_WRITING_SETTINGS = (
    "seed",
    "max_logprobs",
    "logprobs_mode",
    "structured_outputs_config",
    "reasoning_config",
    "kv_cache_dtype",
    "num_gpu_blocks_override",
    "kv_cache_memory_bytes",
)
#: and where it pools.
_POOLING_SETTINGS = ("task", "pooler_config")

#: What a tokenizer.json is read with.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
#: Ends of the names of the files that a tokenizer without one may read: transformers chooses.
_VOCABULARIES = (".json", ".txt", ".model", ".tiktoken", ".vocab", ".bpe", ".codes", ".spm")
#: In such a folder, but about the weights or about training.
_NO_VOCABULARIES = (
    ".index.json",
    "generation_config.json",
    "trainer_state.json",
    "infer-source.json",
    "requirements.txt",
    "README.txt",
    "LICENSE.txt",
)
_CHAT_FILES = (
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer_config.json",
    "additional_chat_templates/tool_use.jinja",
)

#: Every byte of the weights, which is known where --verify was given: it is compared where both know it.
VERIFIED = "model's weights, every byte"
#: Without it so much of them is looked at, evenly: models of one shape, as those of two checkpoints, differ all over.
_SAMPLES = 256
_SAMPLE_BYTES = 4096


def fingerprint(
    config: EngineConfig, model: ModelSource, tokenizer: ModelSource, job: Mapping[str, Any], *, verify: bool = False
) -> dict[str, Any]:
    """Name -> value, both JSON.

    Args:
        model, tokenizer: where the small files and the weights are.
        job: what the command itself decides (its name as "command", sampling defaults, template…).
        verify: hash the weights whole too.

    Raises ModelError where a file cannot be read.
    """
    from ..weights.find import own_name
    from ..weights.formats import BESIDE

    writes, chats = config.task == "generate", job.get("command") in ("chat", "batch", "embed", "classify")
    theirs, slow = _runs_in_transformers(config, model), _is_slow(config, tokenizer)
    found: dict[str, Any] = {"model's name": own_name(model), "model's code": "transformers" if theirs else "infer"}
    found["model's config.json"] = _hash(model.read("config.json"))
    if model.scheme:
        found |= {f"model's {name}": _hash(model.read(name)) for name in BESIDE}
    if writes:
        found |= _generation_config(config, model)
    else:
        found |= {f"model's {name}": _hash(model.read(name)) for name in small_files(model)}
    if not config.skip_tokenizer_init:
        names = _vocabularies(tokenizer) if slow else _TOKENIZER_FILES
        found |= {f"tokenizer's {name}": _hash(tokenizer.read(name)) for name in names}
    if chats:
        found |= {f"tokenizer's {name}": _hash(tokenizer.read(name)) for name in _CHAT_FILES}
    if config.trust_remote_code:
        found |= {f"model's {name}": _hash(model.read(name)) for name in _code(model)}
        found |= {f"tokenizer's {name}": _hash(tokenizer.read(name)) for name in _code(tokenizer)}
    found["dummy weights"] = config.seed if config.load_format == "dummy" else None
    if config.load_format != "dummy":
        found["model's weights"] = _weights(model)
        if verify:
            found[VERIFIED] = _weights(model, whole=True)
    found |= {name: getattr(config, name) for name in SETTINGS}
    found |= {name: getattr(config, name) for name in (_WRITING_SETTINGS if writes else _POOLING_SETTINGS)}
    if writes and config.kv_size_is_given:
        found["block_size"] = config.block_size  # what is too long for the cache is told in the record's row
    if config.device != "cpu":  # there nothing depends on it
        found["deterministic"] = config.deterministic
    found["instruction set"] = instruction_set(config.device)
    found |= _versions(
        "torch",
        "orjson",
        *(() if config.skip_tokenizer_init else ("tokenizers",)),
        *(("transformers",) if theirs or slow else ()),
        *(("sentencepiece", "tiktoken") if slow else ()),
        *(("jinja2",) if chats or job.get("template") is not None else ()),
        *(("llguidance", "jsonschema") if writes else ()),
        *(("gguf", "numpy") if model.path.is_file() else ()),
    )
    spec = model.spec(config.hf_overrides)
    if writes and (takes_images(config, model, spec) or takes_sounds(config, model, spec)):
        found |= media_settings(config) | {f"model's {name}": _hash(model.read(name)) for name in PROCESSOR_FILES}
        found |= {f"model's {name}": _hash(content) for name in (VIDEO_FILE,) if (content := model.read(name)) is not None}
        found |= _versions("pillow", "transformers", "numpy")
    # A record's own seed is another thing than the run's: one name must never hide another.
    found |= {f"default {name}" if name in found else name: value for name, value in job.items()}
    return _as_in_a_journal(found)


def _as_in_a_journal(found: dict[str, Any]) -> dict[str, Any]:
    """As a journal gives it back."""
    return orjson.loads(orjson.dumps(_narrow(found), option=orjson.OPT_NON_STR_KEYS))


def _narrow(value: Any) -> Any:
    """The value as a journal may hold it: enums as their values, and integers over 64 bits as their digits."""
    if isinstance(value, dict):
        return {name: _narrow(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_narrow(one) for one in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if type(value) is int and not -(2**63) <= value < 2**63 else value


def _versions(*libraries: str) -> dict[str, Any]:
    """Of what makes the bytes of rows; of Python the part that new Unicode tables and other words in messages come with."""
    python = ".".join(platform.python_version_tuple()[:2])
    found = {"infer": versions()["infer"], "python": python, **{name: library_version(name) for name in libraries}}
    return {f"version of {name}": value for name, value in found.items()}


def _runs_in_transformers(config: EngineConfig, model: ModelSource) -> bool:
    """True if the model's code is that of transformers, or the folder's own."""
    if config.model_impl != "auto":
        return config.model_impl == "transformers"
    return model.spec(config.hf_overrides).stack is None


def _is_slow(config: EngineConfig, tokenizer: ModelSource) -> bool:
    """True if transformers makes the tokenizer from the files in its folder."""
    if config.skip_tokenizer_init:
        return False
    return config.tokenizer_mode == "slow" or tokenizer.read("tokenizer.json") is None


def _generation_config(config: EngineConfig, model: ModelSource) -> dict[str, Any]:
    """The file that end tokens, and unless it is left out sampling defaults, come from."""
    if config.generation_config in ("auto", *NONE):
        return {f"model's {GENERATION_CONFIG}": _hash(model.read(GENERATION_CONFIG))}
    try:
        content = (Path(config.generation_config) / GENERATION_CONFIG).read_bytes()
    except OSError:
        content = None  # whoever needs it says so
    return {f"{GENERATION_CONFIG} of --generation-config": _hash(content)}


def _vocabularies(tokenizer: ModelSource) -> list[str]:
    if not tokenizer.path.is_dir():
        return list(_TOKENIZER_FILES)
    names = sorted(path.name for path in tokenizer.path.iterdir() if path.is_file() and path.name.isprintable())
    return [name for name in names if name.endswith(_VOCABULARIES) and not name.endswith(_NO_VOCABULARIES)]


def _code(source: ModelSource) -> list[str]:
    """The Python files of a folder, which may import each other."""
    if not source.path.is_dir():
        return []
    names = [path.relative_to(source.path).as_posix() for path in source.path.rglob("*.py") if path.is_file()]
    return sorted(name for name in names if name.isprintable())


def _hash(data: bytes | None) -> str | None:
    return None if data is None else hashlib.blake2b(data, digest_size=12).hexdigest()


def _weights(model: ModelSource, *, whole: bool = False) -> str:
    """Hash of names, shapes and dtypes, and of the files' sizes and samples of their bytes; `whole`: of all their bytes."""
    tensors = model.stored.tensors()
    hasher = hashlib.blake2b(digest_size=12)
    for name in sorted(tensors):
        info = tensors[name]
        hasher.update(f"{name} {tuple(info.shape)} {info.dtype}\n".encode())
    folder = model.path if model.path.is_dir() else model.path.parent
    paths = [folder / file for file in sorted({Path(info.file).name for info in tensors.values()})]
    try:
        for path in paths:
            with path.open("rb", buffering=0) as opened:
                size = os.fstat(opened.fileno()).st_size
                hasher.update(f"{size}\n".encode())
                for start, count in _everything(size) if whole else _samples(size, max(_SAMPLES // len(paths), 4)):
                    hasher.update(os.pread(opened.fileno(), count, start))
    except OSError as error:
        raise ModelError(f"cannot read {error.filename or folder}: {error.strerror}") from error
    return hasher.hexdigest()


def _everything(size: int) -> Iterator[tuple[int, int]]:
    step = 1 << 22
    return ((start, step) for start in range(0, size, step))


def _samples(size: int, count: int) -> Iterator[tuple[int, int]]:
    """(start, bytes) of `count` pieces spread over a file, its first and its last bytes among them."""
    if size <= count * _SAMPLE_BYTES:
        return iter([(0, size)])
    last = size - _SAMPLE_BYTES
    return ((last * i // (count - 1), _SAMPLE_BYTES) for i in range(count))
