"""The pre-norm decoder stack that most language models share; an architecture says only where it differs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from infer.kernels.ops import AttentionMeta, KVCache, Ops, Rows

from ..errors import ModelError
from ..layers.attention import Attention
from ..layers.embedding import Embedding
from ..layers.linear import Linear, shared_out, unscaled
from ..layers.mlp import GatedMLP
from ..layers.norm import RMSNorm
from ..layers.rope import Rope, RopeConfig
from ..parallel.group import current
from ..weights.parameter import Parameter

#: Checkpoint prefixes of what may be one weight.
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
#: Kinds of layers in config.json's layer_types.
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What an architecture file fills in, from config.json's names to ours."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    activation: str
    rope: RopeConfig
    tie_embeddings: bool
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_windows: tuple[int | None, ...] = ()
    """One entry a layer; empty means that all layers see everything."""

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], **differences: Any) -> DecoderConfig:
        """The Llama reading of config.json with `differences` on top. Raises KeyError for what is missing."""
        heads = hf["num_attention_heads"]
        head_dim = hf.get("head_dim") or hf["hidden_size"] // heads
        values: dict[str, Any] = {
            "vocab_size": hf["vocab_size"],
            "hidden_size": hf["hidden_size"],
            "intermediate_size": hf["intermediate_size"],
            "num_layers": hf["num_hidden_layers"],
            "num_heads": heads,
            "num_kv_heads": hf.get("num_key_value_heads") or heads,
            "head_dim": head_dim,
            "norm_eps": hf.get("rms_norm_eps", 1e-6),
            "activation": hf.get("hidden_act", "silu"),
            "rope": RopeConfig.from_hf(hf, head_dim),
            "tie_embeddings": bool(hf.get("tie_word_embeddings", False)),
        }
        if not head_dim:
            raise ModelError(f"config.json: {heads} attention heads cannot share {hf['hidden_size']} features")
        config = cls(**{**values, **differences})
        if config.num_heads % config.num_kv_heads:
            raise ModelError(f"config.json: {config.num_heads} attention heads cannot share {config.num_kv_heads} key/value heads")
        return config


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
    check_kinds(kinds)
    if SLIDING in kinds and not window:
        off = ", since use_sliding_window is false" if switched and not hf.get("use_sliding_window") else ""
        raise ModelError(f"config.json: layer_types has layers of {SLIDING}, and there is no sliding_window{off}")
    return tuple(window if kind == SLIDING else None for kind in kinds) if SLIDING in kinds else ()


def check_kinds(kinds: Collection[str]) -> None:
    """Raises ModelError for kinds of layers, as `layer_types` has them, that we do not have."""
    if unknown := sorted(set(kinds) - {FULL, SLIDING}):
        raise ModelError(f"config.json: layer_types has {', '.join(unknown)}, which is not supported here (known: {FULL}, {SLIDING})")


class DecoderLayer:
    """x + attention(norm(x)), then x + mlp(norm(x)); the residual is carried beside the activations.

    `rows` int64 [R]: the only rows that are wanted of this layer; keys and values are stored of all.
    """

    def __init__(self, ops: Ops, c: DecoderConfig, index: int, rope: Rope) -> None:
        name = f"model.layers.{index}"
        self.input_norm = RMSNorm(ops, f"{name}.input_layernorm", c.hidden_size, c.norm_eps)
        self.post_norm = RMSNorm(ops, f"{name}.post_attention_layernorm", c.hidden_size, c.norm_eps)
        gate_up = [f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"]
        self.mlp = GatedMLP(ops, gate_up, f"{name}.mlp.down_proj", c.hidden_size, c.intermediate_size, c.activation, bias=c.mlp_bias)
        self.attention = Attention(
            ops,
            f"{name}.self_attn",
            c.hidden_size,
            c.num_heads,
            c.num_kv_heads,
            c.head_dim,
            rope,
            scale=c.head_dim**-0.5,
            qkv_bias=c.qkv_bias,
            o_bias=c.o_bias,
            qk_norm=c.norm_eps if c.qk_norm else None,
            sliding_window=c.sliding_windows[index] if c.sliding_windows else None,
        )

    def __call__(
        self, x: Rows | None, residual: Tensor, positions: Tensor, cache: KVCache, meta: AttentionMeta, rows: Tensor | None
    ) -> tuple[Rows, Tensor]:
        """What is still to be added (None before the first layer) and what it is to be added to; gives the same two."""
        quantize = self.attention.qkv.quantizes_input
        if x is None:
            normed = self.input_norm(residual, quantize=quantize)
        else:
            normed, residual = self.input_norm.add(x, residual, quantize=quantize)
        x = self.attention(normed, positions, cache, meta, rows)
        if rows is not None:
            residual = residual.index_select(0, rows)
        normed, residual = self.post_norm.add(x, residual, quantize=self.mlp.quantizes_input)
        return self.mlp(normed), residual

    def linears(self) -> Iterator[Linear]:
        yield from (self.attention.qkv, self.attention.out)
        yield from self.mlp.linears()

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.input_norm, self.attention, self.post_norm, self.mlp):
            yield from part.parameters()


class Decoder:
    """A causal language model: tokens in, hidden states and logits out. Weights are filled by `weights.loader`."""

    def __init__(self, config: DecoderConfig, ops: Ops) -> None:
        self.config = config
        self.ops = ops
        self.rope = Rope(config.rope)
        self.embedding = Embedding(EMBEDDING, config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(ops, config, i, self.rope) for i in range(config.num_layers)]
        self.visit: Callable[[Sequence[DecoderLayer]], Iterable[DecoderLayer]] = iter
        """Gives the layers one by one: each may be used until the next is asked for."""
        self.norm = RMSNorm(ops, "model.norm", config.hidden_size, config.norm_eps)
        # A tied weight is held twice, plain to look up and packed to multiply by.
        head = EMBEDDING if config.tie_embeddings else HEAD
        self.group = current()
        self.head = Linear(ops, [head], config.hidden_size, [config.vocab_size], bias=False, cuts=shared_out(config.vocab_size))

    def parameters(self) -> Iterator[Parameter]:
        yield from self.body_parameters()
        yield from self.head.parameters()

    def body_parameters(self) -> Iterator[Parameter]:
        """All but the head's: what hidden states need."""
        yield from self.embedding.parameters()
        for layer in self.layers:
            yield from layer.parameters()
        yield from self.norm.parameters()

    def linears(self) -> Iterator[Linear]:
        """Every linear layer but the head. Each may be used until the next is asked for."""
        for layer in self.visit(self.layers):
            yield from layer.linears()

    def forward(self, tokens: Tensor, positions: Tensor, caches: list[KVCache], meta: AttentionMeta, rows: Tensor | None = None) -> Tensor:
        """Hidden states [R, hidden_size] after the last layer and the final norm.

        Args:
            tokens, positions: int64 [N], N a multiple of ROW_MULTIPLE.
            caches: one a layer; the step's keys and values are stored in them.
            rows: int64 [R], the rows that are wanted, R a multiple of ROW_MULTIPLE or 0; None is all. The last layer
                computes no others.
        """
        attention = self.layers[0].attention.config
        meta.plan = self.ops.plan_attention(meta, attention.num_heads, attention.num_kv_heads)
        x: Rows | None = None
        residual = self.embedding(tokens)
        for layer, cache in zip(self.visit(self.layers), caches, strict=True):
            x, residual = layer(x, residual, positions, cache, meta, rows if layer is self.layers[-1] else None)
        hidden = self.norm(residual) if x is None else self.norm.add(x, residual)[0]
        assert isinstance(hidden, Tensor), "asked for without quantization"
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [R, vocab_size], in the model's dtype, of hidden states [R, hidden_size]; R a multiple of ROW_MULTIPLE.

        Where ranks share the model, rank 0 gets them; what the others get means nothing.
        """
        return self.group.gather(unscaled(self.head(hidden)))[:, : self.config.vocab_size]
