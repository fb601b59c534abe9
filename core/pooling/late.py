"""Late interaction: queries and documents as ColBERT reads them, a vector a token (arXiv 2004.12832, 2112.01488). No torch.

    query       [CLS] [Q] words ... [SEP] [MASK] [MASK] ...    filled up to `query_length`: each [MASK] has a vector too
    document    [CLS] [D] words ... [SEP]                      tokens of the skip list have none

The score of a query and a document is the sum, over the query's vectors, of the greatest product with a vector of the document.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, ModelError, RecordError
from ..spec.hf_values import COUNT, FLAG, NULL, TEXT, check_file, is_text
from ..spec.model_spec import ModelSpec
from ..types.pooling_request import TextIds
from ..weights.source import ModelSource

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer

#: The file of Stanford's code beside config.json.
METADATA_FILE = "artifact.metadata"
#: Classes of such models, as Stanford's code and vLLM call them.
CLASSES = ("HF_ColBERT", "ColBERTModel", "ColBERTModernBertModel", "ColBERTJinaRobertaModel", "ColBERTLfm2Model")
SIDES = ("query", "document")
#: Tokens that stand for a side where no file names any: those of Stanford's code, and of PyLate.
_STANFORD, _PYLATE = ("[unused0]", "[unused1]"), ("[Q] ", "[D] ")
_QUERY_LENGTH, _DOCUMENT_LENGTH = 32, 180
_METADATA_KINDS = {
    **dict.fromkeys(("query_token_id", "doc_token_id"), TEXT | NULL),
    **dict.fromkeys(("query_maxlen", "doc_maxlen", "dim"), COUNT | NULL),
    **dict.fromkeys(("mask_punctuation", "attend_to_mask_tokens"), FLAG | NULL),
}
_PYLATE_KINDS = {
    **dict.fromkeys(("query_prefix", "document_prefix"), TEXT | NULL),
    **dict.fromkeys(("query_length", "document_length"), COUNT | NULL),
    **dict.fromkeys(("do_query_expansion", "attend_to_expansion_tokens"), FLAG | NULL),
}


@dataclass(frozen=True, slots=True)
class LateInteraction:
    """The way from texts to tokens. The ids are known once there is a tokenizer.

    Args:
        markers: of a query and of a document; "" is none.
        query_length, document_length: tokens, special ones and marker included; queries are filled up to theirs if it `expands`.
        attends: tokens that a query is filled up with are seen by the others.
        skipped: words whose tokens have no vectors in documents.
    """

    markers: tuple[str, str]
    query_length: int
    document_length: int
    expands: bool = True
    attends: bool = False
    skipped: tuple[str, ...] = ()
    marker_ids: tuple[int | None, int | None] = (None, None)
    mask_id: int | None = None
    skipped_ids: tuple[int, ...] = ()

    def known_to(self, tokenizer: Tokenizer, name: str) -> LateInteraction:
        """With the ids of a tokenizer. Raises ModelError for markers that are no tokens of it."""
        ids = tuple(tokenizer.id_of(marker) if marker else None for marker in self.markers)
        for marker, token in zip(self.markers, ids, strict=True):
            if marker and token is None:
                raise ModelError(f"model {name!r}: its marker {marker!r} is not a token of its tokenizer; fetch the model again")
        special = tokenizer.special_tokens
        known = (tokenizer.id_of(special.get(f"{kind}_token")) for kind in ("mask", "eos", "pad"))
        mask = next((token for token in known if token is not None), None)
        if self.expands and mask is None:
            raise ModelError(f"model {name!r}: its tokenizer has no [MASK], which queries are filled up with (do_query_expansion)")
        unknown = tokenizer.id_of(special.get("unk_token"))
        skipped = sorted({token for word in self.skipped if (token := tokenizer.id_of(word)) not in (None, unknown)})
        return replace(self, marker_ids=(ids[0], ids[1]), mask_id=mask, skipped_ids=tuple(skipped))

    def room(self, side: str, most: int) -> int:
        """Tokens that a text of a side may have before its marker is put in, where `most` is the longest text."""
        return max(self._length(side, most) - (self.marker_ids[SIDES.index(side)] is not None), 1)

    def dressed(self, text: TextIds, side: str, most: int) -> TextIds:
        """A text of one side with what goes around it. Raises RecordError (prompt_too_long) for a query that is longer than queries are."""
        marker, length = self.marker_ids[SIDES.index(side)], self._length(side, most)
        ids = text.ids if marker is None else (*text.ids[:1], marker, *text.ids[1:])
        types = text.types if marker is None or not text.types else (*text.types[:1], 0, *text.types[1:])
        if side == "document":
            skipped = frozenset(self.skipped_ids)
            skips = tuple(i for i, token in enumerate(ids) if token in skipped)
            return replace(text, ids=ids, types=types, silent=skips if len(skips) < len(ids) else ())
        if len(ids) > length:
            message = f"the query has {len(ids)} tokens, and this model's have {length}; --truncate right cuts queries off"
            raise RecordError("prompt_too_long", message, param="input")
        missing = length - len(ids) if self.expands else 0
        assert self.mask_id is not None or not missing, "it is looked for where it is needed"
        filled = (*ids, *([self.mask_id or 0] * missing))
        return replace(text, ids=filled, types=(*types, *([0] * missing)) if types else (), unseen=0 if self.attends else missing)

    def _length(self, side: str, most: int) -> int:
        return min(self.query_length, most) if side == "query" else most


def is_late(spec: ModelSpec, listed: Sequence[Mapping[str, Any]] | None) -> bool:
    """True for a model of this kind, as its class or its modules tell."""
    made = any(str(module.get("type", "")).startswith("pylate.") for module in listed or ())
    return made or (bool(spec.architectures) and spec.architectures[0] in CLASSES)


def read_late(source: ModelSource, spec: ModelSpec, prompts_file: str) -> LateInteraction:
    """What the model's files say: PyLate's keys in `prompts_file`, or else Stanford's `artifact.metadata`. Raises ModelError."""
    found, path = source.read_json(prompts_file) or {}, source.path / prompts_file
    check_file(found, _PYLATE_KINDS, path)
    old = source.read_json(METADATA_FILE)
    check_file(old or {}, _METADATA_KINDS, source.path / METADATA_FILE)
    stanford = old or {}
    of_stanford = old is not None or "query_prefix" not in found
    markers = [
        next((one for one in (found.get(key), stanford.get(name)) if one is not None), default)
        for key, name, default in zip(
            ("query_prefix", "document_prefix"), ("query_token_id", "doc_token_id"), _STANFORD if of_stanford else _PYLATE, strict=True
        )
    ]
    skipped = found.get("skiplist_words")
    if skipped is None:
        skipped = list(string.punctuation) if stanford.get("mask_punctuation") is not False else []
    if not isinstance(skipped, list) or not all(is_text(word) for word in skipped):
        raise ModelError(f"{path}: skiplist_words is not a list of words")
    expands = found.get("do_query_expansion") is not False
    attends = found.get("attend_to_expansion_tokens", stanford.get("attend_to_mask_tokens")) is True
    if expands and not attends and (not spec.is_encoder or spec.stack is None or spec.stack.relative is not None):
        raise ModelError(
            f"model {source.name!r}: queries are filled up with tokens that the others do not see, which is not supported with the layers "
            f"of {spec.model_type}; supported where do_query_expansion is false or attend_to_expansion_tokens true"
        )
    return LateInteraction(
        markers=(markers[0], markers[1]),
        query_length=found.get("query_length") or stanford.get("query_maxlen") or _QUERY_LENGTH,
        document_length=found.get("document_length") or stanford.get("doc_maxlen") or _DOCUMENT_LENGTH,
        expands=expands,
        attends=attends,
        skipped=tuple(skipped),
    )


def projection_size(source: ModelSource) -> int:
    """Features of the vectors of a model whose projection lies among its own tensors ("linear.weight"). Raises ModelError."""
    if source.has_weights:
        info = source.stored.tensors().get("linear.weight")
        if info is None or len(info.shape) != 2:
            raise ModelError(f"model {source.name!r} has no linear.weight of two dimensions, the projection of its vectors; fetch it again")
        return info.shape[0]
    return int((source.read_json(METADATA_FILE) or {}).get("dim") or 128)


def need_tokenizer(tokenizer: Tokenizer | None) -> Tokenizer:
    """Raises ConfigError where there is none."""
    if tokenizer is None:
        raise ConfigError("a model of late interaction puts markers into texts, which skip_tokenizer_init leaves without ids; leave it out")
    return tokenizer
