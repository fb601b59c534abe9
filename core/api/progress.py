"""The progress bar of `LLM`: tqdm's, or whatever looks like it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..types.outputs import RequestOutput
from ..types.pooling_outputs import PoolingRequestOutput


class Bar:
    """Counts answered prompts on stderr, with the speed so far.

    Args:
        total: prompts.
        use_tqdm: False: no bar; True: tqdm's; else a function that is called as `tqdm` is.
    """

    def __init__(self, total: int, use_tqdm: bool | Callable[..., Any]) -> None:
        self._bar = None
        self._tokens_in = self._tokens_out = 0
        self._began = time.monotonic()
        if use_tqdm:
            self._bar = _make(use_tqdm)(total=total, desc="Processed prompts", dynamic_ncols=True, postfix=_speed(0, 0, 1))

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def count(self, output: RequestOutput | PoolingRequestOutput[Any]) -> None:
        """One more is answered."""
        if self._bar is None:
            return
        self._tokens_in += len(output.prompt_token_ids)
        if isinstance(output, RequestOutput):
            self._tokens_out += sum(len(choice.token_ids) for choice in output.outputs)
        if hasattr(self._bar, "postfix"):
            self._bar.postfix = _speed(self._tokens_in, self._tokens_out, time.monotonic() - self._began)
        self._bar.update(1)


def _make(use_tqdm: bool | Callable[..., Any]) -> Callable[..., Any]:
    if callable(use_tqdm):
        return use_tqdm
    from tqdm import tqdm

    return tqdm


def _speed(tokens_in: int, tokens_out: int, seconds: float) -> str:
    seconds = max(seconds, 1e-9)
    return f"est. speed input: {tokens_in / seconds:.2f} toks/s, output: {tokens_out / seconds:.2f} toks/s"
