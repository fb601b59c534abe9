"""Requests with structured output, from when they come until their grammars are compiled. Nobody else waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import RecordError
from .request import Request, Sequence

if TYPE_CHECKING:
    from .grammar import Compiling, Grammars


class CompilingQueue:
    """
    Args:
        grammars: compiles, beside the engine's steps.
    """

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._waiting: dict[Compiling, dict[Request, list[Sequence]]] = {}
        """Requests with the same constraint wait for the same compilation."""
        self.num_sequences = 0

    def __len__(self) -> int:
        return self.num_sequences

    def add(self, choices: list[Sequence]) -> None:
        """Takes a new request."""
        request = choices[0].request
        assert request.params.structured_outputs is not None
        compiling = self._grammars.begin(request.params.structured_outputs)
        self._waiting.setdefault(compiling, {})[request] = choices
        self.num_sequences += len(choices)

    def remove(self, request: Request) -> None:
        """Drops a request, if it is here."""
        for compiling, requests in self._waiting.items():
            if request in requests:
                self.num_sequences -= len(requests.pop(request))
                if not requests:
                    del self._waiting[compiling]
                break

    def take_ready(self) -> tuple[list[list[Sequence]], list[tuple[Request, RecordError]]]:
        """Takes out those whose grammars are compiled, each choice with a state of its own, and those whose cannot be."""
        ready: list[list[Sequence]] = []
        failed: list[tuple[Request, RecordError]] = []
        for compiling in [c for c in self._waiting if c.done()]:
            requests = self._waiting.pop(compiling)
            self.num_sequences -= sum(map(len, requests.values()))
            try:
                compiled = compiling.result()
            except RecordError as error:
                failed += [(request, error) for request in requests]
                continue
            for choices in requests.values():
                for choice in choices:
                    choice.grammar = compiled.state()
                ready.append(choices)
        return ready, failed

    def wait(self, seconds: float) -> None:
        """Waits until the oldest is compiled, or so long."""
        next(iter(self._waiting)).wait(seconds)
