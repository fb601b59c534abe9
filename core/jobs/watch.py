"""Watch: whoever looks on while a job goes on. This one says nothing and holds nothing back."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


class Watch:
    """Called as a job goes on, in this order but for `note` and `hold`."""

    def opened(self, num_bytes: int | None) -> None:
        """Inputs and output are open; `num_bytes` is the size of the input, if it is known."""

    def loading(self, model: str) -> None:
        """The model's files are there."""

    def ready(self, *, bar: bool) -> None:
        """The engine is ready. Without `bar` the output is where a bar would be."""

    def stepped(self) -> None:
        """After each step of the engine, so it must be quick. Whatever it raises ends the run, in good order."""

    def waiting(self) -> AbstractContextManager[None]:
        """A context in which there is nothing to do but to wait for more input, for as long as whoever writes it likes."""
        return nullcontext()

    def stopped(self, error: BaseException) -> None:
        """The run ends before its end, and can be gone on with."""

    def note(self, text: str) -> None:
        """Tells the user something, once however often it comes up."""

    def hold(self) -> AbstractContextManager[None]:
        """A context in which nothing may interrupt."""
        return nullcontext()
