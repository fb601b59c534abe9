"""RoBERTa: BERT whose positions begin behind that of the padding token, with a head of its own for classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infer.kernels.ops import Ops

from ..layers.classifier import Classifier
from .bert import bert_config
from .encoder import Encoder


class Model(Encoder):
    def __init__(self, hf: Mapping[str, Any], ops: Ops, *, labels: int = 0) -> None:
        padding = hf.get("pad_token_id")
        config = bert_config(hf, "roberta.", padding_token=1 if padding is None else padding)
        head = Classifier(ops, config.hidden_size, labels, out="classifier.out_proj", dense="classifier.dense") if labels else None
        super().__init__(config, ops, head)
