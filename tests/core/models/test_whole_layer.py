"""Layers in one call give the bits of the operations that they are made of; those that are made of more go on one after the other."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from infer.core.bench.timing import TimedOps
from infer.core.models.decoder import Decoder
from infer.kernels import usable

from .test_architectures import our_model, prompts_of, reference_model, run

pytestmark = pytest.mark.skipif("cpu" not in usable("cpu"), reason="no kernels of our own")

#: Biases and one head of keys; a window; norms of heads; no rotation; norms of what is added, a soft cap, weights with offsets.
WHOLE = [
    ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "head_dim": 20}),
    ("mistral", {"sliding_window": 24}),
    ("qwen3", {"head_dim": 24}),
    ("gpt2", {}),
    ("gemma2", {"head_dim": 16}),
]


def whole(model: Decoder) -> list[bool]:
    return [layer._whole is not None for layer in model.layers]


def one_by_one(model: Decoder) -> None:
    for layer in model.layers:
        layer._whole = None


@pytest.mark.parametrize(("kind", "changes"), WHOLE, ids=[kind for kind, _ in WHOLE])
def test_bits_are_the_same_in_one_call(kind: str, changes: dict[str, Any]) -> None:
    have_one_result(our_model(reference_model(kind, changes), "cpu"))


@pytest.mark.parametrize(
    ("kind", "changes", "names"),
    [
        ("llama", {}, ""),
        ("llama", WHOLE[0][1], "q_proj|gate_proj|down_proj"),
        ("llama", {}, "o_proj|down_proj"),
        ("llama", {}, "o_proj|gate_proj"),
        ("gpt2", {}, "c_"),
        ("gemma2", {"head_dim": 16}, "proj"),
    ],
)
def test_so_they_are_of_quantized_rows(kind: str, changes: dict[str, Any], names: str) -> None:
    """All layers in int8, without biases that factors of rows would be multiplied in for; some with them; either side of the gate."""
    have_one_result(our_model(reference_model(kind, changes), "cpu", int8=lambda name: re.search(names, name) is not None))


def test_so_they_are_of_quantized_rows_in_bfloat16() -> None:
    """What is quantized behind a gate takes more room then than rows of the model's dtype."""
    have_one_result(our_model(reference_model("llama", {}), "cpu", int8=True, dtype=torch.bfloat16), torch.bfloat16)


def have_one_result(model: Decoder, dtype: torch.dtype = torch.float32) -> None:
    """Layers give the same bits in one call and part by part."""
    prompts, ways = prompts_of(70, 1, 33), [{"chunk": 23}, {"chunk": 23, "wanted": 1}, {"chunk": 40, "wanted": 5}]
    ways = [{**way, "dtype": dtype} for way in ways]
    with torch.inference_mode():
        together = [run(model, prompts, **way) for way in ways]
        assert all(whole(model))
        one_by_one(model)
        for way, expected in zip(ways, together, strict=True):
            assert all(map(torch.equal, run(model, prompts, **way), expected))


def test_a_row_is_wanted_more_often_than_there_are_rows() -> None:
    model = our_model(reference_model("llama", {}), "cpu")
    forward = model.forward

    def many_times(*args: Any) -> torch.Tensor:
        *before, rows, pools = args
        hidden = forward(*before, rows.repeat(300), pools).view(300, len(rows), model.hidden_size)
        assert torch.equal(hidden, hidden[:1].expand_as(hidden))
        return hidden[0]

    with torch.inference_mode():
        once = run(model, prompts_of(7), chunk=3, wanted=1)
        model.forward = many_times
        assert all(map(torch.equal, run(model, prompts_of(7), chunk=3, wanted=1), once))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("mixtral", {"num_local_experts": 4}), ("olmo2", {}), ("gptj", {"rotary_dim": 4})],
    ids=["experts", "norms of sums", "parallel"],
)
def test_other_layers_go_on_part_by_part(kind: str, changes: dict[str, Any]) -> None:
    model = our_model(reference_model(kind, changes), "cpu")
    with torch.inference_mode():
        run(model, prompts_of(5), chunk=5)
    assert not any(whole(model))


def test_so_do_all_where_weights_come_and_go() -> None:
    model = our_model(reference_model("llama", {}), "cpu")
    model.visit = lambda layers: iter([*layers])
    with torch.inference_mode():
        run(model, prompts_of(5), chunk=5)
    assert not any(whole(model))


@pytest.mark.parametrize("int8", [False, True])
def test_parts_are_timed_as_the_operations_that_they_are(int8: bool) -> None:
    def counted(*, together: bool) -> dict[Any, tuple[int, int]]:
        timed: list[TimedOps] = []
        model = our_model(reference_model("llama", {}), "cpu", int8=int8, wrap=lambda ops: timed.append(TimedOps(ops)) or timed[0])
        with torch.inference_mode():
            run(model, prompts_of(9), chunk=9)
            assert all(whole(model))
            if not together:
                one_by_one(model)
            timed[0].on = True
            run(model, prompts_of(9), chunk=9, wanted=1)
        assert all(time.seconds > 0 for time in timed[0].times.values())
        # Norms are counted as those of sums, and rows that are quantized behind a gate by themselves.
        products = {key: time for key, time in timed[0].times.items() if "norm" not in key.name and key.name != "quantize"}
        return {key: (time.calls, time.flops) for key, time in products.items()}

    assert counted(together=True) == counted(together=False)
