"""Adapters as callers name them: what a LoRA or prompt adapter is called, and where it is. The names are vLLM's. Plain data; no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class LoRARequest:
    """A LoRA adapter in PEFT's format, for one prompt or many. Two with the same path are the same adapter, whatever they are called.

    Raises ConfigError (a ValueError) for values of another type, a number below 1 and an empty name or path.
    """

    lora_name: str
    """What it is called in outputs and messages."""
    lora_int_id: int
    """A number of its own, from 1 on, as vLLM wants it. Nothing is looked up by it here."""
    lora_path: str
    """The folder with adapter_config.json and adapter_model.safetensors."""

    def __post_init__(self) -> None:
        _check(self, path="lora_path", name="lora_name", numbers=["lora_int_id"])

    @property
    def name(self) -> str:
        """`lora_name`"""
        return self.lora_name

    @property
    def path(self) -> str:
        """`lora_path`"""
        return self.lora_path

    @property
    def adapter_id(self) -> int:
        """`lora_int_id`"""
        return self.lora_int_id


@dataclass(frozen=True, slots=True)
class PromptAdapterRequest:
    """A prompt adapter in PEFT's format (prompt tuning, p-tuning), for one prompt or many.

    Raises ConfigError (a ValueError) for values of another type, a number below 1 and an empty name or path.
    """

    prompt_adapter_name: str
    """What it is called in messages."""
    prompt_adapter_id: int
    """A number of its own, from 1 on, as vLLM wants it. Nothing is looked up by it here."""
    prompt_adapter_local_path: str
    """The folder with adapter_config.json and adapter_model.safetensors."""
    prompt_adapter_num_virtual_tokens: int | None = None
    """The tokens that it puts before a prompt, as the files have to say too; None: what they say."""

    def __post_init__(self) -> None:
        told = self.prompt_adapter_num_virtual_tokens is not None
        numbers = ["prompt_adapter_id", *(["prompt_adapter_num_virtual_tokens"] if told else [])]
        _check(self, path="prompt_adapter_local_path", name="prompt_adapter_name", numbers=numbers)


@dataclass(frozen=True, slots=True)
class AdapterKey:
    """An adapter as its files are: one that was written anew is another."""

    path: str
    """The folder, absolute."""
    stamp: tuple[int, ...]
    """Times and sizes of its files."""
    salt: bytes = field(init=False, repr=False, compare=False)
    """What tells its keys and values in the cache from those of others."""

    def __post_init__(self) -> None:
        text = f"{self.path}\0{self.stamp}".encode(errors="surrogatepass")
        object.__setattr__(self, "salt", hashlib.blake2b(text, digest_size=16).digest())


def _check(request: LoRARequest | PromptAdapterRequest, *, path: str, name: str, numbers: Sequence[str]) -> None:
    """Raises ConfigError for a wrong value of one of these fields; a path that is no string becomes one."""
    called = type(request).__name__
    if isinstance(given := getattr(request, path), os.PathLike):
        object.__setattr__(request, path, os.fspath(given))
    for text in (name, path):
        if not isinstance(value := getattr(request, text), str) or not value:
            raise ConfigError(f"{called}: {text} must be a string that is not empty, not {value!r}")
    for number in numbers:
        if not isinstance(value := getattr(request, number), int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{called}: {number} must be an integer of at least 1, not {value!r}")
