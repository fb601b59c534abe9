"""The desk of an `LLM` that pools: prompts are handed in together, and what was made of them comes back in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..api.arguments import UseTqdm
from ..api.progress import Bar
from ..containment import all_contained, contained
from ..engine.protocol import AnyEngine
from ..errors import RecordError
from ..pooling.texts import TextEncoder
from ..text.tokenizer import Tokenizer
from ..types.pooling_outputs import PoolingOutput, PoolingRequestOutput
from ..types.pooling_params import PoolingParams
from ..types.pooling_request import Pooled, PoolingRequest, TextIds
from .batches import in_batches
from .remarks import Remarks

_NOTHING = TextIds(())


@dataclass(slots=True)
class ToPool:
    """One prompt on its way to the engine. Whatever goes wrong is its `error`."""

    text: str | tuple[str, str] | None
    """A text, or two that are read together; None: there are `ids`."""
    ids: Sequence[int] | None
    params: PoolingParams
    kind: str
    """One of pooling_request.KINDS."""
    error: RecordError | None = None
    index: int = -1
    read: TextIds = _NOTHING
    """What the model reads of it."""

    @property
    def request_id(self) -> str:
        return str(self.index)

    @property
    def called(self) -> str:
        """Its name in messages."""
        return f"prompt {self.index}"


class PoolingDesk:
    """
    Args:
        engine: computes.
        tokenizer: None where prompts are token ids.
        remarks: told of prompts, if anybody is to be.
    """

    def __init__(self, engine: AnyEngine, tokenizer: Tokenizer | None, remarks: Remarks | None = None) -> None:
        self._engine = engine
        self._remarks = remarks or Remarks(None, lambda message: None)
        self._tokenizer = tokenizer
        self._count = 0

    def answer(
        self, asked: Sequence[ToPool], encoder: TextEncoder | None, use_tqdm: UseTqdm, *, raising: bool
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        """The outputs, in the order of what is asked.

        Args:
            encoder: makes tokens of the texts; None without a tokenizer.
            raising: raise the first error that is met; nothing is left in the engine then.
        """
        for one in asked:
            one.index, self._count = self._count, self._count + 1
        self._read([one for one in asked if one.error is None], encoder)
        outputs: dict[str, PoolingRequestOutput[PoolingOutput]] = {}
        waiting: dict[str, ToPool] = {}
        try:
            with Bar(len(asked), use_tqdm) as bar:
                for one in asked:
                    self._hand_in(one)
                    if one.error is None:
                        waiting[one.request_id] = one
                        continue
                    if raising:
                        raise one.error
                    outputs[one.request_id] = _output(one, None, one.error)
                    bar.add(0, 0)
                while waiting:
                    assert self._engine.num_unfinished, "answers are waited for that nobody computes"
                    for pooled in self._engine.step():
                        one = waiting.pop(pooled.request_id)
                        if raising and pooled.error is not None:
                            raise pooled.error
                        outputs[one.request_id] = _output(one, pooled, pooled.error)
                        bar.add(pooled.num_tokens, 0)
        finally:
            for request_id in waiting:
                if self._engine.is_open(request_id):
                    self._engine.abort(request_id)
        return [outputs[one.request_id] for one in asked]

    def _read(self, asked: Sequence[ToPool], encoder: TextEncoder | None) -> None:
        """Makes and cuts the tokens."""
        texts = []
        for one in asked:
            if one.text is not None and encoder is not None:
                texts.append(one)
            elif one.ids is None:
                one.error = RecordError("unsupported", "without a tokenizer (skip_tokenizer_init) a prompt is token ids", param="prompt")
            else:
                with contained(one):
                    one.read = TextIds(tuple(one.ids)) if encoder is None else encoder.fit_ids(one.ids)[0]
                    self._remarks.of_cut(one.ids, one.read.ids)
        for batch in in_batches(texts, lambda one: sum(map(len, one.text or "")), lambda one: isinstance(one.text, tuple)):
            assert encoder is not None
            all_contained(partial(_encode, encoder), batch)
        for one in texts:
            if one.error is None and isinstance(one.text, str):
                self._remarks.of_ids(one.read.ids)

    def _hand_in(self, one: ToPool) -> None:
        if one.error is not None:
            return
        with contained(one):
            one.params.check(one.kind)
            self._engine.add(PoolingRequest(one.request_id, [one.read], one.params, one.kind, one.index))


def _encode(encoder: TextEncoder, batch: Sequence[ToPool]) -> None:
    for one, read in zip(batch, _encoded(batch, encoder), strict=True):
        one.read = read


def _encoded(batch: Sequence[ToPool], encoder: TextEncoder) -> list[TextIds]:
    """Of prompts that are all texts, or all pairs."""
    if isinstance(batch[0].text, tuple):
        return encoder.encode_pairs([one.text for one in batch if isinstance(one.text, tuple)])
    return encoder.encode([one.text for one in batch if isinstance(one.text, str)])


def _output(one: ToPool, pooled: Pooled | None, error: RecordError | None) -> PoolingRequestOutput[PoolingOutput]:
    import torch

    values = np.empty(0, np.float32) if pooled is None or error is not None else pooled.values[0]
    return PoolingRequestOutput(one.request_id, PoolingOutput(torch.from_numpy(values)), list(one.read.ids), error=error)
