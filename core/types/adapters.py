"""Adapters as callers name them: what a LoRA or prompt adapter is called, and where it is. The names are vLLM's. Plain data; no torch."""

from __future__ import annotations

import hashlib
import os
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
        if isinstance(self.lora_path, os.PathLike):
            object.__setattr__(self, "lora_path", os.fspath(self.lora_path))
        for name in ("lora_name", "lora_path"):
            if not isinstance(value := getattr(self, name), str) or not value:
                raise ConfigError(f"LoRARequest: {name} must be a string that is not empty, not {value!r}")
        if not isinstance(self.lora_int_id, int) or isinstance(self.lora_int_id, bool) or self.lora_int_id < 1:
            raise ConfigError(f"LoRARequest: lora_int_id must be an integer of at least 1, not {self.lora_int_id!r}")

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
        if isinstance(self.prompt_adapter_local_path, os.PathLike):
            object.__setattr__(self, "prompt_adapter_local_path", os.fspath(self.prompt_adapter_local_path))
        for name in ("prompt_adapter_name", "prompt_adapter_local_path"):
            if not isinstance(value := getattr(self, name), str) or not value:
                raise ConfigError(f"PromptAdapterRequest: {name} must be a string that is not empty, not {value!r}")
        numbers = {"prompt_adapter_id": self.prompt_adapter_id}
        if self.prompt_adapter_num_virtual_tokens is not None:
            numbers["prompt_adapter_num_virtual_tokens"] = self.prompt_adapter_num_virtual_tokens
        for name, number in numbers.items():
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ConfigError(f"PromptAdapterRequest: {name} must be an integer of at least 1, not {number!r}")


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
