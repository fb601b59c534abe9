"""Intake of texts that are pooled: each draft has some, as text, token ids or pairs of texts, each with what tokenizes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..pooling.texts import TextEncoder
from .intake import Draft, Intake


class TextsDraft(Draft, Protocol):
    """Texts on their way to a PoolingRequest: (TextEncoder, text) each, and TextIds in the end."""

    num_cut: int
    """Of how many of them something was cut off."""


class TextIntake(Intake[TextsDraft]):
    """See `Intake`."""

    def begin(self, one: TextsDraft) -> None:
        for encoder, text in one.prompt:  # what cannot fit is not to hold up a batch
            for part in (text,) if isinstance(text, str) else text if isinstance(text, tuple) else ():
                encoder.checked(part)

    def size(self, one: TextsDraft) -> int:
        return 1 + sum(len(text) if isinstance(text, str) else sum(map(len, text)) for _, text in one.prompt if not isinstance(text, list))

    def tokenize(self, batch: Sequence[TextsDraft]) -> None:
        texts: dict[TextEncoder, list[Any]] = {}
        for one in batch:
            for encoder, text in one.prompt:
                texts.setdefault(encoder, []).append(text)
        fitted = {encoder: iter(encoder.fit(some)) for encoder, some in texts.items()}
        read = [[next(fitted[encoder]) for encoder, _ in one.prompt] for one in batch]
        for one, own in zip(batch, read, strict=True):
            for (_, text), (fit, _) in zip(one.prompt, own, strict=True):
                if isinstance(text, str):
                    self.remarks.of_ids(fit.ids)
                elif isinstance(text, list):
                    self.remarks.of_cut(text, fit.ids)
            one.prompt, one.num_cut = [text for text, _ in own], sum(cut for _, cut in own)
