"""`infer classify` with a classifier: texts, or pairs of them, in, the probabilities of the model's own labels out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ....errors import RecordError
from ....pooling.recipe import Recipe
from ....types.pooling_request import Pooled
from .. import openai_batch
from ..pending import PendingTexts
from ..pooling import PoolingOptions, PoolingTask, usage_of
from ..rows import native_row

if TYPE_CHECKING:
    from ....text.tokenizer import Tokenizer

_PAIR = ("text_1", "text_2")


@dataclass(frozen=True)
class ClassifierOptions(PoolingOptions):
    """The options of `infer classify` with a classifier.

    `threshold`: where labels do not exclude each other, those of at least this probability are given.
    """

    threshold: float = 0.5


class ClassifierTask(PoolingTask):
    """`input`, `text` or `prompt` (a string, token ids, or a list of either), or `text_1` with `text_2` that are read together.

    The answer is `label`, the likeliest, and `probs`, what the model gives each of its labels, best first: probabilities by its own
    activation, or raw scores. Where labels do not exclude each other (sigmoid) there is also `labels`: all above the threshold.
    """

    command = "classify"
    columns = ("input", "text", "prompt", *_PAIR)
    owners: ClassVar[Mapping[str, str]] = {"messages": "chat", "documents": "score"}
    options: ClassifierOptions

    def __init__(self, options: ClassifierOptions, tokenizer: Tokenizer | None, recipe: Recipe, *, max_model_len: int) -> None:
        super().__init__(options, tokenizer, recipe, max_model_len=max_model_len)
        self._several = recipe.activation == "sigmoid" and recipe.size > 1

    # --- in

    def missing(self, fields: Mapping[str, Any]) -> str:
        return 'no "input", "text" or "prompt", and no "text_1" with "text_2"'

    def read(self, pending: PendingTexts, fields: Mapping[str, Any]) -> None:
        pending.params, pending.kind = self.params_of(fields), "classify"
        encoder = self.encoder_for(fields, "")
        texts, many = self._texts(fields)
        pending.prompt = [(encoder, text) for text in texts]
        pending.reply = many

    def _texts(self, fields: Mapping[str, Any]) -> tuple[list[Any], bool]:
        """The texts or the pair of a record, and whether they are a list."""
        if self.options.template is not None:
            return self.texts("template", self.text_from_record(fields))
        if self.options.prompt_field is not None:
            return self.texts(self.options.prompt_field, fields[self.options.prompt_field])
        given = [name for name in self.columns if fields.get(name) is not None]
        if given == [*_PAIR]:
            return [tuple(self.text(fields[name], name) for name in _PAIR)], False
        if len(given) == 1 and given[0] in _PAIR:
            other = _PAIR[1 - _PAIR.index(given[0])]
            raise RecordError("missing_field", f"{given[0]} needs {other} beside it", param=other)
        if len(given) > 1:
            raise RecordError("invalid_value", f"give one of {', '.join(given)}", param=given[-1])
        return self.texts(given[0], fields[given[0]])

    # --- out

    def empty_answer(self) -> dict[str, Any]:
        return {"label": "", **({"labels": []} if self._several else {}), "probs": {}, **super().empty_answer()}

    def to_row(self, pending: PendingTexts, output: Pooled) -> dict[str, Any]:
        if not all(bool(np.isfinite(values).all()) for values in output.values):
            raise RecordError("non_finite_logits", "the model gave a score that is not a number")
        if pending.batch is not None:
            data = [self._datum(i, values) for i, values in enumerate(output.values)]
            return openai_batch.classification_row(pending.batch, data, usage_of(output))
        told = [self._told(values) for values in output.values]
        answer: dict[str, Any] = {"answers": told} if pending.reply else told[0]
        return native_row(pending, {**answer, "usage": usage_of(output)})

    def _told(self, values: NDArray[np.float32]) -> dict[str, Any]:
        """The answer to one text."""
        order = np.argsort(-values, kind="stable").tolist()
        probs = {self.recipe.labels[place]: values[place] for place in order}
        several = {"labels": [label for label, prob in probs.items() if prob >= self.options.threshold]} if self._several else {}
        return {"label": next(iter(probs)), **several, "probs": probs}

    def _datum(self, place: int, values: NDArray[np.float32]) -> dict[str, Any]:
        label = self.recipe.labels[int(np.argmax(values))]
        return {"index": place, "label": label, "probs": list(values), "num_classes": len(values)}
