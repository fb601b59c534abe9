"""Batches on their way through stages are nearly equal, so that stages hardly wait for each other."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.engine.lanes.pipeline import Pipeline

from .stage_clock import timed


@pytest.mark.parametrize(("num_stages", "bubbles"), [(2, 0.15), (3, 0.2)])
def test_stages_hardly_wait(num_stages: int, bubbles: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each batch takes as many prompts as it can they do."""
    made = Pipeline.__init__

    def uneven(pipeline: Pipeline, *args: Any) -> None:
        made(pipeline, *args)
        pipeline._shares.batches = 0

    even = timed(num_stages, 100, least=16, max_num_seqs=32)
    monkeypatch.setattr(Pipeline, "__init__", uneven)
    other = timed(num_stages, 100, least=16, max_num_seqs=32)
    assert even.bubbles < bubbles < other.bubbles
    assert even.time < other.time
