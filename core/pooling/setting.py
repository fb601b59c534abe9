"""Pooling setting: all that is asked of a text, decided.

Texts of one setting go through the model and its head together. No torch.
"""

from __future__ import annotations

from typing import NamedTuple

from ..types.adapters import AdapterKey
from ..types.pooling_request import PoolingRequest
from .recipe import Recipe


class Setting(NamedTuple):
    """A request's `kind` and parameters over the recipe's own."""

    kind: str
    """One of KINDS."""
    size: int
    """Length of a vector."""
    activate: bool
    """True if vectors are normalized, or scores go through the classifier's activation."""
    step_tag_id: int | None = None
    """Of tokens' scores: of those with this id alone; None: of all."""
    columns: tuple[int, ...] = ()
    """Places of the scores that are wanted, among all; empty: all are."""
    adapter: AdapterKey | None = None
    """The LoRA adapter that reads the text."""
    unseen: bool = False
    """It ends with tokens that the others do not see."""
    image: bool = False
    """It is no text but an image."""

    @classmethod
    def of(cls, request: PoolingRequest, recipe: Recipe) -> Setting:
        params = request.params
        if request.kind == "classify":
            return cls(request.kind, recipe.size, params.use_activation is not False)
        if request.kind == "token_classify":
            columns = tuple(recipe.token_ids.index(token) for token in params.returned_token_ids or ())
            step_tag = recipe.step_tag_id if params.step_tag_id is None else params.step_tag_id
            return cls(request.kind, recipe.size, params.use_activation is not False, step_tag, columns)
        activate = recipe.normalize if params.use_activation is None else params.use_activation
        return cls(request.kind, params.dimensions or recipe.output_size, activate)
