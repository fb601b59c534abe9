"""A record on its way, from its line to its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ...errors import RecordError
from ...media.placing import PromptMedia
from ...types.adapters import LoRARequest
from ...types.beam_params import BeamSearchParams
from ...types.outputs import RequestOutput
from ...types.params import SamplingParams
from ...types.pooling_params import PoolingParams
from ...types.pooling_request import PoolingRequest, TextIds
from ...types.prompt_embeds import PromptEmbeds, with_virtual
from ...types.request import Request
from ..record import InputLine, Record
from .openai_batch import BatchLine

P = TypeVar("P", bound="Pending")


@dataclass(slots=True)
class Pending(InputLine):
    """The part of a record that is kept until its row is written.

    What it asks of the engine is added by the task's own kind; of a record that is no JSON object nothing more is known.
    """

    id: str | int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    batch: BatchLine | None = None  # if it is an OpenAI Batch line
    prompt: Any = None  # text until it is tokenized; let go once it is in the engine
    lora: LoRARequest | None = None  # the adapter that answers it
    adapters: tuple[str, ...] = ()  # the names of it and of the prompt adapter
    num_cut: int = 0  # prompts of which something was cut off, where that is counted
    num_held: int = 0  # bytes that are held for it, beside those of its line, once it is in the engine: of media that were fetched
    error: RecordError | None = None

    @classmethod
    def of(cls: type[P], record: Record) -> P:
        """Of a record nothing is known about yet but where it stood."""
        return cls(record.index, record.line, record.size, record.ordinal, record.source, record.chain, record.raw)

    def to_request(self) -> Any:
        """For a record without an error. The caller calls `drop_prompt` afterwards: the engine now holds it."""
        raise NotImplementedError

    def to_requests(self) -> Sequence[Any]:
        """All that is asked of the engine for it."""
        return (self.to_request(),)

    def answered(self, output: Any) -> Any:
        """The whole answer, once the engine has given the last of it with this; else None."""
        return output

    @property
    def goes_on(self) -> bool:
        """True if more is to be asked for it (`to_requests`) as long as `answered` gives None."""
        return False

    def drop_prompt(self) -> None:
        """The engine has it now."""
        self.prompt = None

    def asked(self) -> Sequence[Sequence[int]]:
        """The token ids of each of its prompts, once it is tokenized."""
        raise NotImplementedError

    def lengths(self, max_model_len: int) -> Sequence[tuple[int, int]]:
        """For each of them: most tokens of prompt and output together, and of how many outputs."""
        raise NotImplementedError


@dataclass(slots=True)
class PendingPrompt(Pending):
    """A prompt that the model goes on with."""

    params: SamplingParams | None = None
    beam: BeamSearchParams | None = None  # if it is to be searched for
    default_max_tokens: bool = False
    priority: int = 0
    add_special_tokens: bool = True  # the tokenizer's, to a prompt that is text
    media: PromptMedia | None = None  # those in the prompt; likewise
    embeds: PromptEmbeds | None = None  # what stands before the tokens of the prompt; let go with them
    encoder_ids: tuple[int, ...] = ()  # what the prompt was, of a model with an encoder; let go with it
    decoder: Mapping[str, Any] = field(default_factory=dict)  # what the record says of the decoder's prompt, see intake/prompts.py
    reply: Any = None  # how the task reads the answer, see CompletionTask.look_ahead
    continuations: tuple[tuple[int, ...], ...] | None = None  # if they are to be scored, and nothing is to be generated
    parts: Sequence[PendingPrompt] = ()  # of a list of prompts each, as if it were a record of its own
    part: int = 0  # its place in such a list
    outputs: list[RequestOutput | None] = field(default_factory=list)  # those of its parts, as far as they are there
    num_open: int = 0  # of its parts, how many have none yet

    def split(self, prompts: Sequence[str | list[int]]) -> None:
        """Makes it a record of several prompts."""
        self.prompt = None
        self.parts = [replace(self, prompt=prompt, part=i, extra={}) for i, prompt in enumerate(prompts)]
        for part in self.parts[1:]:
            part.media = None
        self.outputs, self.num_open = [None] * len(prompts), len(prompts)

    def to_request(self) -> Request:
        assert isinstance(self.prompt, list)
        assert self.params is not None
        name = f"{self.index}.{self.part}" if self.part else str(self.index)
        first = self.part * self.params.num_choices
        more: dict[str, Any] = {"priority": self.priority, "beam": self.beam, "continuations": self.continuations, "first_choice": first}
        more |= {"lora": self.lora, "embeds": self.embeds, "encoder_ids": self.encoder_ids}
        ids = with_virtual(self.prompt, self.embeds)
        if self.media is not None:
            more |= self.media.behind(len(ids) - len(self.prompt), len(ids))
        return Request(name, ids, self.params, self.index, **more)

    def to_requests(self) -> Sequence[Request]:
        return [part.to_request() for part in self.parts or (self,)]

    def answered(self, output: RequestOutput) -> Any:
        if not self.parts:
            return output
        self.outputs[int(output.request_id.partition(".")[2] or 0)] = output
        self.num_open -= 1
        return None if self.num_open else self.outputs

    def drop_prompt(self) -> None:
        self.num_held = 0 if self.media is None else self.media.num_held
        for part in (*self.parts, self):
            part.prompt = part.embeds = part.media = None
            part.encoder_ids = ()

    def asked(self) -> Sequence[Sequence[int]]:
        return [[*request.encoder_ids, *request.prompt_token_ids] for request in self.to_requests()]

    def lengths(self, max_model_len: int) -> Sequence[tuple[int, int]]:
        assert self.params is not None
        choices = self.params.num_choices if self.beam is None else self.beam.beam_width
        return [(request.max_length(max_model_len), choices) for request in self.to_requests()]


@dataclass(slots=True)
class PendingTexts(Pending):
    """Texts that are pooled. `prompt` is a list of them, see `intake.texts`: each with its TextEncoder, and TextIds in the end."""

    params: PoolingParams | None = None
    kind: str = "embed"  # one of pooling_request.KINDS
    reply: Any = None  # how the task writes the answer

    def to_request(self) -> PoolingRequest:
        assert self.params is not None
        return PoolingRequest(str(self.index), self._texts(), self.params, self.kind, self.index, lora=self.lora)

    def asked(self) -> Sequence[Sequence[int]]:
        return [text.ids for text in self._texts()]

    def lengths(self, max_model_len: int) -> Sequence[tuple[int, int]]:
        return [(len(text.ids), 1) for text in self._texts()]

    def _texts(self) -> list[TextIds]:
        assert isinstance(self.prompt, list)
        return self.prompt
