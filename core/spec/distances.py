"""What an encoder's attention knows of distances between tokens. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DistanceSpec:
    """A learned number for each head and distance, added to scores. Half the buckets are of keys before the query; of each half the
    first half hold one distance each, the others grow up to `max_distance` (T5's, arXiv 1910.10683)."""

    buckets: int
    max_distance: int
    causal: bool = False
    """All buckets are of the query itself and of keys before it, for there are no others."""
    per_layer: bool = False
    """Each layer has numbers of its own; `Names.relative` then has a place for the layer's."""


@dataclass(frozen=True, kw_only=True)
class DisentangledSpec:
    """DeBERTa's attention (arXiv 2006.03654): distances have queries and keys as tokens do, and each kind looks at the other.

    Up to `buckets` / 2 a distance is a bucket, and beyond they grow up to `max_distance`; 0: all up to it are.
    """

    buckets: int
    max_distance: int
    by_query: bool
    """A token's query looks at a key's distance ("c2p")."""
    by_key: bool
    """The distance looks at a token's key ("p2c")."""

    @property
    def span(self) -> int:
        """Rows of the table on either side of distance 0."""
        return self.buckets or self.max_distance
