"""ELECTRA: BERT with a smaller embedding that is projected, and a head of its own for classes (arXiv 2003.10555)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...encoder import DEFAULTS, NAMES, VALUES, learned
from ...hf_values import COUNT
from ...stack import ClassifierSpec, StackSpec
from .. import Architecture

HEAD = ClassifierSpec(out="classifier.out_proj", dense="classifier.dense", activation="gelu")
SIZES = {"embedding_size": 128, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    projected = hf["embedding_size"] if hf["embedding_size"] != hf["hidden_size"] else None
    names = replace(NAMES, embedding_projection="embeddings_project")
    return learned(hf, "electra.", names=names, embedding_size=projected, classifier=HEAD)


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS | SIZES, values=VALUES | {"embedding_size": COUNT}, is_encoder=True)
