"""Limits of pooling requests: checked when one is added, and by `infer check` without an engine.

No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RecordError
from ..types.pooling_request import KINDS, PoolingRequest, TextIds
from .recipe import Recipe

#: What a model whose head is for the one cannot do of the other, and the command that can.
_OTHER = {
    "embed": "this model's head gives the scores of a classifier, no embeddings; see infer classify and infer score",
    "classify": "this model gives embeddings; it has no classifier whose scores could be asked for",
}
#: The same of classifiers.
_TOKENS = "this model labels the tokens of a text and not the text; see pooling_task token_classify of LLM.encode"
_VECTORS = "this model makes a vector of each token of a text and none of the whole; see pooling_task token_embed of LLM.encode"
_TEXTS = "this model's classifier gives the scores of a whole text, not of its tokens"


@dataclass(frozen=True, slots=True)
class PoolingLimits:
    """
    Args:
        vocab_size: token ids are below it.
        max_model_len: most tokens of a text, special ones included.
    """

    vocab_size: int
    max_model_len: int
    recipe: Recipe

    def check(self, request: PoolingRequest) -> None:
        """Raises RecordError (unsupported, invalid_value, prompt_too_long) for a request that can never be answered."""
        assert request.kind in KINDS, request.kind
        head = "classify" if request.kind.endswith("classify") else "embed"
        if head != self.recipe.kind:
            raise RecordError("unsupported", _OTHER[head])
        if head == "classify" and self.recipe.per_token != (request.kind == "token_classify"):
            raise RecordError("unsupported", _TOKENS if self.recipe.per_token else _TEXTS)
        if request.kind == "embed" and self.recipe.per_token:
            raise RecordError("unsupported", _VECTORS)
        self._check_params(request)
        if not request.texts:
            raise RecordError("invalid_value", "there is no text", param="input")
        for place, text in enumerate(request.texts):
            if problem := self._problem(text):
                code, message = problem
                which = f"text {place + 1} of {len(request.texts)}" if len(request.texts) > 1 else "the text"
                raise RecordError(code, f"{which} {message}", param="input")

    def _problem(self, text: TextIds) -> tuple[str, str] | None:
        """Code and message of what is wrong with a text."""
        ids = text.ids
        if text.image is not None:
            return None
        if not ids:
            return "invalid_value", "is empty"
        if len(ids) > self.max_model_len:
            most = f"more than max_model_len {self.max_model_len}"
            return "prompt_too_long", f"has {len(ids)} tokens, {most}: split it, or have it cut with --truncate left or right"
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            worst = next(t for t in ids if not 0 <= t < self.vocab_size)
            return "invalid_value", f"has token id {worst}, which is not in the vocabulary of {self.vocab_size}"
        return None

    def _check_params(self, request: PoolingRequest) -> None:
        params, recipe = request.params, self.recipe
        for name in ("step_tag_id", "returned_token_ids"):
            if getattr(params, name) is not None and request.kind != "token_classify":
                raise RecordError("unsupported", f"{name} is for models that score tokens, such as reward models", param=name)
        if wrong := [token for token in params.returned_token_ids or () if token not in recipe.token_ids]:
            known = ", ".join(map(str, recipe.token_ids)) or "none: this model's classifier has labels of its own"
            message = f"returned_token_ids has {wrong[0]}, which is not among the tokens that are scored here ({known})"
            raise RecordError("invalid_value", message, param="returned_token_ids")
        asked = params.dimensions
        if asked is None or (asked == recipe.size and not request.kind.endswith("classify")):
            return
        if why := recipe.wrong_dimensions(asked):
            raise RecordError("invalid_value", f"dimensions {asked}: {why}", param="dimensions")
