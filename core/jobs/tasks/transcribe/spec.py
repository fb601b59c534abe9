"""The task spec of `infer transcribe`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ....errors import ConfigError, RecordError
from ..spec import Say, TaskSpec
from .task import TranscribeOptions, TranscribeTask

if TYPE_CHECKING:
    from ....build.plan import Plan
    from ..protocol import AnyTask


@dataclass(frozen=True)
class TranscribeSpec(TaskSpec):
    """See `TaskSpec`."""

    options: TranscribeOptions

    def settled(self, plan: Plan, say: Say) -> TranscribeSpec:
        plan.must_generate()
        tokens = plan.speech_tokens
        if plan.sounds is None or tokens is None:
            raise ConfigError(f"model {plan.source.name!r} reads no sound here: infer transcribe is for Whisper models")
        if plan.tokenizer is None:
            raise ConfigError("infer transcribe needs a tokenizer; leave skip_tokenizer_init out")
        speech = self.options.speech
        try:
            if speech.language is not None:
                speech = replace(speech, language=tokens.language_of(speech.language))
            if speech.task is not None:
                tokens.beginning(language=None, task=speech.task, timestamps=True)
        except RecordError as error:
            raise ConfigError(error.message) from None
        return replace(self, options=replace(self.options, speech=speech))

    def _make(self, options: TranscribeOptions, plan: Plan) -> AnyTask:
        assert plan.sounds is not None
        assert plan.speech_tokens is not None
        assert plan.tokenizer is not None
        return TranscribeTask(options, plan.tokenizer, plan.sounds, plan.speech_tokens, max_model_len=plan.config.max_model_len)

    def job(self, plan: Plan) -> dict[str, Any]:
        return {**asdict(self.options.speech), "response_format": self.options.response_format}

    def defaults(self, plan: Plan) -> dict[str, Any]:
        return {"sampling": asdict(self.options.speech)}
