"""The task of `infer transcribe`: fields of records, in our own form and that of OpenAI's /v1/audio/transcriptions, and its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ....errors import RecordError
from ....intake.remarks import Remarks
from ....intake.sounds import SoundIntake
from ....media.sounds import SoundStore
from ....text.speech.subtitles import srt, vtt
from ....text.speech.tokens import TASKS, SpeechTokens
from ....text.speech.transcript import Segment, SpeechParams, Transcript
from ....types.bounds import Bounds
from ....types.media import MediaPart
from ....types.media_parts import of_sound
from ...jsonl import json_type, wrong_type
from ...tally import Tally
from .. import constraint, openai_batch
from ..base import RecordOptions, Task
from ..fields import DROPPED, SAMPLING, flag, priority_of
from ..rows import finite, native_row
from .pending import PendingSound

if TYPE_CHECKING:
    from ....text.tokenizer import Tokenizer

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
#: Fields that hold the sound: ours, those of content parts, and vLLM's and OpenAI's of Batch lines.
_SOUNDS = ("audio", "audio_url", "input_audio", "file_url", "file")
_THRESHOLDS = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold")
_FIELDS = frozenset(
    {
        *("language", "task", "prompt", "temperature", "timestamps", "timestamp_granularities", "response_format"),
        *(*_THRESHOLDS, "condition_on_prev_tokens", "num_beams", "seed", "logprobs", "include"),
    }
)
#: Those that ask for nothing with one of these values, and are refused otherwise.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {"stream": (False,), "chunking_strategy": ("auto",), "n": (1,)}
_TRANSLATIONS = "/audio/translations"


@dataclass(frozen=True)
class TranscribeOptions(RecordOptions):
    """`speech`: what is wanted of sounds where a record says nothing of it. `response_format`: of answers; None: verbose_json, and json of
    OpenAI Batch lines."""

    speech: SpeechParams = field(default_factory=SpeechParams)
    response_format: str | None = None


class TranscribeTask(Task[PendingSound]):
    """`audio` (a path, a URL, or {"data", "format"}), `language`, `task`, `prompt`, `temperature` (a number, or a list that is gone through
    until an output is good enough), thresholds, `response_format`. Lines of /v1/audio/transcriptions and /v1/audio/translations have
    `file_url`, as in vLLM."""

    command = "transcribe"
    keeps = PendingSound
    columns = _SOUNDS
    waits = True
    known_fields = DROPPED | frozenset(_NEUTRAL) | _FIELDS | {"id", "priority"}
    guessable_fields = _FIELDS - {"task", "prompt", "include"}
    parameters = _FIELDS - {"prompt", "task"}
    of_writing = (SAMPLING | constraint.FIELDS) - known_fields
    options: TranscribeOptions

    def __init__(
        self, options: TranscribeOptions, tokenizer: Tokenizer, store: SoundStore, tokens: SpeechTokens, *, max_model_len: int
    ) -> None:
        self._store, self._tokens, self._text = store, tokens, tokenizer
        super().__init__(options, tokenizer, max_model_len=max_model_len)

    def make_intake(self, remarks: Remarks) -> SoundIntake:
        return SoundIntake(self._store, self._tokens, remarks)

    def missing(self, fields: Mapping[str, Any]) -> str:
        return 'no "audio"'

    def check_ours(self, fields: Mapping[str, Any]) -> None:
        if not any(fields.get(name) is not None for name in self.columns) and "prompt" in fields:
            raise RecordError("missing_field", 'no "audio" (a prompt alone belongs to infer generate)', param="audio")
        super().check_ours(fields)

    def refuse(self, fields: Mapping[str, Any]) -> None:
        for name, neutral in _NEUTRAL.items():
            value = fields.get(name)
            if value is not None and not any(type(value) is type(one) and value == one for one in neutral):
                hint = ": infer generate writes several answers to a sound of one window" if name == "n" else ""
                raise RecordError("unsupported", f"{name} is not supported in a transcription{hint}", param=name)

    # --- in

    def read(self, pending: PendingSound, fields: Mapping[str, Any]) -> None:
        pending.store, pending.part = self._store, _sound_of(fields)
        pending.priority = priority_of(fields)
        if (seed := fields.get("seed")) is not None:
            pending.seed = Bounds("int", 0, 2**62).check("seed", seed, json_type)
        pending.form = self._form(pending, fields)
        pending.granular = _granularities(fields) or pending.form not in ("json", "text")
        pending.with_logprobs = flag(fields, "logprobs", False) or "logprobs" in _texts(fields, "include", ("logprobs",))
        pending.speech = self._speech(pending, fields)

    def _form(self, pending: PendingSound, fields: Mapping[str, Any]) -> str:
        form = fields.get("response_format")
        if form is None:
            form = self.options.response_format or ("json" if pending.batch is not None else "verbose_json")
        if form not in FORMATS:
            told = repr(form[:100]) if isinstance(form, str) else json_type(form)
            message = f"response_format must be one of {', '.join(FORMATS)}, not {told}"
            raise RecordError("invalid_value", message, param="response_format")
        return str(form)

    def _speech(self, pending: PendingSound, fields: Mapping[str, Any]) -> SpeechParams:
        default, changes = self.options.speech, dict[str, Any]()
        if (language := fields.get("language")) is not None:
            if not isinstance(language, str):
                raise wrong_type("language", "a string", language)
            changes["language"] = self._tokens.language_of(language)
        changes["task"] = self._task(pending, fields)
        if (prompt := fields.get("prompt")) is not None:
            if not isinstance(prompt, str):
                raise wrong_type("prompt", "a string", prompt)
            text = f" {prompt.strip()}"  # as transformers' processor has it
            changes["prompt"] = tuple(self._text.encode_literal([text], add_special_tokens=False)[0]) if prompt.strip() else ()
        if (temperature := fields.get("temperature")) not in (None, 0):  # 0 is OpenAI's word for all of them
            changes["temperatures"] = _temperatures(temperature)
        for name in _THRESHOLDS:
            if (value := fields.get(name)) is not None:
                changes[name] = None if value is False else Bounds("float", -1e9, 1e9).check(name, value, json_type)
        if fields.get("condition_on_prev_tokens") is not None:
            changes["condition_on_prev_tokens"] = flag(fields, "condition_on_prev_tokens", False)
        if (beams := fields.get("num_beams")) is not None:
            changes["num_beams"] = Bounds("int", 1, 64).check("num_beams", beams, json_type)
        changes["timestamps"] = flag(fields, "timestamps", default.timestamps and pending.granular)
        return replace(default, **changes)

    def _task(self, pending: PendingSound, fields: Mapping[str, Any]) -> str | None:
        task = fields.get("task", self.options.speech.task)
        if task is not None and task not in TASKS:
            told = repr(task[:100]) if isinstance(task, str) else json_type(task)
            raise RecordError("invalid_value", f"task must be {' or '.join(TASKS)}, not {told}", param="task")
        if pending.batch is not None and str(pending.batch.url).endswith(_TRANSLATIONS):
            return "translate"
        return task

    # --- out

    def to_row(self, pending: PendingSound, output: Transcript) -> dict[str, Any]:
        answer = self._answer(pending, output)
        if pending.batch is not None:
            return openai_batch.body_row(pending.batch, answer)
        return native_row(pending, answer)

    def _answer(self, pending: PendingSound, found: Transcript) -> dict[str, Any]:
        pieces = [(one.start, one.end, self._words(one.tokens)) for one in found.segments]
        if pending.form in ("srt", "vtt"):
            text = (srt if pending.form == "srt" else vtt)([one for one in pieces if one[2].strip()])
        else:
            text = self._words(found.text_tokens()).strip()
        answer: dict[str, Any] = {"text": text}
        if pending.form == "verbose_json":
            task = found.params.task or "transcribe"
            answer = {"task": task, "language": found.language, "duration": round(found.duration, 2), **answer}
            if found.detected is not None:
                answer["language_probability"] = round(found.detected, 6)
        if pending.granular and pending.form not in ("srt", "vtt"):
            told = enumerate(zip(found.segments, pieces, strict=True))
            answer["segments"] = [_segment(i, one, text, pending.with_logprobs) for i, (one, (_, _, text)) in told]
        counts = {"prompt_tokens": found.num_prompt_tokens, "completion_tokens": found.num_output_tokens}
        total = found.num_prompt_tokens + found.num_output_tokens
        answer["usage"] = {**counts, "total_tokens": total, "audio_seconds": round(found.duration, 2)}
        return answer

    def _words(self, tokens: list[int]) -> str:
        return self._text.decode([token for token in tokens if token < self._tokens.end], skip_special_tokens=True)

    def tally(self, pending: PendingSound, output: Transcript) -> Tally:
        return Tally(
            num_answered=1,
            bytes_done=pending.size,
            finish_reasons=Counter({"stop": 1}),
            prompt_tokens=output.num_prompt_tokens,
            output_tokens=output.num_output_tokens,
        )

    def empty_answer(self) -> dict[str, Any]:
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "audio_seconds": 0.0}
        return {"task": "", "language": None, "duration": 0.0, "text": "", "segments": [], "usage": usage}


def _segment(number: int, one: Segment, text: str, with_logprobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": number,
        "seek": one.seek,
        "start": round(one.start, 2),
        "end": round(one.end, 2),
        "text": text,
        "tokens": one.tokens,
        "temperature": one.temperature,
        "avg_logprob": round(finite(one.avg_logprob), 6),
        "compression_ratio": round(one.compression_ratio, 6),
        "no_speech_prob": None if one.no_speech_prob is None else round(one.no_speech_prob, 6),
    }
    if with_logprobs:
        row["token_logprobs"] = [round(finite(value), 6) for value in one.logprobs]
    return row


def _sound_of(fields: Mapping[str, Any]) -> MediaPart:
    """The sound of a record. Raises RecordError."""
    given = [name for name in _SOUNDS if fields.get(name) is not None]
    if len(given) > 1:
        raise RecordError("invalid_value", f"give {given[0]} or {given[1]}, not both", param=given[1])
    return of_sound(fields[given[0]], given[0])


def _granularities(fields: Mapping[str, Any]) -> bool:
    """True if segments are asked for. Raises RecordError."""
    names = _texts(fields, "timestamp_granularities", ("segment", "word"))
    if "word" in names:
        message = "timestamp_granularities: times of words are not supported; segment is"
        raise RecordError("unsupported", message, param="timestamp_granularities")
    return bool(names)


def _texts(fields: Mapping[str, Any], name: str, known: tuple[str, ...]) -> list[str]:
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(one in known for one in value):
        raise RecordError("invalid_value", f"{name} must be a list of {' or '.join(known)}", param=name)
    return value


def _temperatures(value: Any) -> tuple[float, ...]:
    listed = value if isinstance(value, list) else [value]
    if not listed or len(listed) > 16:
        raise RecordError("invalid_value", "temperature must be a number, or a list of 1 to 16", param="temperature")
    return tuple(Bounds("float", 0, 100).check("temperature", one, json_type) for one in listed)
