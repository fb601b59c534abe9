"""The tokens of a model that transcribes: of languages, tasks and times (arXiv 2212.04356, section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import RecordError, nearest

TASKS = ("transcribe", "translate")


@dataclass(frozen=True, kw_only=True)
class SpeechTokens:
    """Read by `build.speech`; names are those of generation_config.json, in brackets.

    Args:
        start, end: the decoder's first token, and the one that ends an output: all below it are text.
        languages, tasks: tokens by code ("en") and name; empty of a model for one language.
        forced: the tokens behind the first where a record names neither language nor task (`forced_decoder_ids`); None: is to be detected.
        no_timestamps: says that times are not wanted; times are the tokens behind it, and the one before says that nobody speaks. None: the
            model knows no times.
        previous: stands before what was said before (`prev_sot_token_id`).
        suppressed, begin_suppressed: are never written, and not first.
        max_initial: the first time is at most this many steps in (`max_initial_timestamp_index`).
        positions: most tokens of prompt and output.
        max_length: most tokens of an output beside its prompt, as far as `positions` allows.
        seconds: of a window.
    """

    start: int
    end: int
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    forced: tuple[int | None, ...]
    no_timestamps: int | None
    previous: int | None
    suppressed: tuple[int, ...]
    begin_suppressed: tuple[int, ...]
    max_initial: int | None
    vocab_size: int
    positions: int
    max_length: int
    seconds: float = 30.0

    @property
    def first_time(self) -> int:
        """The token of 0 seconds; those behind it are steps of 0.02 s."""
        return self.vocab_size + 1 if self.no_timestamps is None else self.no_timestamps + 1

    @property
    def no_speech(self) -> int | None:
        return None if self.no_timestamps is None else self.no_timestamps - 1

    @property
    def is_multilingual(self) -> bool:
        return bool(self.languages)

    def language_of(self, name: str) -> str:
        """The code of a language by its code or its English name. Raises RecordError."""
        code = name.lower().removeprefix("<|").removesuffix("|>")
        if not self.languages:
            message = "language: the model is for one language alone, and its files name no others"
            raise RecordError("unsupported", message, param="language")
        if code not in self.languages:
            from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

            code = TO_LANGUAGE_CODE.get(code, code)
        if code not in self.languages:
            known = sorted(self.languages)
            message = f"language {name!r} is not one of the model's {len(known)}, such as {', '.join(known[:6])}{nearest(code, known)}"
            raise RecordError("invalid_value", message, param="language")
        return code

    def needs_language(self, language: str | None, task: str | None) -> bool:
        """True if the language is to be detected."""
        if language is not None or not self.languages:
            return False
        return task is not None or not self.forced or self.forced[0] is None

    def beginning(self, *, language: str | None, task: str | None, timestamps: bool, is_detected: bool = False) -> list[int]:
        """What the decoder begins with, as transformers has it. Raises RecordError for a task that the model does not have.

        Args:
            language: its code; None of a model for one language, or where its files force one.
            is_detected: nobody named it.
        """
        if task is not None and task not in self.tasks:
            known = f"; it has {', '.join(self.tasks)}" if self.tasks else ""
            raise RecordError("unsupported", f"task: the model has no token for {task!r}{known}", param="task")
        found: list[int | None] = [self.start]
        if task is None and (language is None or is_detected):
            found += self.forced
        if language is not None:
            found[1:2] = [self.languages[language]]
        if task is not None:
            found.append(self.tasks[task])
        elif language is not None and "transcribe" in self.tasks and not set(found) & {*self.tasks.values()}:
            found.append(self.tasks["transcribe"])
        if found[-1] == self.no_timestamps and timestamps:
            found.pop()
        elif found[-1] != self.no_timestamps and not timestamps:
            found.append(self.no_timestamps)
        return [one for one in found if one is not None]
