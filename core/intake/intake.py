"""Intake: the way from prompts to token ids, for `LLM` and jobs alike. Texts are tokenized in batches, and each is to blame for itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from ..containment import Blamed, all_contained, contained
from .batches import in_batches
from .remarks import Remarks


class Draft(Blamed, Protocol):
    """A request in the making. Whatever goes wrong is its `error`."""

    prompt: Any
    """As it was given; token ids once it is read."""


D = TypeVar("D", bound=Draft)


class Intake(ABC, Generic[D]):
    """
    Args:
        remarks: told of prompts.
    """

    def __init__(self, remarks: Remarks) -> None:
        self.remarks = remarks

    def read(self, drafts: Sequence[D]) -> None:
        """Checks prompts, tokenizes and cuts them. What is wrong with one becomes its error."""
        todo = [one for one in drafts if self._each(self.begin, one) and self.size(one)]
        for batch in in_batches(todo, self.size):
            all_contained(self.tokenize, batch)
        for one in drafts:
            self._each(self.end, one)

    @staticmethod
    def _each(do: Any, one: D) -> bool:
        """Does something for one draft, unless it has an error; True if it has none afterwards."""
        if one.error is None:
            with contained(one):
                do(one)
        return one.error is None

    def begin(self, one: D) -> None:
        """Before a prompt is tokenized. Raises RecordError."""

    @abstractmethod
    def size(self, one: D) -> int:
        """Characters of a draft that are to be tokenized; 0: there is nothing to do for `tokenize`."""

    @abstractmethod
    def tokenize(self, batch: Sequence[D]) -> None:
        """Puts token ids in the place of the text of these drafts. What it raises for one of them it may raise for all."""

    def end(self, one: D) -> None:
        """After a prompt was tokenized. Raises RecordError."""
