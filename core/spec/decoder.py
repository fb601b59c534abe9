"""Llama's reading of config.json, on top of which the file of another decoder says its differences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import ModelError
from .hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, POSITIVE, TEXT, WHOLE, Kind
from .mixers import MixerSpec
from .names import Names, Naming, Split
from .rope import RopeConfig
from .stack import AttentionSpec, ClassifierSpec, ExpertsSpec, LayerSpec, MLPSpec, NormSpec, StackSpec

NAMES = Names(
    words="model.embed_tokens",
    layer="model.layers.{}",
    attention_norm="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
    attention_out="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    final_norm="model.norm",
    head="lm_head",
)
#: Embedding models often come as the base model alone, without the prefix that a language model's tensors have.
NAMING = Naming(("model.",))
#: Absent keys of config.json, see `Architecture.defaults`.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
#: Likewise, of models with windows that are switched on.
WINDOW_DEFAULTS: dict[str, Any] = {
    **DEFAULTS,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
#: The head of a decoder's `...ForSequenceClassification`.
SCORE = ClassifierSpec(out="score", out_bias=False)
#: That of its `...ForTokenClassification`, and that of Qwen2's reward models.
TOKEN_SCORE = ClassifierSpec(out="score")
REWARD = ClassifierSpec(out="score.2", dense="score.0", activation="relu")
VALUES: dict[str, Kind] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"), COUNT),
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": COUNT,
    **dict.fromkeys(("num_key_value_heads", "head_dim"), COUNT | NULL),
    "sliding_window": WHOLE | NULL,
    "max_window_layers": WHOLE,
    "rms_norm_eps": POSITIVE,
    "hidden_act": TEXT,
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"), FLAG),
    "rope_theta": POSITIVE | NULL,
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}
#: Kinds of layers in config.json's layer_types.
FULL, SLIDING = "full_attention", "sliding_attention"


def decoder(
    hf: Mapping[str, Any],
    *,
    attention: Mapping[str, Any] | None = None,
    windows: Sequence[int | None] = (),
    by_layer: Sequence[Mapping[str, Any]] = (),
    mixers: Sequence[MixerSpec | None] = (),
    attends: Sequence[bool] = (),
    feed_forward: MLPSpec | ExpertsSpec | Sequence[MLPSpec | ExpertsSpec | None] | None = None,
    **differences: Any,
) -> StackSpec:
    """Llama's reading of config.json. Raises KeyError for what is missing, ModelError for sizes that do not fit each other.

    Args:
        attention: differences of every layer's `AttentionSpec`.
        windows: one entry a layer; empty: all layers see everything.
        by_layer: differences of each layer's `AttentionSpec`; empty: there are no others.
        mixers: what keeps states, one entry a layer; empty: there is none.
        attends: which layers have attention; empty: those that keep no states.
        feed_forward: another than the gated one, or one a layer, None where it has none.
        differences: of the `StackSpec`.
    """
    hidden, heads = hf["hidden_size"], hf["num_attention_heads"]
    head_dim = hf.get("head_dim") or hidden // heads
    kv_heads = hf.get("num_key_value_heads") or heads
    if not head_dim:
        raise ModelError(f"config.json: {heads} attention heads cannot share {hidden} features")
    if heads % kv_heads:
        raise ModelError(f"config.json: {heads} attention heads cannot share {kv_heads} key/value heads")
    shape: dict[str, Any] = {
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "scale": head_dim**-0.5,
        **(attention or {}),
    }
    if "rope" not in shape:
        shape["rope"] = RopeConfig.from_hf(hf, head_dim)
    feed_forward = feed_forward or gated(hf)
    parts = (feed_forward,) * hf["num_hidden_layers"] if isinstance(feed_forward, (MLPSpec, ExpertsSpec)) else feed_forward
    seen = [{"window": window} for window in windows or (None,) * hf["num_hidden_layers"]]
    keeps = mixers or (None,) * hf["num_hidden_layers"]
    if by_layer:
        seen = [{**one, **more} for one, more in zip(seen, by_layer, strict=True)]
    values: dict[str, Any] = {
        "names": NAMES,
        "naming": NAMING,
        "vocab_size": hf["vocab_size"],
        "hidden_size": hidden,
        "layers": tuple(
            LayerSpec(attention=AttentionSpec(**{**shape, **one}) if attending else None, mixer=mixer, feed_forward=part)
            for one, attending, mixer, part in zip(seen, attends or [one is None for one in keeps], keeps, parts, strict=True)
        ),
        "norm": NormSpec(eps=hf.get("rms_norm_eps", 1e-6)),
        "tie_embeddings": bool(hf.get("tie_word_embeddings", False)),
    }
    return StackSpec(**{**values, **differences})


def ropes_by_kind(hf: Mapping[str, Any], thetas: Mapping[str, float]) -> list[dict[str, RopeConfig]]:
    """A rotation by each layer's kind, for `by_layer`: of `rope_parameters` by kind (transformers 5), or of a base of each kind and one
    scaling of those that see everything (before).

    Args:
        hf: with `layer_types` and `head_dim`.
        thetas: base of each kind where config.json names none.
    """
    parameters, scaling = hf.get("rope_parameters") or {}, hf.get("rope_scaling") or {}
    if not any(isinstance(value, Mapping) for value in parameters.values()):  # one for all kinds
        parameters = dict.fromkeys(thetas, parameters)
    ropes = {}
    for kind, theta in thetas.items():
        merged = {"rope_theta": theta, **(parameters.get(kind) or {}), **(scaling if kind == FULL else {})}
        ropes[kind] = RopeConfig.from_hf({**hf, "rope_scaling": None, "rope_parameters": merged, "rope_theta": None}, hf["head_dim"])
    return [{"rope": ropes[kind]} for kind in hf["layer_types"]]


def layer_norm(hf: Mapping[str, Any], key: str = "layer_norm_epsilon", *, bias: bool = True, offset: float = 0.0) -> NormSpec:
    """A norm of mean and variance, with the epsilon that config.json has under `key`."""
    return NormSpec(eps=hf[key], centered=True, bias=bias, offset=offset)


def plain(size: int, activation: str, *, bias: bool = True) -> MLPSpec:
    """A feed-forward part without a gate."""
    return MLPSpec(size=size, activation=activation, gated=False, bias=bias)


def by_head(made: StackSpec, pieces: tuple[str, str, str]) -> Split:
    """A layer that gives the queries, the key and the value of one key/value head after the other."""
    one = made.layers[0].need_attention()
    heads = one.num_heads // one.num_kv_heads
    return Split(pieces, (heads * one.head_dim, one.head_dim, one.head_dim), one.num_kv_heads)


def ungrouped(hf: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model whose query heads each have a key and a value of their own, whatever keys of other models it has."""
    return {**hf, "num_key_value_heads": None, "head_dim": None}


