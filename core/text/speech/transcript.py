"""A transcript in the making: a sound is read window by window, and each window begins where the last time that was said lies.

Sequential decoding as OpenAI's whisper and transformers have it (arXiv 2212.04356, section 4.5), as a machine that says what is to be asked
of the model next and is told the answer:

    next ──> Ask: detect, or write one window with one temperature ──> take_detected, take ──> next … None: done
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import RecordError
from .tokens import SpeechTokens

#: Seconds of a step between two times, and frames of features a second.
STEP, FRAMES = 0.02, 100
#: Frames of a step.
_STRIDE = 2
#: From this temperature on what was said is not held to be good enough to go on from.
_HOT = 0.5


@dataclass(frozen=True, kw_only=True)
class SpeechParams:
    """What is wanted of one sound. None turns a threshold off.

    Args:
        language, task, timestamps: see `SpeechTokens.beginning`; None language: it is detected.
        prompt: token ids of what was said before.
        temperatures: tried one after the other until an output is good enough.
        compression_ratio_threshold: one whose tokens compress better than this repeats itself.
        logprob_threshold: one whose tokens are less likely than this on average is doubtful.
        no_speech_threshold: a doubtful one is left out where nobody speaks with a greater probability than this.
        condition_on_prev_tokens: a window's prompt has what was said before it.
        num_beams: of a search, at temperature 0.
    """

    language: str | None = None
    task: str | None = None
    timestamps: bool = True
    prompt: tuple[int, ...] = ()
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float | None = 1.35
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    condition_on_prev_tokens: bool = False
    num_beams: int = 1


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request of the model: the window that begins at frame `start`, and the decoder's prompt.

    Args:
        detects: tokens whose probabilities behind the prompt are wanted, and nothing is written.
        temperature, max_tokens: of what is written.
    """

    start: int
    prompt: list[int]
    detects: tuple[int, ...] = ()
    temperature: float = 0.0
    max_tokens: int = 1


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of a transcript: from `start` to `end` in seconds, with the figures of the output that it is a part of.

    `tokens` are those of times too.
    """

    start: float
    end: float
    tokens: list[int]
    seek: int
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None
    logprobs: list[float] = field(default_factory=list)


class Transcript:
    """
    Args:
        frames: of features of the sound, 100 a second.
    """

    error: RecordError | None = None

    def __init__(self, tokens: SpeechTokens, params: SpeechParams, frames: int) -> None:
        self.tokens, self.params, self.frames = tokens, params, frames
        self.window = round(tokens.seconds * FRAMES)
        self.language = params.language
        self.segments: list[Segment] = []
        self.num_prompt_tokens = self.num_output_tokens = 0
        self.detected: float | None = None
        """The probability of the language, where it was detected."""
        self._seek = 0
        self._try = 0
        self._conditions = params.condition_on_prev_tokens
        self._no_speech: float | None = None
        self._is_probed = False

    @property
    def timestamps(self) -> bool:
        """Times are wanted, or needed to read a sound that is longer than a window."""
        return self.tokens.no_timestamps is not None and (self.params.timestamps or self.frames > self.window)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / FRAMES

    @property
    def is_done(self) -> bool:
        return self._seek >= self.frames

    def next(self) -> Ask | None:
        """What is to be asked next; None: the transcript is done. Raises RecordError."""
        if self.is_done:
            return None
        if self._needs_language:
            return Ask(start=self._seek, prompt=[self.tokens.start], detects=self._detects)
        is_detected = self.params.language is None
        begin = self.tokens.beginning(language=self.language, task=self.params.task, timestamps=self.timestamps, is_detected=is_detected)
        before = self._before()
        if not self._is_probed and self._is_silence_looked_for:
            return Ask(start=self._seek, prompt=[*before, self.tokens.start], detects=self._detects)
        prompt = [*before, *begin]
        room = min(self.tokens.max_length + min(self._cut, len(prompt)), self.tokens.positions) - len(prompt)
        return Ask(start=self._seek, prompt=prompt, temperature=self.params.temperatures[self._try], max_tokens=max(1, room))

    def take_detected(self, logprobs: Mapping[int, float]) -> None:
        """The log-probabilities of what was to be detected."""
        if self._needs_language:
            codes = sorted(self.tokens.languages, key=lambda code: self.tokens.languages[code])
            self.language = max(codes, key=lambda code: logprobs[self.tokens.languages[code]])
            whole = sum(math.exp(logprobs[token]) for token in self.tokens.languages.values())
            self.detected = math.exp(logprobs[self.tokens.languages[self.language]]) / whole if whole else 0.0
            if self._before():
                return  # silence is looked for behind what was said before
        if self.tokens.no_speech is not None:
            self._no_speech, self._is_probed = math.exp(logprobs[self.tokens.no_speech]), True

    def take(self, output: Sequence[int], logprobs: Sequence[float], *, score: float | None = None) -> None:
        """An output, its end token included, and the log-probability of each of its tokens by all rules. `score`: that of a search."""
        params, temperature = self.params, self.params.temperatures[self._try]
        average = score if score is not None else sum(logprobs) / max(1, len(logprobs))
        ratio = _compression(output, self.tokens.vocab_size)
        is_doubtful = params.logprob_threshold is not None and average < params.logprob_threshold
        repeats = params.compression_ratio_threshold is not None and ratio > params.compression_ratio_threshold
        is_silence = params.no_speech_threshold is not None and is_doubtful and (self._no_speech or 0.0) > params.no_speech_threshold
        self._conditions = params.condition_on_prev_tokens and temperature < _HOT
        self.num_output_tokens += len(output)
        if (is_doubtful or repeats) and not is_silence and self._try + 1 < len(params.temperatures):
            self._try += 1
            return
        frames = min(self.window, self.frames - self._seek)
        if is_silence:
            self._go_on(frames)
            return
        if output and output[-1] == self.tokens.end:
            output, logprobs = output[:-1], logprobs[: len(output) - 1]
        figures = {"seek": self._seek, "temperature": temperature, "avg_logprob": average, "compression_ratio": ratio}
        for first, last, start, end in self._pieces(output, frames):
            self.segments.append(
                Segment(
                    start=self._seek / FRAMES + start,
                    end=self._seek / FRAMES + end,
                    tokens=list(output[first:last]),
                    no_speech_prob=self._no_speech,
                    logprobs=list(logprobs[first:last]),
                    **figures,  # type: ignore[arg-type]
                )
            )
        self._go_on(self._read(output, frames))

    def text_tokens(self) -> list[int]:
        """The tokens of text of all segments."""
        return [token for segment in self.segments for token in segment.tokens if token < self.tokens.end]

    # --- windows

    def _go_on(self, frames: int) -> None:
        self._seek += frames if frames > 0 else self.window
        self._try, self._no_speech, self._is_probed = 0, None, False

    def _splits(self, output: Sequence[int]) -> list[int]:
        """The places behind the first of two times in a row."""
        first = self.tokens.first_time
        return [place for place in range(1, len(output)) if output[place - 1] >= first and output[place] >= first]

    def _ends_alone(self, output: Sequence[int]) -> bool:
        """True if it ends with one time behind text: nothing is said after that."""
        return len(output) > 1 and output[-1] >= self.tokens.first_time > output[-2]

    def _pieces(self, output: Sequence[int], frames: int) -> list[tuple[int, int, float, float]]:
        """(first token, last, start, end in seconds of the window) of each segment of a window."""
        first, splits = self.tokens.first_time, self._splits(output)
        if not splits:
            times = [token for token in output if token >= first]
            end = (times[-1] - first) * STEP if times and times[-1] != first else int(frames / _STRIDE) * STEP
            return [(0, len(output), 0.0, end)]
        alone = self._ends_alone(output)
        stops = [*splits, len(output)] if alone else [*splits[:-1], splits[-1] + 1]
        found, start = [], 0
        for number, stop in enumerate(stops, 1):
            last = stop - 1 if number < len(stops) or alone else stop - 2
            found.append((start, stop, (output[start] - first) * STEP, (output[last] - first) * STEP))
            start = stop
        return found

    def _read(self, output: Sequence[int], frames: int) -> int:
        """Frames of a window that an output is about."""
        splits = self._splits(output)
        if not splits or self._ends_alone(output):
            return frames
        return (output[splits[-1] - 1] - self.tokens.first_time) * _STRIDE

    # --- prompts

    @property
    def _cut(self) -> int:
        """Most tokens of what was said before."""
        return self.tokens.positions // 2 - 1

    def _before(self) -> list[int]:
        """What was said before, as the beginning of a prompt."""
        given = list(self.params.prompt)
        start = [] if self.tokens.previous is None else [self.tokens.previous]
        if self._conditions and (given or self.segments):
            said = [given, *(self._without_double(segment.tokens) for segment in self.segments)]
            return [*start, *[token for one in said for token in one][-self._cut :]]
        return [*start, *given[-self._cut :]] if given else []

    def _without_double(self, tokens: list[int]) -> list[int]:
        """Without the second of two times at the end."""
        return tokens[:-1] if len(tokens) > 2 and tokens[-2] >= self.tokens.first_time else tokens

    # --- what is detected

    @property
    def _needs_language(self) -> bool:
        return self.language is None and self.tokens.needs_language(self.params.language, self.params.task)

    @property
    def _is_silence_looked_for(self) -> bool:
        return self.params.no_speech_threshold is not None and self.tokens.no_speech is not None

    @property
    def _detects(self) -> tuple[int, ...]:
        languages = tuple(self.tokens.languages.values()) if self._needs_language else ()
        return languages if self.tokens.no_speech is None else (*languages, self.tokens.no_speech)


def _compression(tokens: Sequence[int], vocab_size: int) -> float:
    """How many times fewer bytes tokens are when they are compressed, as transformers counts."""
    width = int(math.log2(vocab_size) / 8) + 1
    data = b"".join(token.to_bytes(width, "little") for token in tokens)
    return len(data) / len(zlib.compress(data))
