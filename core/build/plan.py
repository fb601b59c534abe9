"""Plan: settings resolved on this machine for one model, without its weights. Quick to make; never imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..engine.limits import Limits
from ..errors import ConfigError, ModelError
from ..parallel.sizes import check_size
from ..parallel.stages import check_stages
from ..pooling.dense_files import check_dense
from ..pooling.late import need_tokenizer
from ..pooling.recipe import Recipe
from ..pooling.recipe_files import read_modules, read_recipe
from ..settings.args import EngineArgs
from ..settings.config import Caution
from ..spec.classes import head_of
from ..spec.model_spec import ModelSpec
from ..spec.support import refuse_unsupported
from ..spec.task import choose_task
from ..spec.vision import num_image_tokens
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..weights.find import own_name
from ..weights.fit import check_groups, check_stack, check_weights
from ..weights.formats import METHODS
from ..weights.quantized import DESCRIBED_BY, QuantizedSource
from ..weights.source import ModelSource
from .decoder_prompts import decoder_prompts_of
from .files import find_model, find_tokenizer
from .generation_config import sampling_defaults

if TYPE_CHECKING:
    from ..media.placing import Placing
    from ..media.sound_prompts import SoundPrompts
    from ..media.sounds import SoundStore
    from ..media.store import MediaStore
    from ..pooling.images import ImageReader
    from ..pooling.limits import PoolingLimits
    from ..sampling.grammar.grammar import Grammars
    from ..settings.config import EngineConfig
    from ..text.decoder_prompts import DecoderPrompts
    from ..text.speech.tokens import SpeechTokens

#: Methods of checkpoints that name as well what can be made of plain weights.
ON_THE_FLY = ("fp8",)
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Plan:
    """Everything about a run but the weights. `tokenizer_source` is the model's own unless --tokenizer named another; there is no
    tokenizer with skip_tokenizer_init. `recipe` is how a model pools; None: it generates.
    """

    config: EngineConfig
    source: ModelSource
    tokenizer: Tokenizer | None
    tokenizer_source: ModelSource
    recipe: Recipe | None = None

    @property
    def name(self) -> str:
        """The model's name in answers, the same however the user spelled it."""
        return own_name(self.source)

    def chat_template(self, override: str | None = None, *, content_format: str = "auto") -> ChatTemplate:
        """The model's chat template, or another one, see `ChatTemplate.load`. Raises ModelError if there is none, or none
        that can be used; ConfigError for an unknown one, and without a tokenizer.
        """
        self.must_generate()
        return self._chat_template(override, content_format)

    def own_chat_template(self) -> ChatTemplate | None:
        """The model's own, whatever it does: one that embeds may read conversations too. None if it has none that can be used."""
        try:
            return self._chat_template(None, "auto")
        except (ConfigError, ModelError):
            return None

    def _chat_template(self, override: str | None, content_format: str) -> ChatTemplate:
        if self.tokenizer is None:
            raise ConfigError("a conversation needs a tokenizer; skip_tokenizer_init is for prompts of token ids")
        template = ChatTemplate.load(self.tokenizer_source.read, self.tokenizer, override=override, content_format=content_format)
        template.require()
        store = self.media
        return template if store is None or self.recipe is not None else template.seeing(store.placeholder)

    def sampling_defaults(self) -> tuple[dict[str, Any], str]:
        """Sampling parameters that generation_config.json sets, and a sentence about them. Raises ConfigError, ModelError."""
        self.must_generate()
        config = self.config
        return sampling_defaults(self.source.read_json, source=config.generation_config, override=config.override_generation_config)

    @cached_property
    def decoder_prompts(self) -> DecoderPrompts | None:
        """The first tokens of the decoder, for a model that has an encoder. Raises ModelError."""
        return decoder_prompts_of(self.config, self.source, self.tokenizer)

    @cached_property
    def hearing(self) -> SoundPrompts | None:
        """The prompts of a model that reads sound; None of others, and where no sound can be given. Raises ModelError."""
        if self.sounds is None or self.speech_tokens is None or self.decoder_prompts is None:
            return None
        from ..media.sound_prompts import SoundPrompts

        return SoundPrompts(self.sounds, self.speech_tokens, self.decoder_prompts)

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's config.json as it was read, overrides counted."""
        return self.source.spec(self.config.hf_overrides)

    def limits(self) -> Limits | PoolingLimits:
        """The limits of requests. The number of KV blocks is in it if it was given, not if it depends on the
        memory that is free. Raises ConfigError if the given size is too small for the given `max_model_len`.
        """
        if self.recipe is not None:
            from ..pooling.limits import PoolingLimits

            return PoolingLimits(self.vocab_size, self.config.max_model_len, self.recipe)
        return Limits.of(self.config, self.vocab_size, self._num_blocks(), self.tokenizer, self.grammars)

    @cached_property
    def media(self) -> MediaStore | None:
        """The store that intake and engine share, which reads images; None if the model takes no images."""
        from .vision import media_store

        pools = self.recipe is not None and self.recipe.contrast is None
        return None if pools else media_store(self.config, self.source, self.spec)

    @cached_property
    def sounds(self) -> SoundStore | None:
        """The store that intake and engine share, which reads sounds to transcribe; None if the model takes none."""
        from .speech import sound_store

        return None if self.recipe is not None else sound_store(self.config, self.source, self.spec)

    @property
    def media_store(self) -> MediaStore | None:
        """The store of whatever media the model takes, images or sounds."""
        return self.media or self.sounds

    @cached_property
    def speech_tokens(self) -> SpeechTokens | None:
        """Those of a model that transcribes. Raises ModelError."""
        from .speech import speech_tokens

        return speech_tokens(self.config, self.source, self.spec) if self.spec.tower_positions else None

    @property
    def placing(self) -> Placing | None:
        """The way of media into prompts."""
        from ..media.placing import Placing

        if self.recipe is not None or self.media is None:
            return None
        assert self.spec.images is not None
        return Placing(self.media, self.spec.images, self.tokenizer, self.config.mm_processor_kwargs)

    @cached_property
    def image_reader(self) -> ImageReader | None:
        """The way of images into requests of a model that makes vectors of them; None of others."""
        from ..pooling.images import ImageReader

        if self.recipe is None or self.media is None:
            return None
        return ImageReader(self.media, num_image_tokens(self.spec.config), self.config.mm_processor_kwargs)

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles constraints as an engine would."""
        from ..sampling.grammar.grammar import Grammars
        from .end_tokens import end_tokens_of

        ends = end_tokens_of(self.config, self.source, self.tokenizer)
        return Grammars(self.tokenizer, ends.all, self.vocab_size, settings=self.config.structured_outputs_config)

    @property
    def vocab_size(self) -> int:
        """Token ids are below it. Raises ModelError where nothing says so."""
        vocab_size = self.spec.vocab_size
        if vocab_size is None:
            if self.tokenizer is None:
                raise ModelError(f"model {self.source.name!r}: config.json does not say how large the vocabulary is")
            vocab_size = self.tokenizer.vocab_size
        return vocab_size

    def must_generate(self) -> None:
        """Raises ConfigError for a model that pools."""
        if self.recipe is not None:
            command = "infer embed" if self.recipe.kind == "embed" else "infer classify or infer score"
            what = "embeds texts" if self.recipe.kind == "embed" else "classifies texts"
            other = "another model" if self.spec.is_encoder else "task=generate"
            raise ConfigError(f"model {self.source.name!r} {what} here and does not generate: use {command}, or {other}")

    def must_pool(self) -> Recipe:
        """The model's recipe. Raises ConfigError for one that generates."""
        if self.recipe is None:
            raise ConfigError(f"model {self.source.name!r} is run to generate text: set task=embed to make embeddings with it")
        return self.recipe

    def kv_bytes_per_token(self) -> int | None:
        """Bytes of a token's keys and values in the KV cache; None if config.json does not say."""
        caches, known = self.spec.caches, self.spec.stack is not None or self.spec.caches
        kept = self.config.kv_cache_dtype
        item_bytes = _ITEM_BYTES[self.config.dtype] if kept == "auto" else 1
        return sum(sum(cache.token_bytes(item_bytes, scaled=kept == "int8")) for cache in caches) if known else None

    def state_bytes_per_sequence(self) -> int:
        """Bytes of what layers keep of a sequence beside the KV cache; 0 of a model that keeps no states."""
        return sum(state.num_bytes(_ITEM_BYTES[self.config.dtype]) for state in self.spec.states)

    def _num_blocks(self) -> int | None:
        caches = self.spec.caches
        if not caches or (self.config.num_gpu_blocks_override is None and self.config.kv_cache_memory_bytes is None):
            return None
        if self.config.pipeline_parallel_size > 1 and self.config.num_gpu_blocks_override is None:
            return None  # each stage has as much memory, and which layers it has is known once the model is built
        from ..memory.kv_cache import KVShape, budget_of, choose_num_blocks, kv_dtype
        from ..memory.state_pools import StateShape, choose_num_states
        from .generating import DTYPES

        config, dtype = self.config, DTYPES[self.config.dtype]
        states = StateShape((self.spec.states,), dtype)
        budget = None if config.kv_cache_memory_bytes is None else budget_of(config, 0)
        state_bytes = states.bytes_of(choose_num_states(config, states, budget, attends=bool(caches)))
        return choose_num_blocks(config, KVShape(caches, kv_dtype(config, dtype)), 0, state_bytes=state_bytes)


