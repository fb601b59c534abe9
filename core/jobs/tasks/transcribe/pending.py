"""A sound on its way, from its line to its row: one request of the engine after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ....media.sounds import SoundStore
from ....text.speech.rules import SpeechRules
from ....text.speech.transcript import Ask, SpeechParams, Transcript
from ....types.beam_params import BeamSearchParams
from ....types.media import MediaPart, Medium
from ....types.outputs import RequestOutput
from ....types.params import SamplingParams
from ....types.request import Request
from ..pending import Pending


@dataclass(slots=True)
class PendingSound(Pending):
    """See `Pending`. Its answer is the transcript."""

    part: MediaPart | None = None
    speech: SpeechParams | None = None
    seed: int | None = None
    priority: int = 0
    form: str = "verbose_json"  # of the answer
    granular: bool = True  # whether that has segments
    with_logprobs: bool = False  # and these the log-probabilities of their tokens
    medium: Medium | None = None  # without its samples, unless reading it again may give another
    transcript: Transcript | None = None
    store: SoundStore | None = None
    ask: Ask | None = None  # what the engine is asked now
    num_asked: int = 0

    def to_request(self) -> Request:
        """What is to be asked next. Raises RecordError."""
        transcript = self._need()
        assert self.store is not None
        assert self.part is not None
        assert self.medium is not None
        self.ask = ask = transcript.next()
        assert ask is not None, "it is not done"
        held = self.medium if self.medium.data is not None else None
        placed = self.store.window(self.part, self.medium, ask.start, held=held)
        params, beam = _params(transcript, ask, None if self.seed is None else self.seed + self.num_asked)
        return Request(
            f"{self.index}.{self.num_asked}" if self.num_asked else str(self.index),
            ask.prompt,
            params,
            self.index,
            priority=self.priority,
            beam=beam,
            first_choice=self.num_asked,
            media=(placed,),
            encoder_ids=(0,) * len(placed.rows),
            goes_on=self.num_asked > 0,
        )

    def answered(self, output: RequestOutput) -> Any:
        if output.error is not None:
            return output
        transcript, ask = self._need(), self.ask
        assert ask is not None
        self.num_asked += 1
        (choice,) = output.outputs
        if ask.detects:
            assert choice.logprobs is not None
            transcript.take_detected({token: entry.logprob for token, entry in choice.logprobs[0].items()})
        else:
            transcript.num_prompt_tokens += len(ask.prompt)
            found = [entries[token].logprob for token, entries in zip(choice.token_ids, choice.logprobs or (), strict=False)]
            transcript.take(choice.token_ids, found, score=choice.score)
        return transcript if transcript.is_done else None

    @property
    def goes_on(self) -> bool:
        return self.transcript is not None

    def drop_prompt(self) -> None:
        """The sound is asked for again with every window."""

    def asked(self) -> Sequence[Sequence[int]]:
        return [request.prompt_token_ids for request in self.to_requests()]

    def lengths(self, max_model_len: int) -> Sequence[tuple[int, int]]:
        return [(request.max_length(max_model_len), 1) for request in self.to_requests()]

    def _need(self) -> Transcript:
        assert self.transcript is not None
        return self.transcript


def _params(transcript: Transcript, ask: Ask, seed: int | None) -> tuple[SamplingParams, BeamSearchParams | None]:
    if ask.detects:
        return SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=ask.detects, detokenize=False), None
    rules = SpeechRules(transcript.tokens, transcript.timestamps)
    width = transcript.params.num_beams
    if width > 1 and not ask.temperature:
        beam = BeamSearchParams(beam_width=width, num_return=1, max_tokens=ask.max_tokens, length_penalty=1.0, scoring="hf")
        return replace(beam.sampling(), logits_processors=(rules,)), beam
    common: dict[str, Any] = {"max_tokens": ask.max_tokens, "logprobs": 0, "detokenize": False, "seed": seed}
    return SamplingParams(temperature=ask.temperature, logits_processors=(rules,), **common), None
