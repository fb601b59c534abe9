"""The settings of adapters, as part of `EngineArgs`."""

# ruff: noqa: RUF009 (the defaults are fields, made by `setting`)

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from . import rules
from .setting import setting

_adapters = partial(setting, group="adapters")


@dataclass(kw_only=True)
class AdapterArgs:
    """See `EngineArgs`."""

    lora: list[str] | None = _adapters(
        None,
        "A LoRA adapter that records may name (NAME=PATH, or PATH, whose folder is the name), or a folder of adapters. May be repeated.",
        rule=rules.adapters,
        repeats=True,
    )
    default_lora: str | None = _adapters(
        None, "The LoRA adapter of records that name none; none: the model alone; default: the only one of --lora, if there is one."
    )
    enable_lora: bool = _adapters(False, "Answer records with LoRA adapters where they name one.")
    max_loras: int = _adapters(1, "Most LoRA adapters in one step; records of others wait for their turn.", low=1)
    max_cpu_loras: int | None = _adapters(
        None, "Most LoRA adapters kept in memory, the latest used; at least max_loras, which is the default.", low=1
    )
    max_lora_rank: int = _adapters(16, "Largest rank of a LoRA adapter; one with a larger rank is refused.", low=1)
    lora_merge: str | None = _adapters(
        None, "Folder of a LoRA adapter that is added to the model's weights when they are loaded: for all records, at no cost."
    )

    prompt_adapter: list[str] | None = _adapters(
        None,
        "A prompt adapter that records may name, or a folder of them, written as --lora is. May be repeated.",
        rule=rules.adapters,
        no_effect=("pooling",),
        repeats=True,
    )
    default_prompt_adapter: str | None = _adapters(
        None,
        "The prompt adapter of records that name none; none: none; default: the only one of --prompt-adapter, if there is one.",
        no_effect=("pooling",),
    )
    enable_prompt_adapter: bool = _adapters(False, "Answer prompts with prompt adapters where they name one.", no_effect=("pooling",))
    max_prompt_adapters: int = _adapters(
        1, "No effect: what a prompt adapter puts before a prompt needs no place of its own.", low=1, no_effect=("cpu", "cuda", "pooling")
    )
    max_prompt_adapter_token: int = _adapters(
        0, "Most virtual tokens of a prompt adapter; one with more is refused; 0: no such limit.", low=0, no_effect=("pooling",)
    )
    enable_prompt_embeds: bool = _adapters(False, "Take embeddings in place of a prompt's tokens.", no_effect=("pooling",))
