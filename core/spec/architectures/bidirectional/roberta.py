"""RoBERTa: BERT whose positions begin behind that of the padding token, with a head of its own for classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...encoder import DEFAULTS, VALUES, learned
from ...stack import ClassifierSpec, StackSpec
from .. import Architecture

HEAD = ClassifierSpec(out="classifier.out_proj", dense="classifier.dense")


def stack(hf: Mapping[str, Any]) -> StackSpec:
    padding = hf.get("pad_token_id")
    return learned(hf, "roberta.", padding_token=1 if padding is None else padding, classifier=HEAD)


#: Of CamemBERT and XLM-RoBERTa, which are the same in every layer.
FAMILY = Architecture(stack=stack, defaults=DEFAULTS | {"pad_token_id": 1}, values=VALUES, is_encoder=True)
ARCHITECTURE = replace(FAMILY, defaults={**FAMILY.defaults, "vocab_size": 50265})
