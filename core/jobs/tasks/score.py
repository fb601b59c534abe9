"""`infer score`: two texts in, how well they go together out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import ConfigError, RecordError
from ...pooling.images import GivenImage
from ...pooling.recipe import Recipe
from ...pooling.similarity import similarity
from ...types.pooling_request import Pooled
from ..jsonl import wrong_type
from . import openai_batch
from .completion import MEDIA_FIELDS
from .fields import flag
from .pending import PendingTexts
from .pooling import PoolingOptions, PoolingTask, usage_of
from .rows import native_row

if TYPE_CHECKING:
    from ...text.tokenizer import Tokenizer

#: What sentence-transformers calls the prompt of what is looked for, and those of where it is looked for, in this order.
_QUERY, _DOCUMENT = ("query",), ("document", "passage", "corpus")
#: Fields of both sides, and whether they are a question and what may answer it. The third and the fourth are vLLM's.
_SIDES = {("query", "documents"): True, ("text_1", "text_2"): False, ("queries", "documents"): True, ("data_1", "data_2"): False}
#: Beside them, of a model that reads images.
_WITH_IMAGES = {("image", "documents"): True, ("query", "images"): True, ("image", "text"): False, ("image", "text_2"): False}
_OF_RERANK = frozenset({"top_n", "return_documents"})
#: Fields of Cohere's and Jina's rerank API that ask for what is not done.
_REFUSED = ("rank_fields", "max_chunks_per_doc", "max_tokens_per_doc")


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
        ranked: it asked for the documents in the order of their scores.
        documents: their texts, to quote beside the scores.
        top_n: most results of such an answer.
        images: of a model that reads images, which of the first side and of the second are some.
        activate: probabilities were asked for, or scores; None: what the model gives.
    """

    num_queries: int
    many: bool
    ranked: bool = False
    documents: tuple[Any, ...] | None = None
    top_n: int | None = None
    images: tuple[tuple[bool, ...], tuple[bool, ...]] | None = None
    activate: bool | None = None


