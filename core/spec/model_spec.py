"""ModelSpec: everything the rest asks about a model, read once from config.json by the architecture's file. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import ModelError
from .mixers import StateSpec
from .stack import KVSpec, Shares, StackSpec
from .vision import Images, TwoTowers


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The facts of a model that config.json states, overrides counted."""

    config: Mapping[str, Any]
    """config.json itself, for transformers' code and for checks of the weights."""
    model_type: str
    is_encoder: bool
    """It reads texts in both directions and writes none."""
    architectures: tuple[str, ...]
    """The classes that config.json names."""
    dtype: str | None
    """Of the checkpoint; None if it is not stated."""
    unsafe_dtypes: frozenset[str]
    """Whose range its activations leave."""
    vocab_size: int | None
    hidden_size: int | None
    max_length: int | None
    """The longest context it was made for; None if that is not stated."""
    stated_length: int | None
    """A greater one that its file allows besides."""
    caches: tuple[KVSpec, ...]
    """One for each layer that attends; empty also where config.json of a model in transformers' code does not say."""
    states: tuple[StateSpec, ...]
    """All that its layers keep of a sequence, whatever its length."""
    shares: frozenset[Shares]
    """Of its kinds of layers; empty where ranks cannot share it."""
    end_tokens: tuple[int, ...]
    """Those that end outputs."""
    default_end_token: int | None
    """The one that is meant where generation_config.json names none either; None where `end_tokens` are stated."""
    classifier_pooling: str
    """The token that its classifier reads, or "mean"."""
    stack: StackSpec | None
    """None: the model runs in transformers' code, or not at all."""
    lacking: str
    """The reason why an architecture that we have code for has no stack here; empty for others."""
    is_variant: bool
    """`lacking` is about a variant that transformers' code may have."""
    images: Images | None = None
    """What it takes of images; None: nothing."""
    towers: TwoTowers | None = None
    """Of a model that makes vectors of texts and of images."""

    @property
    def has_encoder(self) -> bool:
        """True if its decoder attends to an encoder that reads the input."""
        return self.stack is not None and (self.stack.encoder is not None or self.stack.tower_positions > 0)

    @property
    def tower_positions(self) -> int:
        """Of a model that reads sound, the hidden states of a window of it; 0: it reads none so."""
        return 0 if self.stack is None else self.stack.tower_positions

    @property
    def reads_media(self) -> bool:
        """True if it reads more than text."""
        return self.images is not None or self.towers is not None or self.tower_positions > 0

    @property
    def sees_whole_prompts(self) -> bool:
        """True if a prompt with images is computed in one step, since its tokens see each other in both directions."""
        return self.images is not None and self.images.vision.sees == "prompt"

    @property
    def is_foreign(self) -> bool:
        """True for what transformers' code alone may have."""
        return self.stack is None and (self.is_variant or not self.lacking)

    @property
    def is_ours(self) -> bool:
        """True for a language model that our code alone is for."""
        return not self.is_foreign and not self.is_encoder

    def in_our_code(self, model_impl: str) -> bool:
        """True if our code runs it as a language model, with this setting."""
        return model_impl == "infer" or (model_impl == "auto" and self.is_ours)

    def need_stack(self) -> StackSpec:
        """The stack. Raises ModelError for what our code of the architecture lacks; it has to be one of ours."""
        if self.stack is None:
            raise ModelError(self.lacking or f"model_type {self.model_type!r} is not supported in our code")
        return self.stack

    @cached_property
    def labels_tokens(self) -> bool:
        """True if config.json names a class whose classifier labels each token of a text."""
        return self.is_reward or any(name.endswith("ForTokenClassification") for name in self.architectures)

    @cached_property
    def is_reward(self) -> bool:
        """True for a reward model: a language model with a classifier of its own, which scores each token."""
        return any(name.endswith("RewardModel") for name in self.architectures)

    @cached_property
    def rewards_steps(self) -> bool:
        """True for one whose scores are meant at the ends of steps alone."""
        return any(name.endswith("ProcessRewardModel") for name in self.architectures)

    @cached_property
    def is_classifier(self) -> bool:
        """True if config.json names a class with a classifier over whole texts, or the tokens to make one of."""
        made = bool(self.config.get("classifier_from_token")) or self.labels_tokens
        return made or any(name.endswith("ForSequenceClassification") for name in self.architectures)
