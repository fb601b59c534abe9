"""Which layers a stage has, and which ranks it has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infer.core.errors import ConfigError
from infer.core.parallel.stages import Place, Stage, check_stages, cuts_of, layers_of
from infer.core.spec.model_spec import ModelSpec
from infer.core.spec.read import read_spec

SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 257}


def spec_of(model_type: str = "llama", layers: int = 6, **more: object) -> ModelSpec:
    return read_spec({"model_type": model_type, "num_hidden_layers": layers, "max_position_embeddings": 256, **SIZES, **more})


def lengths(count: int, sizes: list[int], head: int = 0) -> list[int]:
    stack = spec_of(layers=len(sizes)).stack
    assert stack is not None
    spans = [layers_of(Stage(number, count), stack, sizes, head) for number in range(count)]
    assert [layer for span in spans for layer in span] == [*range(len(sizes))]
    return [len(span) for span in spans]


def test_the_largest_stage_is_as_small_as_can_be() -> None:
    assert lengths(3, [1] * 6) == [2, 2, 2]
    assert lengths(2, [9, 1, 1, 1, 1, 5]) == [1, 5]
    assert lengths(6, [3, 1, 1, 1, 1, 3]) == [1] * 6
    assert lengths(2, [2] * 6, head=8) == [4, 2], "the head counts half"
    assert lengths(2, [2] * 3, head=1000) == [2, 1], "but a stage has a layer"


def test_readers_stay_with_what_they_read() -> None:
    stack = spec_of().stack
    assert stack is not None
    assert cuts_of(stack) == [1, 2, 3, 4, 5]
    reader = stack.layers[4]
    assert reader.attention is not None
    layers = (*stack.layers[:4], replace(reader, attention=replace(reader.attention, reads=2)), stack.layers[5])
    assert cuts_of(replace(stack, layers=layers)) == [1, 2, 5]


def test_places_are_counted_from_the_end() -> None:
    places = [Place.of(rank, 2, 3) for rank in range(6)]
    assert [(place.stage.number, place.rank) for place in places] == [(2, 0), (2, 1), (1, 0), (1, 1), (0, 0), (0, 1)]
    assert places[0].stage.is_last
    assert places[4].stage.is_first
    assert not places[2].stage.is_first
    assert not places[2].stage.is_last


def test_more_stages_than_can_be_is_a_usage_error() -> None:
    check_stages(spec_of(), 6, ours=True)
    with pytest.raises(ConfigError, match="pipeline_parallel_size=7: the model has 6 layers; lower it to 6"):
        check_stages(spec_of(), 7, ours=True)
    with pytest.raises(ConfigError, match="run through transformers' code"):
        check_stages(spec_of(), 2, ours=False)
    check_stages(spec_of(), 1, ours=False)