def make_plan(
    args: EngineArgs, source: ModelSource | None = None, *, given: Mapping[str, str] | None = None, compile_kernels: bool = True
) -> Plan:
    """Decides all settings and loads the tokenizer.

    Args:
        args: the settings.
        source: what `find_model(args)` gave, if that was called before.
        given: where each setting came from, as `EngineArgs.load` tells.
        compile_kernels: False where the plan will not be started.

    Raises:
        ConfigError: contradicting settings. ModelError: the model's small files cannot be used, or it cannot do what `args.task` says.
    """
    source = source or find_model(args)
    _check_quantization(args, source)
    spec = source.spec(args.hf_overrides)
    task, recipe = _use(args, source, spec)
    if args.load_format != "dummy" and source.has_weights:  # `infer check` needs none
        check_weights(source, spec)
        if spec.stack is not None and (spec.is_encoder or spec.in_our_code(args.model_impl)):
            labels = 0 if recipe is None or recipe.kind != "classify" or recipe.reads_head else len(recipe.labels)
            check_stack(
                source,
                spec.stack,
                writes=recipe is None or recipe.reads_head,
                classifier=head_of(spec) if labels else None,
                labels=labels,
                overrides=args.hf_overrides or {},
            )
        for dense in () if recipe is None else recipe.dense:
            check_dense(dense, source)
    if task == "generate":
        check_stages(spec, args.pipeline_parallel_size, ours=spec.in_our_code(args.model_impl))
        check_size(spec, args.tensor_parallel_size, whole_experts=args.enable_expert_parallel)
        if args.enable_lora and spec.has_encoder:
            raise ConfigError(
                f"enable_lora: {source.name} has an encoder and a decoder, and such models take no adapters yet; leave it out"
            )
        if args.kv_cache_dtype == "int8" and any(cache.latent for cache in spec.caches):
            raise ConfigError(f"kv_cache_dtype=int8: model {source.name!r} keeps latents, which stay in its dtype; leave it out")
        if args.load_format != "dummy" and source.has_weights and args.quantization in (None, *METHODS):
            check_groups(source, spec, args.tensor_parallel_size, whole_experts=args.enable_expert_parallel)
    elif args.pipeline_parallel_size > 1:
        raise ConfigError("pipeline_parallel_size: models that pool are not cut into stages yet; leave it at 1, or set data_parallel_size")
    elif args.tensor_parallel_size > 1:
        raise ConfigError("tensor_parallel_size: models that pool are not shared yet; leave it at 1, or set data_parallel_size")
    tokenizer_source, tokenizer = find_tokenizer(args, source)
    if recipe is not None and recipe.tokens:
        recipe = replace(recipe, token_ids=_token_ids(recipe.tokens, tokenizer, source.name))
    if recipe is not None and recipe.late is not None:
        recipe = replace(recipe, late=recipe.late.known_to(need_tokenizer(tokenizer), source.name))
    longest = None if recipe is None else recipe.max_seq_length
    config = args.resolve(spec, given=given, compile_kernels=compile_kernels, task=task, max_seq_length=longest)
    if args.load_format != "dummy" and not source.has_weights:
        note = f"{source.name} has no weights here: a run needs them, and whether they fit was not checked"
        config = replace(config, notes=(*config.notes, Caution(note)))
    packed = args.quantization in ("int4", "fp8") or (source.scheme and args.quantization in (None, *METHODS))
    if args.activation_dtype != "auto" and not packed:
        idle = f"with quantization={args.quantization}" if args.quantization else "with weights that are not quantized"
        config = replace(config, notes=(*config.notes, Caution(f"activation_dtype has no effect {idle}")))
    return Plan(config, source, tokenizer, tokenizer_source, recipe)


