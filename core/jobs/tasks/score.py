"""`infer score`: two texts in, how well they go together out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import ConfigError, RecordError
from ...pooling.recipe import Recipe
from ...pooling.similarity import similarity
from ...types.pooling_request import Pooled
from ..jsonl import wrong_type
from . import openai_batch
from .pending import PendingTexts
from .pooling import PoolingOptions, PoolingTask, usage_of
from .rows import native_row

if TYPE_CHECKING:
    from ...text.tokenizer import Tokenizer

#: What sentence-transformers calls the prompt of what is looked for, and those of where it is looked for, in this order.
_QUERY, _DOCUMENT = ("query",), ("document", "passage", "corpus")
_OF_RERANK = frozenset({"top_n", "return_documents"})


@dataclass(frozen=True)
class ScoreOptions(PoolingOptions):
    """The options of `infer score`. The prefixes are put before queries (or text_1) and documents (text_2); None: the model's own."""

    query_prefix: str | None = None
    document_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class _Reply:
    """The form of a record's answer.

    Args:
        num_queries: of its texts, how many are on the first side; 1 if it is compared with all the others.
        many: it asked for a list of scores.
        documents: the texts to quote beside the scores, in a rerank answer.
        top_n: most results of a rerank answer.
    """

    num_queries: int
    many: bool
    documents: tuple[str, ...] | None = None
    top_n: int | None = None


