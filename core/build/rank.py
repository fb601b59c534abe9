"""A rank other than 0: it loads its part of the model, then every batch that rank 0 sends. See sharded.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..adapters.weights import NUM_ADAPTER_ARRAYS, AdapterWeights
from ..engine.batch import Batch
from ..parallel.wire import Wire, unpack_arrays
from ..sampling.transfers import on
from ..settings.config import EngineConfig
from .files import find_model
from .generating import Room, device_of, load
from .meeting import meet


def serve(wire: Wire, payload: Mapping[str, Any]) -> None:
    """Ends with Closed, when rank 0 wants no more; raises InferError where this rank fails by itself."""
    config = EngineConfig(**{**payload["config"], "notes": tuple(payload["config"]["notes"])})
    device = device_of(config, payload["rank"])
    with on(device):
        _serve(wire, payload, config, device)


def _serve(wire: Wire, payload: Mapping[str, Any], config: EngineConfig, device: torch.device) -> None:
    wire.send_json("started")
    wire.receive_json()  # the others have too: none waits for another's start when they meet
    met = meet(config, payload["rank"], payload["folder"], payload["shared"], lambda: "")  # rank 0 sees who is gone, and ends this one
    met.greet(device)
    loaded = load(config, find_model(config), met)
    wire.send_json([*loaded.room])
    runner = loaded.runner(config, Room(*wire.receive_json()))
    wire.send_json("ready")
    num_drawn = 0  # by rank 0 in the step before
    while True:
        arrays = unpack_arrays(wire.receive())
        if len(arrays) == NUM_ADAPTER_ARRAYS:
            runner.load_adapter(*AdapterWeights.from_arrays(arrays))
            continue
        batch = Batch.from_arrays(arrays)
        if batch.asks_back:
            runner.drawn = met.group.broadcast(torch.empty(num_drawn, dtype=torch.int64, device=device))
        num_drawn = batch.num_logits
        runner.run(batch, _drop if batch.num_prompt_logits else None)


def _drop(first: int, logits: Tensor) -> None:
    """Rank 0 alone looks at logits; this one only has to take part in making them."""
