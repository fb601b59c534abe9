"""`infer score` with a model that scores tokens: a text in, the scores of its tokens, or of the ends of its steps, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import RecordError
from ...types.pooling_request import Pooled
from .pending import PendingTexts
from .pooling import PoolingOptions, PoolingTask, usage_of
from .rows import native_row

_OWN = frozenset({"step_tag_id", "returned_token_ids"})


@dataclass(frozen=True, slots=True)
class _Reply:
    """The form of a record's answer. `many`: it asked for a list of texts."""

    many: bool


class TokenScoreTask(PoolingTask):
    """`input` or `text` (a string, token ids, or a list of either), `step_tag_id`, `returned_token_ids`.

    The answer is `scores`: for each token that is scored, in order, its score, or a list of one for each label.
    """

    command = "score"
    columns = ("input", "text")
    options: PoolingOptions
    known_fields = PoolingTask.known_fields | _OWN
    parameters = PoolingTask.parameters | _OWN
    guessable_fields = PoolingTask.guessable_fields | _OWN
    owners: ClassVar[Mapping[str, str]] = {name: command for name, command in PoolingTask.owners.items() if command != "score"}

    # --- in

    def missing(self, fields: Mapping[str, Any]) -> str:
        return 'no "input" and no "text"; this model scores the tokens of a text, not pairs of texts'

    def read(self, pending: PendingTexts, fields: Mapping[str, Any]) -> None:
        if pending.batch is not None:
            raise RecordError("unsupported", "scores of tokens have no form in OpenAI Batch lines; give plain lines")
        pending.params = self.params_of(fields, **{name: fields.get(name) for name in _OWN})
        pending.kind = "token_classify"
        given = [name for name in self.columns if fields.get(name) is not None]
        if len(given) > 1:
            raise RecordError("invalid_value", "give input or text, not both", param="text")
        texts, many = self.texts(given[0], fields[given[0]])
        encoder = self.encoder_for(fields, "")
        pending.prompt = [(encoder, text) for text in texts]
        pending.reply = _Reply(many)

    # --- out

    def to_row(self, pending: PendingTexts, output: Pooled) -> dict[str, Any]:
        scores = [_written(values) for values in output.values]
        return native_row(pending, {"scores": scores if pending.reply.many else scores[0], "usage": usage_of(output)})


def _written(values: NDArray[np.float32]) -> list[Any]:
    """[tokens, labels] as lists; numbers alone where there is one label."""
    return list(values[:, 0]) if values.shape[1] == 1 else [list(row) for row in values]
