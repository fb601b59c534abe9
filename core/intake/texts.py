"""Intake of texts that are pooled: each draft has some, as text, token ids, pairs of texts or images, each with what reads it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

from ..pooling.images import GivenImage, ImageReader
from ..pooling.texts import TextEncoder
from ..types.pooling_request import TextIds
from .intake import Draft, Intake


class TextsDraft(Draft, Protocol):
    """Texts on their way to a PoolingRequest: (TextEncoder, text) or (ImageReader, GivenImage) each, and TextIds in the end."""

    num_cut: int
    """Of how many of them something was cut off."""


class TextIntake(Intake[TextsDraft]):
    """See `Intake`."""

    def read(self, drafts: Sequence[TextsDraft]) -> None:
        images = [given for one in drafts if one.error is None for given in images_of(one.prompt)]
        with images[0][0].ahead(image for _, image in images) if images else nullcontext():
            super().read(drafts)

    def begin(self, one: TextsDraft) -> None:
        if images := images_of(one.prompt):
            images[0][0].check([image for _, image in images])
            one.prompt = [(by, by.read(text) if isinstance(by, ImageReader) else text) for by, text in one.prompt]
        for encoder, text in one.prompt:  # what cannot fit is not to hold up a batch
            for part in (text,) if isinstance(text, str) else text if isinstance(text, tuple) else ():
                encoder.checked(part)

    def size(self, one: TextsDraft) -> int:
        texts = [text for _, text in one.prompt if isinstance(text, (str, tuple))]
        return 1 + sum(len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts)

    def tokenize(self, batch: Sequence[TextsDraft]) -> None:
        texts: dict[TextEncoder, list[Any]] = {}
        for one in batch:
            for encoder, text in one.prompt:
                if not isinstance(text, TextIds):
                    texts.setdefault(encoder, []).append(text)
        fitted = {encoder: iter(encoder.fit(some)) for encoder, some in texts.items()}
        read = [[(text, False) if isinstance(text, TextIds) else next(fitted[by]) for by, text in one.prompt] for one in batch]
        for one, own in zip(batch, read, strict=True):
            for (_, text), (fit, _) in zip(one.prompt, own, strict=True):
                if isinstance(text, str):
                    self.remarks.of_ids(fit.ids)
                elif isinstance(text, list):
                    self.remarks.of_cut(text, fit.ids)
            one.prompt, one.num_cut = [text for text, _ in own], sum(cut for _, cut in own)


def images_of(prompt: Any) -> list[tuple[ImageReader, GivenImage]]:
    """The images among the texts of a draft, each with what reads it."""
    return [(by, text) for by, text in prompt if isinstance(by, ImageReader)] if isinstance(prompt, list) else []
