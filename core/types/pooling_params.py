"""Pooling parameters: what is made of a prompt's hidden states. Names and meanings are vLLM's."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

from ..errors import RecordError
from .bounds import Bounds, Checked, bounded

#: Fields that say something -> what is made of the prompt, as `LLM.encode` calls it.
VALID = {
    "embed": ("dimensions", "use_activation"),
    "token_embed": ("dimensions", "use_activation"),
    "classify": ("use_activation",),
    "token_classify": ("use_activation", "step_tag_id", "returned_token_ids"),
}


@dataclass
class PoolingParams(Checked):
    """Raises RecordError (invalid_type, invalid_value) naming the field.

    vLLM's former `normalize` is `use_activation`.
    """

    additional_data: Any = None
    """The only field in older versions of vLLM: whatever a model's own pooler wants."""
    dimensions: int | None = bounded(Bounds("int", 1, none=True), default=None)
    """Length of the embedding, where the model was made for several."""
    use_activation: bool | None = None
    """Normalize embeddings, or apply the activation of a classifier; None is the model's own way."""
    step_tag_id: int | None = bounded(Bounds("int", 0, none=True), default=None)
    """Reward models: the token whose positions are scored."""
    returned_token_ids: list[int] | None = None
    """Reward models: the tokens whose scores are returned."""

    def __post_init__(self) -> None:
        self.check_fields()
        if not isinstance(self.use_activation, (bool, type(None))):
            raise RecordError("invalid_type", "use_activation must be true or false", param="use_activation")
        ids = self.returned_token_ids
        if ids is not None and not (isinstance(ids, list) and all(type(token) is int and token >= 0 for token in ids)):
            raise RecordError("invalid_type", "returned_token_ids must be a list of token ids", param="returned_token_ids")

    def clone(self) -> PoolingParams:
        """A copy, deep as vLLM's, checked again. Raises RecordError."""
        made = deepcopy(self)
        made.__post_init__()
        return made

    def check(self, kind: str) -> None:
        """Raises RecordError (unsupported) for a field that is set and says nothing to what is made of the prompt.

        Args:
            kind: "embed", "classify", "token_embed" or "token_classify".
        """
        valid = VALID[kind]
        for one in fields(self):
            if one.name not in valid and getattr(self, one.name) is not None:
                raise RecordError("unsupported", f"{kind} takes {' and '.join(valid)}; {one.name} must be left out", param=one.name)
