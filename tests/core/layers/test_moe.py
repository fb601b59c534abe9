"""A mixture of experts gives a row the same bits in any company, whatever its neighbours choose or hold."""

from __future__ import annotations

import pytest
import torch

from infer.core import models
from infer.core.layers.moe import Experts
from infer.core.quant.int8 import Int8
from infer.core.spec.read import read_spec
from infer.core.weights import loader
from infer.kernels import load, usable

CONFIG = {
    "model_type": "mixtral",
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 24,
    "num_experts_per_tok": 5,
}
#: Rows of zeros, for whom all experts are alike, and of NaN.
TIED, BROKEN = 5, 77


def experts(backend: str, dtype: torch.dtype, *, int8: bool = False) -> Experts:
    ops = load(backend)
    model = models.build(read_spec(CONFIG), ops, choose=(lambda _: Int8(ops)) if int8 else None)
    loader.load_dummy(model.parameters(), dtype, torch.device("cpu"))
    made = model.layers[0].mlp
    assert isinstance(made, Experts)
    return made


def rows(dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(256, CONFIG["hidden_size"], generator=torch.Generator().manual_seed(1)).to(dtype)
    x[TIED], x[BROKEN] = 0, torch.nan
    return x


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("int8", [False, True], ids=["plain", "int8"])
def test_a_row_gets_the_same_alone_and_among_others(backend: str, dtype: torch.dtype, int8: bool) -> None:
    made, x = experts(backend, dtype, int8=int8), rows(dtype)
    with torch.inference_mode():
        whole = made(x)
        for start in (0, 64, 112):
            for count in (16, 48, 144):
                torch.testing.assert_close(
                    made(x[start : start + count].clone()), whole[start : start + count], rtol=0, atol=0, equal_nan=True
                )
    broken = whole.isnan().any(-1).nonzero().flatten().tolist()
    assert int8 or broken == [BROKEN]


def test_equal_scores_go_to_the_lower_experts() -> None:
    chosen, weights = experts("reference", torch.float32).router(rows(torch.float32))
    assert chosen[TIED].tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(weights[TIED], torch.full((5,), 0.2))


def test_the_router_is_never_quantized() -> None:
    made = experts("reference", torch.float32, int8=True)
    assert not isinstance(made.router.linear.method, Int8)
    assert all(isinstance(linear.method, Int8) for one in made.experts for linear in one.linears())
