"""Chooser: the adapter that each record is answered with.

A record names a LoRA adapter in `lora` (or `lora_name`), a prompt adapter in `prompt_adapter`, either as its `model`; an empty name, or
the model's own as `model`, is the model alone. A record that names none gets the default. Paths are never taken from a line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....adapters.adapter import read_config
from ....adapters.fit import check_fit
from ....adapters.prompt_adapter import read_prompt_adapter
from ....adapters.values import check_file
from ....errors import AdapterError, RecordError, nearest
from ....types.adapters import LoRARequest
from ....types.prompt_embeds import PromptEmbeds
from ...jsonl import wrong_type
from .declared import NONE, Adapters, Declared

if TYPE_CHECKING:
    from ....build.plan import Plan
    from ....spec.stack import StackSpec


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

    @classmethod
    def of(cls, adapters: Adapters, plan: Plan, say: Callable[[str], None]) -> Chooser:
        """The one of a job's adapters. Says which one is the default, if nobody did."""
        config = plan.config
        for declared in (adapters.lora, adapters.prompt):
            if declared.is_implied:
                say(
                    f"records that name no adapter are answered with {declared.default!r}, the only one of {declared.flag}; "
                    f"{declared.default_flag} {NONE} leaves them to the model alone"
                )
        return cls(
            adapters,
            models=frozenset({plan.name, adapters.model}),
            max_rank=config.max_lora_rank,
            stack=plan.spec.stack if adapters.lora.paths else None,
            writes=plan.recipe is None,
            embeds_size=config.embeds_size,
            max_virtual=config.max_prompt_adapter_token,
        )

    def model_of(self, fields: Mapping[str, Any]) -> str | None:
        """The adapter that a record's `model` names, if it does."""
        model = fields.get("model")
        return model if isinstance(model, str) and (model in self._lora.paths or model in self._prompt.paths) else None

    def stranger(self, fields: Mapping[str, Any]) -> str | None:
        """The model that a record names where it is neither this one nor an adapter; with no adapters folder and case do not count."""
        model = fields.get("model")
        if not isinstance(model, str) or not model or not self._models or model in self._models or self.model_of(fields) is not None:
            return None
        return None if not self.names and _last(model) in map(_last, self._models) else model

    @property
    def names(self) -> list[str]:
        """Names of all adapters."""
        return [*self._lora.paths, *self._prompt.paths]

    @property
    def default(self) -> str | None:
        """The adapter of records that name none, if there is one."""
        return self._lora.default or self._prompt.default

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


def _last(name: str) -> str:
    """The name of a model without the folder or the owner before it."""
    return name.rstrip("/").rpartition("/")[2].lower()


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