class ScoreTask(PoolingTask):
    """`query` with `documents`, or `text_1` with `text_2` (or vLLM's `queries` with `documents`, `data_1` with `data_2`).

    With `top_n` or `return_documents`, and in lines of /v1/rerank, the documents of a query come best first.

    A classifier of one label reads each pair at once (a cross-encoder). Any other model embeds each text by itself, and the score
    is the similarity of its recipe; the prompts it has for queries and documents are then put before them.

    Raises ConfigError for a classifier with several labels.
    """

    command = "score"
    columns: tuple[str, ...] = tuple(dict.fromkeys(name for names in _SIDES for name in names))
    known_fields = PoolingTask.known_fields | _OF_RERANK
    parameters = PoolingTask.parameters | _OF_RERANK
    guessable_fields = PoolingTask.guessable_fields | _OF_RERANK
    owners: ClassVar[Mapping[str, str]] = {**PoolingTask.owners, "text": "embed"}
    options: ScoreOptions

    def __init__(self, options: ScoreOptions, tokenizer: Tokenizer | None, recipe: Recipe, *, max_model_len: int) -> None:
        self._all_sides = {**_SIDES, **(_WITH_IMAGES if options.images is not None else {})}
        self.columns = tuple(dict.fromkeys(name for names in self._all_sides for name in names))
        super().__init__(options, tokenizer, recipe, max_model_len=max_model_len)
        self.pairs = recipe.kind == "classify"
        if self.pairs and recipe.size != 1:
            labels = ", ".join(recipe.labels[:5])
            raise ConfigError(
                f"infer score needs a model that gives one score; this one has {recipe.size} labels ({labels}): use infer classify"
            )

    # --- in

    def missing(self, fields: Mapping[str, Any]) -> str:
        return 'no "query" with "documents" and no "text_1" with "text_2"'

    def read(self, pending: PendingTexts, fields: Mapping[str, Any]) -> None:
        pending.params = self.params_of(fields)
        pending.kind = self.recipe.text_kind
        asymmetric, first, second, many = self._sides(fields)
        if len(first) > 1 and len(first) != len(second):
            left, right = next(sides for sides in self._all_sides if all(fields.get(name) is not None for name in sides))
            message = f"{left} has {len(first)} texts and {right} {len(second)}: give one text, or as many"
            raise RecordError("invalid_value", message, param=right)
        pending.reply = self._reply(pending, fields, len(first), second, many)
        if self.recipe.contrast is not None:
            self._contrast(pending, first, second)
        prefixes = self._prefixes(asymmetric=asymmetric)
        if self.pairs:
            encoder = self.encoder_for(fields, "")
            queries = first if len(first) > 1 else first * len(second)
            pending.prompt = [(encoder, (prefixes[0] + a, prefixes[1] + b)) for a, b in zip(queries, second, strict=True)]
        else:
            encoders = (self.encoder_for(fields, prefix, side) for prefix, side in zip(prefixes, self._late_sides(), strict=True))
            sides = zip((first, second), encoders, strict=True)
            pending.prompt = [self.read_by(encoder, text) for texts, encoder in sides for text in texts]

    def _sides(self, fields: Mapping[str, Any]) -> tuple[bool, list[Any], list[Any], bool]:
        """(True if the sides are query and documents, the texts or images of both, True if scores are a list)."""
        names = {name for name in self.columns if fields.get(name) is not None}
        if len(names) == 1:
            (name,) = names
            other = next(one for sides in self._all_sides if name in sides for one in sides if one != name)
            raise RecordError("missing_field", f"{name} needs {other} beside it", param=other)
        sides = next((sides for sides in self._all_sides if names == set(sides)), None)
        if sides is None:
            last = next(name for name in reversed(self.columns) if name in names)
            raise RecordError("invalid_value", "give query and documents, or text_1 and text_2", param=last)
        if sides[0] in ("query", "image") and sides[1] in ("documents", "images") and not isinstance(fields[sides[1]], list):
            raise wrong_type(sides[1], "a list of strings", fields[sides[1]])
        many = sides[0] == "query" or any(isinstance(fields[name], list) for name in sides)
        left, right = (self._side(fields, name) for name in sides)
        if sides[0] in ("query", "image") and len(left) != 1:
            raise RecordError("invalid_value", f"{sides[0]} is one, not {len(left)}", param=sides[0])
        return self._all_sides[sides], left, right, many

    def _side(self, fields: Mapping[str, Any], name: str) -> list[Any]:
        """The texts or images of a field; an object with a `text`, as rerank APIs have it, is that text."""
        value = fields[name]
        if isinstance(value, list) and not value:
            raise RecordError("invalid_value", f"{name} is an empty list: there is nothing to score", param=name)
        if name in MEDIA_FIELDS:
            return self.images(fields, name)
        if not isinstance(value, list) or name == "query":
            return [self.item(value, name, fields) if self.options.images is not None else self.text(value, name)]
        return [self.item(one, f"{name}[{i}]", fields) for i, one in enumerate(value)]

    def _contrast(self, pending: PendingTexts, first: list[Any], second: list[Any]) -> None:
        """Notes which texts are images, and whether scores are to be probabilities: `use_activation` says nothing of vectors here."""
        assert pending.params is not None
        activate = pending.params.use_activation
        images = tuple(tuple(isinstance(one, GivenImage) for one in side) for side in (first, second))
        pending.params = replace(pending.params, use_activation=None)
        pending.reply = replace(pending.reply, images=(images[0], images[1]), activate=activate)

    def _reply(self, pending: PendingTexts, fields: Mapping[str, Any], num_queries: int, second: list[Any], many: bool) -> _Reply:
        reranks = pending.batch is not None and str(pending.batch.url).endswith("/rerank")
        if reranks and (fields.get("query") is None or fields.get("documents") is None):
            raise RecordError("missing_field", 'a line of /v1/rerank needs "query" and "documents"', param="documents")
        if reranks:
            for name in _REFUSED:
                if fields.get(name) is not None:
                    hint = "; truncate_prompt_tokens cuts texts" if name == "max_tokens_per_doc" else ""
                    raise RecordError("unsupported", f"{name} is not supported{hint}", param=name)
        asked = [name for name in sorted(_OF_RERANK) if fields.get(name) is not None]
        ranks = any(fields.get(name) is not None for name in ("query", "image") if name in self.columns)
        if not reranks and (pending.batch is not None or not ranks or not asked):
            for name in asked:
                self.complain(name, f"field {name!r} has no effect: only documents of a query (in Batch form: of /v1/rerank) are ranked")
            return _Reply(num_queries, many)
        top_n = fields.get("top_n")
        if top_n is not None and type(top_n) is not int:
            raise wrong_type("top_n", "an integer", top_n)
        if top_n is not None and top_n < 0:
            raise RecordError("invalid_value", "top_n must be at least 0 (0: all)", param="top_n")
        quotes = flag(fields, "return_documents", reranks)
        second = [one.part.source if isinstance(one, GivenImage) else one for one in second]
        return _Reply(num_queries, many, ranked=True, documents=tuple(second) if quotes else None, top_n=top_n or None)

    def _prefixes(self, *, asymmetric: bool) -> tuple[str, str]:
        """The prefixes of the texts of each side."""
        given = self.options.query_prefix, self.options.document_prefix
        if self.pairs:
            return given[0] or "", given[1] or ""
        recipe = self.recipe
        names = (next((name for name in side if asymmetric and name in recipe.prompts), None) for side in (_QUERY, _DOCUMENT))
        first, second = (recipe.prefix_of(name, prefix) for name, prefix in zip(names, given, strict=True))
        return first, second

    def _late_sides(self) -> tuple[str, str]:
        """What the two sides are to late interaction."""
        return ("query", "document") if self.recipe.late is not None else ("", "")

    # --- out

    def to_row(self, pending: PendingTexts, output: Pooled) -> dict[str, Any]:
        reply: _Reply = pending.reply
        scores = self._scores(output, reply)
        if not all(np.isfinite(score) for score in scores):
            raise RecordError("non_finite_logits", "the model gave a score that is not a number")
        if pending.batch is not None:
            return openai_batch.body_row(pending.batch, _body(pending.batch, reply, scores, usage_of(output)))
        answer: dict[str, Any] = {"scores": scores} if reply.many else {"score": scores[0]}
        if reply.ranked:
            answer = {"results": _ranked(reply, scores)}
        return native_row(pending, {**answer, "usage": usage_of(output)})

    def _scores(self, output: Pooled, reply: _Reply) -> list[np.float32]:
        if self.pairs:
            return [value[0] for value in output.values]
        count = reply.num_queries
        second = output.values[count:]
        first = [output.values[i if count > 1 else 0] for i in range(len(second))]
        made = [similarity(self.recipe.similarity, a, b) for a, b in zip(first, second, strict=True)]
        if reply.images is None or self.recipe.contrast is None:
            return made
        left, right = reply.images
        pairs = [i for i, image in enumerate(right) if left[i if count > 1 else 0] != image]  # of an image and a text
        activate = self.recipe.contrast.activation == "sigmoid" if reply.activate is None else reply.activate
        sets = [[i] for i in pairs] if count > 1 else [pairs]  # what a softmax is over
        for one in sets if pairs else []:
            found = self.recipe.contrast.scores([first[i] for i in one], [second[i] for i in one], activate=activate)
            for i, score in zip(one, found, strict=True):
                made[i] = score
        return made


def _body(line: openai_batch.BatchLine, reply: _Reply, scores: list[np.float32], usage: dict[str, int]) -> dict[str, Any]:
    """The body of an answer to /v1/score or /v1/rerank, as vLLM's servers give it."""
    if not reply.ranked:
        data = [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]
        return {"id": line.id, "object": line.object, "created": 0, "model": line.model, "data": data, "usage": usage}
    return {"id": line.id, "model": line.model, "usage": usage, "results": _ranked(reply, scores)}


def _ranked(reply: _Reply, scores: list[np.float32]) -> list[dict[str, Any]]:
    """The best documents, those of the same score as they came."""
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[: reply.top_n]
    quoted = {} if reply.documents is None else {i: {"document": {"text": reply.documents[i]}} for i in best}
    return [{"index": i, **quoted.get(i, {}), "relevance_score": scores[i]} for i in best]