def _token_ids(tokens: Sequence[str], tokenizer: Tokenizer | None, name: str) -> tuple[int, ...]:
    """The ids of `classifier_from_token`. Raises ConfigError without a tokenizer, ModelError for what is not one token."""
    if tokenizer is None:
        raise ConfigError("classifier_from_token names tokens by their text, which skip_tokenizer_init leaves without ids")
    found = {token: tokenizer.encode(token, add_special_tokens=False) for token in tokens}
    if wrong := [token for token, ids in found.items() if len(ids) != 1]:
        raise ModelError(
            f"model {name!r}: classifier_from_token: {wrong[0]!r} is not one token of its vocabulary, but {len(found[wrong[0]])}"
        )
    return tuple(ids[0] for ids in found.values())


def _check_quantization(args: EngineArgs, source: ModelSource) -> None:
    """Raises ConfigError if the checkpoint is not what the settings say that it is."""
    asked = args.quantization
    if stated := set(DESCRIBED_BY) & (args.hf_overrides or {}).keys():
        raise ConfigError(f"hf_overrides: {', '.join(stated)} tells how weights are quantized, which the model's own files alone can")
    if isinstance(source, QuantizedSource):
        if asked not in (None, source.layers.method):
            raise ConfigError(
                f"quantization={asked}: the weights of {source.name} are quantized already ({source.layers.label}); leave it out"
            )
    elif asked in METHODS and asked not in ON_THE_FLY:
        raise ConfigError(f"quantization={asked}: the weights of {source.name} are not quantized so; leave it out")


def _use(args: EngineArgs, source: ModelSource, spec: ModelSpec) -> tuple[str, Recipe | None]:
    """The task of the model, and its recipe if it pools. Raises ConfigError, ModelError."""
    modules = read_modules(source)
    scores_tokens = bool((args.pooler_config or {}).get("returned_token_ids"))
    task = choose_task(args.task, args.runner, args.convert, spec, modules, scores_tokens=scores_tokens)
    refuse_unsupported(spec, source.name, task=task, model_impl=args.model_impl)
    if task == "generate":
        return task, None
    recipe = read_recipe(source, spec, task=task, pooler_config=args.pooler_config)
    if args.task == "score" and task == "classify" and len(recipe.labels) != 1 and not recipe.per_token:
        raise ModelError(f"model {source.name!r} has {len(recipe.labels)} labels, and a score is of one: use infer classify")
    return task, recipe
