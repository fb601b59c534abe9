"""Adapters of a job: where they are, by the names that records call them by, and the one that each record is answered with.

A record names a LoRA adapter in `lora` (or `lora_name`), a prompt adapter in `prompt_adapter`, either as its `model`; an empty name, or
the model's own as `model`, is the model alone. A record that names none gets the default. Paths are never taken from a line.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...adapters.adapter import CONFIG, adapter_hash, expanded, read_config
from ...adapters.fit import check_fit
from ...adapters.prompt_adapter import read_prompt_adapter
from ...adapters.values import check_file
from ...errors import AdapterError, ConfigError, RecordError, nearest
from ...spec.hf_values import is_text
from ...types.adapters import LoRARequest, PromptAdapterRequest
from ...types.prompt_embeds import PromptEmbeds
from ..jsonl import wrong_type

if TYPE_CHECKING:
    from ...build.plan import Plan
    from ...settings.args import EngineArgs
    from ...settings.config import EngineConfig
    from ...spec.stack import StackSpec

log = logging.getLogger("infer.jobs")

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
        return found | ({f"{_default_of(self.flag)[2:]}": self.default} if self.default is not None else {})


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

    def chooser(self, plan: Plan, say: Callable[[str], None]) -> Chooser:
        """What chooses one for each record. Says which one is the default, if nobody did."""
        config = plan.config
        for declared in (self.lora, self.prompt):
            if declared.is_implied:
                say(
                    f"records that name no adapter are answered with {declared.default!r}, the only one of {declared.flag}; "
                    f"{_default_of(declared.flag)} {NONE} leaves them to the model alone"
                )
        return Chooser(
            self,
            models=frozenset({plan.name, self.model}),
            max_rank=config.max_lora_rank,
            stack=plan.spec.stack if self.lora.paths else None,
            writes=plan.recipe is None,
            embeds_size=config.embeds_size,
            max_virtual=config.max_prompt_adapter_token,
        )


class Chooser:
    """Gives records their adapters. An adapter is looked at when the first record wants it; what is wrong with it is the error of all of
    its records."""

    def __init__(
        self,
        adapters: Adapters,
        *,
        models: frozenset[str] = frozenset(),
        max_rank: int | None = None,
        stack: StackSpec | None = None,
        writes: bool = True,
        embeds_size: int | None = None,
        max_virtual: int = 0,
    ) -> None:
        """
        Args:
            models: names of the model itself.
            max_rank, embeds_size, max_virtual: see `read_config` and `read_prompt_adapter`.
            stack: what LoRA adapters have to fit; None: that is not looked at.
            writes: the model writes, so that adapters may change its head too.
        """
        self.takes_embeds = adapters.takes_embeds
        self._lora, self._prompt = adapters.lora, adapters.prompt
        self._models = models
        self._stack, self._writes = stack, writes
        self._max_rank, self._embeds_size, self._max_virtual = max_rank, embeds_size, max_virtual
        self._loras: dict[str, LoRARequest | AdapterError] = {}
        self._embeds: dict[str, PromptEmbeds | AdapterError] = {}

    def model_of(self, fields: Mapping[str, Any]) -> str | None:
        """The adapter that a record's `model` names, if it does."""
        model = fields.get("model")
        return model if isinstance(model, str) and (model in self._lora.paths or model in self._prompt.paths) else None

    def lora_of(self, fields: Mapping[str, Any]) -> LoRARequest | None:
        """The LoRA adapter of a record; None: none. Raises RecordError (adapter_not_found, adapter_invalid, invalid_type)."""
        name, param = self._name(fields, ("lora", "lora_name"), self._lora)
        if name is None:
            return None
        if name not in self._loras:
            self._loras[name] = self._read_lora(name)
        return _sound(self._loras[name], param)

    def prompt_adapter_of(self, fields: Mapping[str, Any]) -> tuple[str, PromptEmbeds] | None:
        """The name of a record's prompt adapter, and what that puts before the prompt; None: none. Raises RecordError as `lora_of` does."""
        name, param = self._name(fields, ("prompt_adapter",), self._prompt)
        if name is None:
            return None
        if name not in self._embeds:
            self._embeds[name] = self._read_embeds(name)
        return name, _sound(self._embeds[name], param)

    def _name(self, fields: Mapping[str, Any], names: Sequence[str], declared: Declared) -> tuple[str | None, str]:
        """The adapter's name, None for the model alone, and the field that says so."""
        for param in names:
            value = fields.get(param)
            if value is None:
                continue
            if not isinstance(value, str):
                raise wrong_type(param, "the name of an adapter", value)
            if any(fields.get(other) not in (None, value) for other in names):
                raise RecordError("invalid_value", f"{' and '.join(names)} are one field, and differ; give one of them", param=param)
            if value and value not in declared.paths:
                raise _unknown(value, param, declared)
            return value or None, param
        model = fields.get("model")
        if isinstance(model, str):
            if model in declared.paths:
                return model, "model"
            if model in self._models:
                return None, "model"
        return declared.default, names[0]

    def _read_lora(self, name: str) -> LoRARequest | AdapterError:
        try:
            config = read_config(self._lora.paths[name], max_rank=self._max_rank)
            if self._stack is not None:
                check_fit(config, self._stack, head=self._writes)
            check_file(config)
        except AdapterError as error:
            return error
        return self._lora.request(name)

    def _read_embeds(self, name: str) -> PromptEmbeds | AdapterError:
        try:
            return read_prompt_adapter(self._prompt.paths[name], size=self._embeds_size, most=self._max_virtual)
        except AdapterError as error:
            return error


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


def _sound(found: Any, param: str) -> Any:
    if isinstance(found, AdapterError):
        raise found.of_record(param)
    return found


def _unknown(name: str, param: str, declared: Declared) -> RecordError:
    shown, known = name[:100], list(declared.paths)
    if not known:
        return RecordError("adapter_not_found", f"no adapters are declared; {declared.flag} {shown}=PATH declares this one", param=param)
    more = f" and {len(known) - 10} more" if len(known) > 10 else ""
    message = f"there is no adapter {shown!r}{nearest(shown, known)} (declared: {', '.join(known[:10])}{more})"
    return RecordError("adapter_not_found", message, param=param)


def _default_of(flag: str) -> str:
    """The option that names the default of what `flag` declares."""
    return f"--default-{flag[2:]}"
