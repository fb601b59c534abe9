"""Intake of sounds that are to be transcribed: each is read and measured, and its samples are let go until a window of it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..media.sounds import SoundStore
from ..text.speech.tokens import SpeechTokens
from ..text.speech.transcript import SpeechParams, Transcript
from ..types.media import MediaPart, Medium
from .intake import Draft, Intake
from .remarks import Remarks


class SoundDraft(Draft, Protocol):
    """A sound on its way to a transcript."""

    part: MediaPart | None
    speech: SpeechParams | None
    """None where there is an error."""
    medium: Medium | None
    """Once it was read; without its samples where reading it again gives the same."""
    transcript: Transcript | None


class SoundIntake(Intake[SoundDraft]):
    """
    Args:
        store: of the model's sounds.
    """

    def __init__(self, store: SoundStore, tokens: SpeechTokens, remarks: Remarks) -> None:
        super().__init__(remarks)
        self._store, self._tokens = store, tokens

    def read(self, drafts: Sequence[SoundDraft]) -> None:
        """Loads sounds a few ahead of each other. What is wrong with one becomes its error. Raises ModelError."""
        with self._store.loader.ahead([one.part for one in drafts if one.part is not None and one.error is None]):
            super().read(drafts)

    def begin(self, one: SoundDraft) -> None:
        assert one.part is not None
        assert one.speech is not None
        one.medium, frames = self._store.measured(one.part)
        one.transcript = Transcript(self._tokens, one.speech, frames)

    def size(self, one: SoundDraft) -> int:
        return 0

    def tokenize(self, batch: Sequence[SoundDraft]) -> None:
        """Nothing is text."""
