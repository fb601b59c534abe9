"""The desk of an `LLM`: prompts are handed in, answers are picked up. Several calls may be in progress at once (a stream that is
read now and then, and `generate` in between); each gets its own answers, whoever turns the engine's crank.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from ..containment import all_contained, contained
from ..engine.protocol import AnyEngine
from ..errors import RecordError
from ..text.tokenizer import Tokenizer
from ..types.beam_params import BeamSearchParams
from ..types.outputs import RequestOutput
from ..types.params import SamplingParams
from ..types.request import Request
from .batches import in_batches
from .remarks import Remarks
from .truncation import truncated


@dataclass(slots=True)
class Asked:
    """One prompt on its way to the engine. `ids` None: `text` is to be tokenized. Whatever goes wrong is its `error`.

    `literal`: spellings of special tokens in the text are text (see text/literal.py). `shown`: what the output calls the prompt, if
    not `text`.
    """

    text: str | None
    ids: list[int] | None
    params: SamplingParams
    priority: int = 0
    add_special_tokens: bool = True
    literal: bool = False
    shown: str | None = None
    error: RecordError | None = None
    index: int = -1
    beam: BeamSearchParams | None = None
    """What to search with; `params` is then a part of it."""

    @property
    def request_id(self) -> str:
        return str(self.index)

    @property
    def called(self) -> str:
        """Its name in messages."""
        return f"prompt {self.index}"

    @property
    def prompt(self) -> str | None:
        """The prompt as text, if it is text."""
        return self.text if self.shown is None else self.shown

    def failed(self) -> RequestOutput:
        """The output of one that has an error."""
        assert self.error is not None
        return RequestOutput(self.request_id, self.prompt, self.ids or [], error=self.error)


class Desk:
    """
    Args:
        engine: computes.
        tokenizer: None where prompts are token ids.
        remarks: told of prompts, if anybody is to be.
    """

    def __init__(self, engine: AnyEngine, tokenizer: Tokenizer | None, remarks: Remarks | None = None) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self.remarks = remarks or Remarks(None, lambda message: None)
        self._count = 0
        self._answers: dict[str, RequestOutput] = {}
        self._expected: set[str] = set()

    def number(self, asked: Sequence[Asked]) -> None:
        """Gives each the next index; those that have an error count too, so that it never depends on the others."""
        for one in asked:
            one.index = self._count
            self._count += 1

    def tokenize(self, asked: Sequence[Asked]) -> None:
        """Makes and cuts the token ids. What is wrong with one becomes its error."""
        todo = [one for one in asked if one.error is None]
        for one in todo:
            if self._tokenizer is None and one.ids is None:
                one.error = RecordError("unsupported", "without a tokenizer (skip_tokenizer_init) a prompt is token ids", param="prompt")
        texts = [one for one in todo if one.ids is None and one.error is None]
        for batch in in_batches(texts, lambda one: len(one.text or ""), _way):
            all_contained(self._encode, batch)
        for one in texts:
            if one.ids is not None and one.add_special_tokens:
                self.remarks.of_ids(one.ids)
        for one in todo:
            with contained(one):
                if one.ids is not None:
                    whole = one.ids
                    one.ids = truncated(whole, one.params, self._engine.max_model_len)
                    self.remarks.of_cut(whole, one.ids)
                    self.remarks.of_stops(one.params)

    def _encode(self, batch: Sequence[Asked]) -> None:
        assert self._tokenizer is not None
        texts = [one.text or "" for one in batch]
        special = batch[0].add_special_tokens
        encode = self._tokenizer.encode_literal if batch[0].literal else self._tokenizer.encode_batch
        for one, ids in zip(batch, encode(texts, add_special_tokens=special), strict=True):
            one.ids = ids

    def hand_in(self, one: Asked) -> None:
        """Adds it to the engine; a refusal becomes its error."""
        if one.error is None:
            with contained(one):
                assert one.ids is not None
                self._engine.add(Request(one.request_id, one.ids, one.params, one.index, one.prompt, one.priority, one.beam))
                self._expected.add(one.request_id)

    def pick_up(self, request_ids: Container[str]) -> list[RequestOutput]:
        """Answers to some of these requests, in the order in which they came; turns the crank once if there are none."""
        if not any(request_id in request_ids for request_id in self._answers):
            self._step()
        ready = [request_id for request_id in self._answers if request_id in request_ids]
        return [self._answers.pop(request_id) for request_id in ready]

    def drop(self, request_ids: Iterable[str]) -> None:
        """Nobody wants these any more, answered or not."""
        for request_id in list(request_ids):
            self._answers.pop(request_id, None)
            self._expected.discard(request_id)
            if self._engine.is_open(request_id):
                self._engine.abort(request_id)

    def _step(self) -> None:
        assert self._engine.num_unfinished, "answers are waited for that nobody computes"
        for output in self._engine.step():
            if output.request_id in self._expected:
                self._expected.discard(output.request_id)
                self._answers[output.request_id] = output


def _way(one: Asked) -> tuple[bool, bool]:
    return one.add_special_tokens, one.literal
