"""The smaller model that makes drafts, put together beside the one that it drafts for."""

from __future__ import annotations

from dataclasses import replace

from ..engine.runner import Runner
from ..engine.speculation.draft_model import DraftModel
from ..engine.stopping import EndTokens
from ..errors import ConfigError
from ..sampling.sampler import Sampler
from ..settings.config import EngineConfig
from ..text.tokenizer import Tokenizer
from ..weights.source import ModelSource
from .files import find_model, find_tokenizer
from .sharded import build_runner

#: Tokenizers that make the same of these are the same: scripts, blanks, digits, and what is rare.
_TEXTS = (
    "The quick brown fox doesn't jump over 1234567890 lazy dogs.",
    "  def f(x):\n\treturn x ** 2  # naïve café\r\n",
    "Съешь же ещё этих булок, 我能吞下玻璃而不伤身体。 日本語 한국어 🙂\u200d",
)


def build_draft_model(config: EngineConfig, num_blocks: int, tokenizer: Tokenizer | None, ends: EndTokens, target: Runner) -> DraftModel:
    """
    Args:
        config: of the engine; its `speculative_model` is the one.
        num_blocks: of the engine's KV cache: the draft model has as many.

    Raises ModelError, ConfigError, EngineError.
    """
    name = config.speculative_model
    assert name is not None
    own = replace(
        config,
        model=name,
        tokenizer=name,
        revision=None,
        tokenizer_revision=None,
        quantization=None,
        quantize_lm_head=False,
        hf_overrides={},
        load_format="auto",
        enable_lora=False,
        lora_merge=None,
        num_gpu_blocks_override=num_blocks,
        kv_cache_memory_bytes=None,
        tensor_parallel_size=1,
        max_model_len_given=False,
    )
    source = find_model(own)
    spec = source.spec({})
    if spec.states:
        raise ConfigError(f"speculative_model={name}: {spec.model_type} models keep states, which cannot take a guess back; name another")
    own = replace(own, max_model_len=min(config.max_model_len, spec.max_length or config.max_model_len))
    _check_tokenizer(own, source, tokenizer)
    runner, blocks = build_runner(own, source)
    size, wanted = runner.model.vocab_size, target.model.vocab_size
    if size != wanted:
        raise ConfigError(f"speculative_model={name} has {size} tokens and the model {wanted}; name one of the same family")
    sampler = Sampler(runner.ops, ends.all, tokenizer, size)
    return DraftModel(runner, blocks, sampler, max_model_len=own.max_model_len, max_num_batched_tokens=config.max_num_batched_tokens)


def _check_tokenizer(config: EngineConfig, source: ModelSource, tokenizer: Tokenizer | None) -> None:
    """Raises ConfigError if its tokens mean something else."""
    if tokenizer is None:
        return
    _, other = find_tokenizer(config, source)
    assert other is not None
    for text in _TEXTS:
        if other.encode(text) != tokenizer.encode(text):
            raise ConfigError(f"speculative_model={config.model} has another tokenizer than the model; name one of the same family")