def without(defaults: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The defaults of an architecture that does not have some keys."""
    return {key: value for key, value in defaults.items() if key not in keys}


def gated(hf: Mapping[str, Any], *, bias: bool = False) -> MLPSpec:
    """Llama's feed-forward part."""
    return MLPSpec(size=hf["intermediate_size"], activation=hf.get("hidden_act", "silu"), bias=bias)


def biased(hf: Mapping[str, Any]) -> dict[str, bool]:
    """Biases of attention, all or none, as `attention_bias` says."""
    bias = bool(hf.get("attention_bias", False))
    return {"qkv_bias": bias, "out_bias": bias}


def qk_norm(hf: Mapping[str, Any], *, offset: float = 0.0) -> NormSpec:
    """A norm of each query and key head with the epsilon of all others."""
    return NormSpec(eps=hf.get("rms_norm_eps", 1e-6), offset=offset)


def sliding_windows(hf: Mapping[str, Any], *, switched: bool) -> tuple[int | None, ...]:
    """One window a layer from `sliding_window`, `layer_types`, `use_sliding_window` and `max_window_layers`, as transformers has them.

    Args:
        switched: windows are there only where `use_sliding_window` says so, and only from layer `max_window_layers` on.

    Raises ModelError for layers of other kinds, and where layers have windows and there is no size of one.
    """
    layers, kinds = hf["num_hidden_layers"], hf.get("layer_types")
    window = hf.get("sliding_window") if not switched or hf.get("use_sliding_window", False) else None
    if kinds is None:
        first = 0 if window is not None and not switched else hf.get("max_window_layers", 0) if window is not None else layers
        kinds = [SLIDING if i >= first else FULL for i in range(layers)]
    off = ", since use_sliding_window is false" if switched and not hf.get("use_sliding_window") else ""
    return windows_of(kinds, window, why_none=off)


def windows_of(kinds: Sequence[str], window: int | None, why_none: str = "") -> tuple[int | None, ...]:
    """One window a layer; empty where no layer has any. Raises ModelError as `sliding_windows` does."""
    check_kinds(kinds)
    if SLIDING not in kinds:
        return ()
    if not window:
        raise ModelError(f"config.json: layer_types has layers of {SLIDING}, and there is no sliding_window{why_none}")
    return tuple(window if kind == SLIDING else None for kind in kinds)


def check_length(key: str, values: Collection[Any], layers: int) -> None:
    """Raises ModelError if there is not one value for each layer."""
    if len(values) != layers:
        raise ModelError(f"config.json: {key} has {len(values)} entries, num_hidden_layers is {layers}; they must agree")


def check_kinds(kinds: Collection[str]) -> None:
    """Raises ModelError for kinds of layers, as `layer_types` has them, that we do not have."""
    if unknown := sorted(set(kinds) - {FULL, SLIDING}):
        raise ModelError(f"config.json: layer_types has {', '.join(unknown)}, which is not supported here (known: {FULL}, {SLIDING})")