class ScoreTask(PoolingTask):
    """`query` with `documents`, or `text_1` with `text_2`.

    A classifier of one label reads each pair at once (a cross-encoder). Any other model embeds each text by itself, and the score
    is the similarity of its recipe; the prompts it has for queries and documents are then put before them.

    Raises ConfigError for a classifier with several labels.
    """

    command = "score"
    columns = ("query", "documents", "text_1", "text_2")
    owners: ClassVar[Mapping[str, str]] = {**PoolingTask.owners, "text": "embed"}
    options: ScoreOptions

    def __init__(self, options: ScoreOptions, tokenizer: Tokenizer | None, recipe: Recipe, *, max_model_len: int) -> None:
        super().__init__(options, tokenizer, recipe, max_model_len=max_model_len)
        self.pairs = recipe.kind == "classify"
        if self.pairs and recipe.size != 1:
            labels = ", ".join(recipe.labels[:5])
            raise ConfigError(f"infer score needs a model that gives one score; this one has {recipe.size} labels ({labels})")

    # --- in

    def missing(self, fields: Mapping[str, Any]) -> str:
        return 'no "query" with "documents" and no "text_1" with "text_2"'

    def read(self, pending: PendingTexts, fields: Mapping[str, Any]) -> None:
        pending.params = self.params_of(fields)
        pending.kind = "classify" if self.pairs else "embed"
        asymmetric, first, second, many = self._sides(fields)
        if len(first) > 1 and len(first) != len(second):
            message = f"text_1 has {len(first)} texts and text_2 {len(second)}: give one text, or as many"
            raise RecordError("invalid_value", message, param="text_2")
        pending.reply = self._reply(pending, fields, len(first), second, many)
        prefixes = self._prefixes(asymmetric=asymmetric)
        if self.pairs:
            encoder = self.encoder_for(fields, "")
            queries = first if len(first) > 1 else first * len(second)
            pending.prompt = [(encoder, (prefixes[0] + a, prefixes[1] + b)) for a, b in zip(queries, second, strict=True)]
        else:
            sides = zip((first, second), (self.encoder_for(fields, prefix) for prefix in prefixes), strict=True)
            pending.prompt = [(encoder, text) for texts, encoder in sides for text in texts]

    def _sides(self, fields: Mapping[str, Any]) -> tuple[bool, list[str], list[str], bool]:
        """(True if the sides are query and documents, the texts of both, True if scores are a list)."""
        names = [name for name in self.columns if fields.get(name) is not None]
        if set(names) == {"query", "documents"}:
            documents = fields["documents"]
            if not isinstance(documents, list):
                raise wrong_type("documents", "a list of strings", documents)
            return True, [self.text(fields["query"], "query")], self._list(documents, "documents"), True
        if set(names) == {"text_1", "text_2"}:
            first, second = fields["text_1"], fields["text_2"]
            many = isinstance(first, list) or isinstance(second, list)
            left, right = (
                self._list(v, n) if isinstance(v, list) else [self.text(v, n)] for n, v in (("text_1", first), ("text_2", second))
            )
            return False, left, right, many
        if len(names) == 1:
            other = {"query": "documents", "documents": "query", "text_1": "text_2", "text_2": "text_1"}[names[0]]
            raise RecordError("missing_field", f"{names[0]} needs {other} beside it", param=other)
        raise RecordError("invalid_value", "give query and documents, or text_1 and text_2", param=names[-1])

    def _list(self, value: list[Any], name: str) -> list[str]:
        """The texts of a list; an object with a `text`, as rerank APIs have it, is that text."""
        if not value:
            raise RecordError("invalid_value", f"{name} is an empty list: there is nothing to score", param=name)
        return [self.text(one["text"] if isinstance(one, dict) and "text" in one else one, name) for one in value]

    def _reply(self, pending: PendingTexts, fields: Mapping[str, Any], num_queries: int, second: list[str], many: bool) -> _Reply:
        if pending.batch is None or not str(pending.batch.url).endswith("/rerank"):
            for name in _OF_RERANK & fields.keys():
                self.complain(name, f"only lines of /v1/rerank use field {name!r}; scores stay in the order of documents")
            return _Reply(num_queries, many)
        if fields.get("documents") is None:
            raise RecordError("missing_field", 'a line of /v1/rerank needs "query" and "documents"', param="documents")
        top_n = fields.get("top_n")
        if top_n is not None and type(top_n) is not int:
            raise wrong_type("top_n", "an integer", top_n)
        if top_n is not None and top_n < 0:
            raise RecordError("invalid_value", "top_n must be at least 0 (0: all)", param="top_n")
        return _Reply(num_queries, many, tuple(second), top_n or None)

    def _prefixes(self, *, asymmetric: bool) -> tuple[str, str]:
        """The prefixes of the texts of each side."""
        given = self.options.query_prefix, self.options.document_prefix
        if self.pairs:
            return given[0] or "", given[1] or ""
        recipe = self.recipe
        names = (next((name for name in side if asymmetric and name in recipe.prompts), None) for side in (_QUERY, _DOCUMENT))
        first, second = (recipe.prefix_of(name, prefix) for name, prefix in zip(names, given, strict=True))
        return first, second

    # --- out

    def to_row(self, pending: PendingTexts, output: Pooled) -> dict[str, Any]:
        reply: _Reply = pending.reply
        scores = self._scores(output, reply.num_queries)
        if not all(np.isfinite(score) for score in scores):
            raise RecordError("non_finite_logits", "the model gave a score that is not a number")
        if pending.batch is not None:
            return openai_batch.body_row(pending.batch, _body(pending.batch, reply, scores, usage_of(output)))
        answer: dict[str, Any] = {"scores": scores} if reply.many else {"score": scores[0]}
        return native_row(pending, {**answer, "usage": usage_of(output)})

    def _scores(self, output: Pooled, num_queries: int) -> list[np.float32]:
        if self.pairs:
            return [value[0] for value in output.values]
        first, second = output.values[:num_queries], output.values[num_queries:]
        return [similarity(self.recipe.similarity, first[i if num_queries > 1 else 0], vector) for i, vector in enumerate(second)]


def _body(line: openai_batch.BatchLine, reply: _Reply, scores: list[np.float32], usage: dict[str, int]) -> dict[str, Any]:
    """The body of an answer to /v1/score or /v1/rerank, as vLLM's servers give it."""
    if reply.documents is None:
        data = [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]
        return {"id": line.id, "object": line.object, "created": 0, "model": line.model, "data": data, "usage": usage}
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[: reply.top_n]
    results = [{"index": i, "document": {"text": reply.documents[i]}, "relevance_score": scores[i]} for i in best]
    return {"id": line.id, "model": line.model, "usage": usage, "results": results}
