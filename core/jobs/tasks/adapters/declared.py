"""Adapters of a job: where they are, by the names that records call them by, and which one is the default; see chooser.py."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ....adapters.adapter import CONFIG, adapter_hash, expanded, read_config
from ....errors import AdapterError, ConfigError, nearest
from ....spec.hf_values import is_text
from ....types.adapters import LoRARequest, PromptAdapterRequest

if TYPE_CHECKING:
    from ....settings.args import EngineArgs
    from ....settings.config import EngineConfig

#: Most LoRA adapters that a step has places for where nobody says how many.
_AT_ONCE = 8
#: What --default-lora says where there is to be none.
NONE = "none"


@dataclass(frozen=True)
class Declared:
    """Adapters of one kind.

    Args:
        flag: what declares them.
        paths: name -> folder, in the order in which they were declared.
        default: the one of records that name none; None: the model alone.
        is_implied: nobody said that it is the default; it is the only one.
    """

    flag: str
    paths: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None
    is_implied: bool = False

    @classmethod
    def of(cls, flag: str, entries: Sequence[str] | None, default: str | None) -> Declared:
        """Of values of `flag`: NAME=PATH, the path of an adapter (its name is that of the folder), or a folder of adapters.

        Args:
            default: a name, "none", or None: the only one, where there is one that was declared by itself.

        Raises ConfigError where a path is not there, and for a name that is given twice or that is no text.
        """
        paths: dict[str, str] = {}
        alone = True
        for entry in entries or ():
            found, one = _found(flag, entry)
            alone &= one
            for name, path in found.items():
                if not is_text(name):
                    raise ConfigError(f"{flag}: the name {name!r} is not UTF-8, and no record can say it; write {flag} NAME=PATH")
                if paths.get(name, path) != path:
                    raise ConfigError(f"{flag}: {name!r} is the name of two adapters, {paths[name]} and {path}: give one another name")
                paths[name] = path
        if default is not None and default not in (*paths, NONE):
            told = f" (declared: {', '.join(paths)})" if paths else f"; {flag} {default}=PATH declares it"
            raise ConfigError(f"{_default_of(flag)}: there is no adapter {default!r}{nearest(default, paths)}{told}")
        if default is None and alone and len(paths) == 1:
            return cls(flag, paths, next(iter(paths)), is_implied=True)
        return cls(flag, paths, None if default == NONE and NONE not in paths else default)

    def request(self, name: str) -> LoRARequest:
        """The adapter as the engine is asked for it."""
        return LoRARequest(name, 1 + list(self.paths).index(name), self.paths[name])

    def prompt_request(self, name: str) -> PromptAdapterRequest:
        """The same of a prompt adapter, as an `LLM` is asked for it."""
        return PromptAdapterRequest(name, 1 + list(self.paths).index(name), self.paths[name])

    @property
    def default_flag(self) -> str:
        """The option that names the default."""
        return _default_of(self.flag)

    @property
    def default_request(self) -> LoRARequest | None:
        """The default as an `LLM` is asked for it."""
        return None if self.default is None else self.request(self.default)

    @property
    def default_prompt_adapter(self) -> PromptAdapterRequest | None:
        """The same of prompt adapters."""
        return None if self.default is None else self.prompt_request(self.default)

    def hashes(self, noun: str) -> dict[str, str]:
        """For the fingerprint: each adapter by its name, and which one is the default."""
        found = {f"{noun} {name!r}": _hash(path) for name, path in self.paths.items()}
        return found | ({self.default_flag[2:]: self.default} if self.default is not None else {})


@dataclass(frozen=True)
class Adapters:
    """The adapters of a job.

    Args:
        model: the model's name as it was typed.
        takes_embeds: records may bring embeddings.
    """

    lora: Declared = field(default_factory=lambda: Declared("--lora"))
    prompt: Declared = field(default_factory=lambda: Declared("--prompt-adapter"))
    model: str = ""
    takes_embeds: bool = False

    def fingerprint(self, config: EngineConfig) -> dict[str, Any]:
        """All of them that can change an answer."""
        found: dict[str, Any] = self.lora.hashes("LoRA adapter") | self.prompt.hashes("prompt adapter")
        if self.lora.paths:
            found["max_lora_rank"] = config.max_lora_rank
        if self.prompt.paths and config.max_prompt_adapter_token:
            found["max_prompt_adapter_token"] = config.max_prompt_adapter_token
        if config.lora_merge is not None:
            found["lora_merge"] = _hash(config.lora_merge)
        if self.takes_embeds:
            found["enable_prompt_embeds"] = True
        return found


def declared_in(args: EngineArgs, origin: Mapping[str, str]) -> tuple[EngineArgs, Adapters]:
    """The adapters that the settings declare, and the settings with what using them takes, where it was not given.

    Args:
        origin: where each setting came from, "default" where nobody gave it.

    Raises ConfigError where one is not there.
    """
    lora = Declared.of("--lora", args.lora, args.default_lora)
    prompt = Declared.of("--prompt-adapter", args.prompt_adapter, args.default_prompt_adapter)
    more: dict[str, Any] = {}
    if lora.paths:
        more["enable_lora"] = True
        if origin.get("max_loras") == "default":
            more["max_loras"] = min(len(lora.paths), _AT_ONCE, args.max_cpu_loras or _AT_ONCE)
        if origin.get("max_lora_rank") == "default":
            more["max_lora_rank"] = max(map(_rank, lora.paths.values()))
    if prompt.paths:
        more["enable_prompt_adapter"] = True
    return replace(args, **more), Adapters(lora, prompt, args.model, args.enable_prompt_embeds)


def _found(flag: str, entry: str) -> tuple[dict[str, str], bool]:
    """The adapters that one value of a flag declares; and True if it is one by itself."""
    name, equals, path = entry.partition("=")
    if equals and os.sep not in name:
        folder = expanded(path)
        if not name or not path or not folder.exists():
            raise ConfigError(f"{flag} {entry}: there is no folder {path!r}; write {flag} NAME=PATH")
        return {name: str(folder)}, True
    folder = expanded(entry)
    if not folder.exists():
        raise ConfigError(f"{flag} {entry}: there is no such folder; write {flag} NAME=PATH, or name a folder of adapters")
    if (folder / CONFIG).is_file():
        return {folder.resolve().name: str(folder)}, True
    found = {one.name: str(one) for one in sorted(folder.iterdir()) if (one / CONFIG).is_file()} if folder.is_dir() else {}
    if not found:
        raise ConfigError(f"{flag} {entry}: neither an adapter nor a folder of adapters (there is no {CONFIG} in it or one folder below)")
    return found, False


def _rank(path: str) -> int:
    """The adapter's rank; 1 of one that cannot be read, which its records are told."""
    try:
        return read_config(path).rank
    except AdapterError:
        return 1


def _hash(path: str) -> str:
    try:
        return adapter_hash(path)
    except AdapterError:
        return "unreadable"


def _default_of(flag: str) -> str:
    """The option that names the default of what `flag` declares."""
    return f"--default-{flag[2:]}"
