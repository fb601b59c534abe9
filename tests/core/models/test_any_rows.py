"""A step of one row or seventeen gives the bits of a padded one, wherever a model is said to take any number of rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from infer.core.models.any_rows import takes_any_rows
from infer.kernels import usable

from .test_architectures import our_model, prompts_of, reference_model, run

pytestmark = pytest.mark.skipif("cpu" not in usable("cpu"), reason="no kernels of our own")

ALL_BY_KERNELS = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "head_dim": 20}),
    ("mistral", {"sliding_window": 24}),
    ("qwen3", {"head_dim": 24}),
    ("gpt2", {}),
    ("gptj", {"rotary_dim": 4}),
]


@pytest.mark.parametrize("int8", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize(("kind", "changes"), ALL_BY_KERNELS, ids=lambda v: v if isinstance(v, str) else ",".join(v) or "plain")
def test_steps_without_padding_give_the_same_bits(kind: str, changes: dict[str, Any], int8: bool) -> None:
    model = our_model(reference_model(kind, changes), "cpu", int8=int8)
    if not takes_any_rows(model):
        pytest.skip("this CPU multiplies by oneDNN")
    prompts = prompts_of(70, 1, 33)
    with torch.inference_mode():
        for wanted in (None, 1, 5):
            padded = run(model, prompts, chunk=23, wanted=wanted)
            assert all(map(torch.equal, run(model, prompts, chunk=23, wanted=wanted, multiple=1), padded))
        assert torch.equal(run(model, prompts[:1], chunk=1, multiple=1)[0], run(model, prompts[:1], chunk=23)[0])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("gemma2", {"head_dim": 16}), ("mixtral", {"num_local_experts": 4}), ("olmo2", {})],
    ids=["soft cap", "experts", "norms of all heads"],
)
def test_layers_that_leave_rows_to_torch_need_padding(kind: str, changes: dict[str, Any]) -> None:
    assert not takes_any_rows(our_model(reference_model(kind, changes), "cpu"))


def test_so_do_backends_that_leave_products_to_libraries() -> None:
    assert not takes_any_rows(our_model(reference_model("llama", {}), "reference"))
