"""Prompts of `LLM`'s calls on their way to requests, and from answers to outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..containment import contained
from ..errors import RecordError
from ..media.placing import PromptMedia
from ..pooling.images import GivenImage, ImageReader
from ..pooling.texts import TextEncoder
from ..types.adapters import LoRARequest
from ..types.beam_params import BeamSearchParams
from ..types.media import MediaPart
from ..types.media_parts import of_data
from ..types.outputs import RequestOutput
from ..types.params import SamplingParams
from ..types.pooling_outputs import PoolingOutput, PoolingRequestOutput
from ..types.pooling_params import PoolingParams
from ..types.pooling_request import Pooled, PoolingRequest, TextIds
from ..types.prompt_embeds import PromptEmbeds, with_virtual
from ..types.prompts import Parsed
from ..types.request import Request


@dataclass(slots=True)
class Draft(ABC):
    """One prompt of a call. Whatever goes wrong is its `error`.

    Args:
        params: its parameters, or what is wrong with them.
        prompt: see `intake.Draft`.
    """

    params: Any
    prompt: Any = None
    error: RecordError | None = None
    index: int = -1

    def __post_init__(self) -> None:
        if isinstance(self.params, RecordError):
            self.params, self.error = None, self.params

    @property
    def request_id(self) -> str:
        return str(self.index)

    @property
    def called(self) -> str:
        """Its name in messages."""
        return f"prompt {self.index}"

    @abstractmethod
    def to_request(self) -> Any:
        """Of one that is read and has no error. Raises RecordError."""

    @abstractmethod
    def output(self, answer: Any) -> Any:
        """The output for an engine's answer; None: it has none, but an error."""


@dataclass(slots=True)
class Written(Draft):
    """A prompt that the model goes on with; see `intake.PromptDraft`."""

    priority: int = 0
    add_special_tokens: bool = True
    beam: BeamSearchParams | None = None
    """The parameters of a beam search; `params` is then a part of them."""
    shown: str | None = None
    """The prompt as text, if it is text."""
    embeds: PromptEmbeds | None = None
    """What stands before its tokens."""
    media: PromptMedia | None = None
    """Those in it."""
    lora: LoRARequest | None = None
    encoder_ids: tuple[int, ...] = ()
    decoder: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        prompt: Any,
        params: SamplingParams | RecordError,
        priority: int = 0,
        beam: BeamSearchParams | None = None,
        *,
        adds: bool = True,
        lora: LoRARequest | None = None,
    ) -> Written:
        """One of any form that a prompt may have. `adds`: the tokenizer adds special tokens to a text."""
        one = cls(params, priority=priority, beam=beam, add_special_tokens=adds, lora=lora)
        with contained(one):
            parsed = Parsed.of(prompt)
            one.shown, one.prompt = parsed.text, parsed.text if parsed.ids is None else parsed.ids
            one.embeds, one.decoder = parsed.embeds, parsed.decoder
            if parsed.media:
                one.media = PromptMedia.of(of_data(parsed.media), parsed.media_options)
        return one

    def put_before(self, adapter: PromptEmbeds) -> None:
        """Puts what a prompt adapter has before the prompt."""
        if self.error is None:
            with contained(self):
                self.embeds = adapter.before(self.embeds)

    def to_request(self) -> Request:
        ids = with_virtual(self.prompt, self.embeds)
        more: dict[str, Any] = {"lora": self.lora, "embeds": self.embeds, "encoder_ids": self.encoder_ids}
        if self.media is not None:
            more |= self.media.behind(len(ids) - len(self.prompt), len(ids))
        return Request(self.request_id, ids, self.params, self.index, self.shown, self.priority, self.beam, **more)

    def output(self, answer: RequestOutput | None) -> RequestOutput:
        ids = self.prompt if isinstance(self.prompt, list) else []
        return answer or RequestOutput(self.request_id, self.shown, ids, error=self.error, lora_request=self.lora)


@dataclass(slots=True)
class Read(Draft):
    """A text that is pooled, or two that are read together; see `intake.TextsDraft`."""

    kind: str = "embed"
    num_cut: int = 0
    lora: LoRARequest | None = None
    is_image: bool = False

    @classmethod
    def of(
        cls,
        prompt: Any,
        params: PoolingParams | RecordError,
        kind: str,
        encoder: TextEncoder,
        lora: LoRARequest | None = None,
        images: ImageReader | None = None,
    ) -> Read:
        """One of any form that a prompt may have. `images`: reads one, where the model makes vectors of them."""
        one = cls(params, kind=kind, lora=lora)
        with contained(one):
            parsed = Parsed.of(prompt)
            if parsed.embeds is not None:
                raise RecordError("unsupported", "prompt_embeds in a prompt is for models that write text", param="prompt_embeds")
            if parsed.media and images is None:
                raise RecordError("unsupported", "multi_modal_data in a prompt is for models that read images", param="multi_modal_data")
            if parsed.media and images is not None:
                one.prompt, one.is_image = [(images, _only(of_data(parsed.media), parsed))], True
                return one
            one.prompt = [(encoder, parsed.text if parsed.ids is None else parsed.ids)]
        return one

    @classmethod
    def of_pair(
        cls, first: Any, second: Any, params: PoolingParams | RecordError, encoder: TextEncoder, lora: LoRARequest | None = None
    ) -> Read:
        """Two texts that a classifier reads together."""
        one = cls(params, kind="classify", lora=lora)
        with contained(one):
            pair = Parsed.of(first).text, Parsed.of(second).text
            if None in pair:
                raise RecordError("invalid_type", "a classifier scores pairs of texts, not of token ids", param="prompt")
            one.prompt = [(encoder, pair)]
        return one

    def to_request(self) -> PoolingRequest:
        self.params.check(self.kind)
        return PoolingRequest(self.request_id, self.prompt, self.params, self.kind, self.index, self.lora)

    def output(self, answer: Pooled | None) -> PoolingRequestOutput[PoolingOutput]:
        import torch

        error = self.error if answer is None else answer.error
        values = np.empty(0, np.float32) if answer is None or error is not None else answer.values[0]
        ids = [] if self.prompt is None or not isinstance(self.prompt[0], TextIds) else list(self.prompt[0].ids)
        return PoolingRequestOutput(self.request_id, PoolingOutput(torch.from_numpy(values)), ids, error=error)


def _only(parts: Sequence[MediaPart], parsed: Parsed) -> GivenImage:
    """The one image of a prompt that is to become a vector. Raises RecordError."""
    if len(parts) != 1 or parsed.ids or (parsed.text or "").strip():
        raise RecordError("invalid_value", "a vector is of one text or of one image: give one of them a prompt", param="multi_modal_data")
    return GivenImage(parts[0], parsed.media_options or {})
