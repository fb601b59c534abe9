"""Activations that we have: config.json's names, and the kernels' words for them."""

from __future__ import annotations

from ..errors import VariantError, nearest

#: Of gpt-oss, whose config.json says "silu".
CLAMPED_SWIGLU = "clamped_swiglu"
#: Of CLIP; made of a kernel's, see layers/quick_gelu.py.
QUICK_GELU = "quick_gelu"
#: hidden_act -> the kind of `Ops.gated_activation` and `Ops.activation`.
_BOTH = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
#: The same of one of them.
_GATED = {**_BOTH, CLAMPED_SWIGLU: CLAMPED_SWIGLU}
_PLAIN = {**_BOTH, "relu": "relu", "relu2": "relu2", QUICK_GELU: QUICK_GELU}
#: One with learned numbers, that no kernel has.
XIELU = "xielu"
#: The names of those numbers.
LEARNED = ("alpha_p", "alpha_n")


def activation_kind(name: str, *, gated: bool = False) -> str:
    """The kernels' word for config.json's. Raises VariantError for one that we do not have."""
    known = _GATED if gated else _PLAIN
    if name not in known:
        raise VariantError(f"config.json: activation {name!r} is not supported (known: {', '.join(known)}){nearest(name, known)}")
    return known[name]
