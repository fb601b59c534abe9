"""The calls of `LLM` for models that pool: `encode`, `embed`, `classify` and `score`, with vLLM's names and meanings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, overload

from ..errors import ConfigError, nearest
from ..intake.texts import TextIntake
from ..pooling.contrast import Contrast
from ..pooling.similarity import similarity
from ..pooling.texts import TextEncoder
from ..types.pooling_outputs import (
    ClassificationRequestOutput,
    EmbeddingRequestOutput,
    LabelRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from ..types.pooling_params import PoolingParams
from ..types.prompts import Prompt, as_prompts
from .arguments import Loras, OnError, UseTqdm, adapters_of, copied, is_raising, refuse_adapters, sides, truncation, warn_of_legacy
from .drafts import Read
from .labels import LabelCalls, Labels

if TYPE_CHECKING:
    from ..pooling.recipe import Recipe

#: Parameters as an object, or as a dict of what they are made of.
_One = PoolingParams | Mapping[str, Any]
PoolingParamsLike = _One | Sequence[_One] | None
#: What `pooling_task` may be, and what the model must then be made for.
_TASKS = {"embed": "embed", "token_embed": "embed", "classify": "classify", "token_classify": "classify"}


class PoolingCalls(LabelCalls):
    """The calls of `LLM` for models that pool."""

    DEPRECATE_LEGACY: ClassVar[bool] = False

    def encode(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        pooling_params: PoolingParamsLike = None,
        prompt_token_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        use_tqdm: UseTqdm = True,
        lora_request: Loras = None,
        prompt_adapter_request: Any = None,
        *,
        pooling_task: str | None = None,
        truncate_prompt_tokens: int | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        prompt_name: str | None = None,
        prefix: str | None = None,
        on_error: OnError = "raise",
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        """The model's result for each prompt, as tensors, in the order of the prompts.

        Args:
            prompts: one prompt or many: text, token ids, `TextPrompt`, `TokensPrompt`.
            pooling_params: one for all, or one a prompt; None is the model's own way. They are copied.
            prompt_token_ids: the older form of prompts that are token ids; without effect where `prompts` are given.
            use_tqdm: show a progress bar on stderr; or a function that makes one.
            lora_request: a LoRA adapter for all, or a list with one, or None, a prompt; needs LLM(enable_lora=True).
            prompt_adapter_request: not supported yet, so refused.
            pooling_task: "embed", "token_embed" (a vector for each token), "classify" or "token_classify" (scores for each token); None
                is what the model is for.
            truncate_prompt_tokens: most tokens of a prompt, special ones included; what is longer loses text. -1: as many as the model
                takes. None: a prompt that is too long is an error.
            tokenization_kwargs: more about that: `truncate_prompt_tokens`, `truncation_side` ("left" or "right"; None is the
                tokenizer's own), and transformers' `truncation` and `max_length`.
            prompt_name: which of the model's prompts goes before each text (config_sentence_transformers.json); None is its default
                one, if it has one. Not before token ids.
            prefix: text to put there in place of that.
            on_error: "raise": the first error is raised, and nothing is answered; "return": such a prompt's output has its
                `error` and is empty.

        Raises ConfigError (a ValueError) for wrong arguments or a model that generates, RecordError (a ValueError) for a prompt or
        parameters that cannot be answered. Nothing is left in the engine then.
        """
        warn_of_legacy(prompt_token_ids, wanted=self.DEPRECATE_LEGACY)
        kind = self._kind(pooling_task)
        many = as_prompts(prompts, prompt_token_ids)
        refuse_adapters(len(many), prompt_adapter_request=prompt_adapter_request)
        loras = adapters_of(lora_request, len(many), self._adapters.lora)
        raising, given = is_raising(on_error), PoolingParams() if pooling_params is None else pooling_params
        params = copied(given, len(many), PoolingParams, "pooling_params", raising=raising)
        side = self._recipe("encode").side_of(prompt_name)
        encoder = self._encoder(truncate_prompt_tokens, tokenization_kwargs, prompt_name, prefix, side)
        images = self._plan.image_reader
        drafts = [Read.of(prompt, p, kind, encoder, lora, images) for prompt, p, lora in zip(many, params, loras, strict=True)]
        return self._answer(drafts, TextIntake(self._remarks), use_tqdm, raising=raising)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        use_tqdm: UseTqdm = True,
        pooling_params: PoolingParamsLike = None,
        lora_request: Loras = None,
        truncate_prompt_tokens: int | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        prompt_name: str | None = None,
        prefix: str | None = None,
        on_error: OnError = "raise",
    ) -> list[EmbeddingRequestOutput]:
        """The vector of each prompt, as a list of floats. Arguments and errors are those of `encode`."""
        outputs = self.encode(
            prompts,
            pooling_params,
            use_tqdm=use_tqdm,
            lora_request=lora_request,
            pooling_task="embed",
            truncate_prompt_tokens=truncate_prompt_tokens,
            tokenization_kwargs=tokenization_kwargs,
            prompt_name=prompt_name,
            prefix=prefix,
            on_error=on_error,
        )
        return [EmbeddingRequestOutput.from_base(output) for output in outputs]

    @overload
    def classify(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        use_tqdm: UseTqdm = True,
        pooling_params: PoolingParamsLike = None,
        lora_request: Loras = None,
        truncate_prompt_tokens: int | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        labels: None = None,
        calibration_prompt: None = None,
        on_error: OnError = "raise",
    ) -> list[ClassificationRequestOutput]: ...

    @overload
    def classify(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        use_tqdm: UseTqdm = True,
        lora_request: Loras = None,
        truncate_prompt_tokens: int | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        labels: Labels,
        calibration_prompt: str | None = None,
        on_error: OnError = "raise",
    ) -> list[LabelRequestOutput]: ...

    def classify(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        use_tqdm: UseTqdm = True,
        pooling_params: PoolingParamsLike = None,
        lora_request: Loras = None,
        truncate_prompt_tokens: int | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        labels: Any = None,
        calibration_prompt: str | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """The scores of each prompt, one a label, as a list of floats. Arguments and errors are those of `encode`.

        With a language model `labels` are what it is to choose from, one list for all prompts or one a prompt: how likely it is to write
        each of them after the prompt (see LabelOutput). A prompt that ends without a blank may be followed by one.

        Args:
            labels: of a language model; a classifier has its own.
            calibration_prompt: a prompt that asks the same about nothing: what labels have after it is taken off.
        """
        if labels is not None or self._plan.recipe is None:
            if pooling_params is not None:
                raise ConfigError("pooling_params is for models that pool; leave it out where labels are given")
            own = {"truncate_prompt_tokens": truncate_prompt_tokens, **(tokenization_kwargs or {})}
            return self._classify_labels(prompts, labels, calibration_prompt, own, use_tqdm, lora_request, on_error)
        if calibration_prompt is not None:
            raise ConfigError("calibration_prompt is for language models that choose among labels")
        outputs = self.encode(
            prompts,
            pooling_params,
            use_tqdm=use_tqdm,
            lora_request=lora_request,
            pooling_task="classify",
            truncate_prompt_tokens=truncate_prompt_tokens,
            tokenization_kwargs=tokenization_kwargs,
            on_error=on_error,
        )
        return [ClassificationRequestOutput.from_base(output) for output in outputs]

    def score(
        self,
        text_1: Prompt | Sequence[Prompt],
        text_2: Prompt | Sequence[Prompt],
        /,
        *,
        use_tqdm: UseTqdm = True,
        pooling_params: PoolingParams | None = None,
        lora_request: Loras = None,
        truncate_prompt_tokens: int | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        prompt_name: str | None = None,
        prefix: str | None = None,
        on_error: OnError = "raise",
    ) -> list[ScoringRequestOutput]:
        """Scores of pairs of texts: one with one, one with each of many, or the first with the first, the second with the second...

        A classifier of one label reads both texts at once (a cross-encoder, `text_1` first); with a model for embeddings it is
        the cosine of their vectors, or what else the model's files name as its similarity.

        Args:
            text_1, text_2: one text or many; for embeddings, prompts in any form `encode` takes.
            pooling_params: for all.

        The other arguments and the errors are those of `encode`.
        """
        recipe = self._recipe("score")
        if recipe.kind == "classify" and (len(recipe.labels) != 1 or recipe.per_token):
            raise ConfigError(f"score needs a classifier of one label, this one has {len(recipe.labels)}: use LLM.classify")
        if not isinstance(pooling_params, PoolingParams | None):
            raise ConfigError(f"pooling_params of score must be one PoolingParams, not {type(pooling_params).__name__}")
        first, second = sides(text_1, text_2)
        loras = adapters_of(lora_request, len(second), self._adapters.lora)
        raising, given = is_raising(on_error), PoolingParams() if pooling_params is None else pooling_params
        (params,) = copied(given, 1, PoolingParams, "pooling_params", raising=raising)
        encoder = self._encoder(truncate_prompt_tokens, tokenization_kwargs, prompt_name, prefix)
        if recipe.kind == "classify":
            pairs = first * len(second) if len(first) == 1 else first
            drafts = [Read.of_pair(one, other, params, encoder, lora) for one, other, lora in zip(pairs, second, loras, strict=True)]
        else:
            if len(first) == 1 and len(set(loras)) > 1:
                raise ConfigError("score of one text and many embeddings takes one lora_request: their vectors must be of one adapter")
            both = [*zip(first, loras, strict=False), *zip(second, loras, strict=True)]
            others = encoder
            if recipe.late is not None:
                encoder, others = (
                    self._encoder(truncate_prompt_tokens, tokenization_kwargs, prompt_name, prefix, side) for side in ("query", "document")
                )
            encoders = [encoder] * len(first) + [others] * len(second)
            images, kind = self._plan.image_reader, recipe.text_kind
            drafts = [Read.of(prompt, params, kind, one, lora, images) for (prompt, lora), one in zip(both, encoders, strict=True)]
        outputs = self._answer(drafts, TextIntake(self._remarks), use_tqdm, raising=raising)
        if recipe.kind == "classify":
            return [ScoringRequestOutput.from_base(output) for output in outputs]
        left, right = outputs[: len(first)], outputs[len(first) :]
        left = left * len(right) if len(left) == 1 else left
        if recipe.contrast is None:
            return [_compared(one, other, recipe.similarity) for one, other in zip(left, right, strict=True)]
        pictured = [draft.is_image for draft in drafts]
        of_left = pictured[: len(first)] * (len(right) if len(first) == 1 else 1)
        kinds = zip(of_left, pictured[len(first) :], strict=True)
        activate = recipe.contrast.activation == "sigmoid"
        return [
            _compared(one, other, recipe.similarity, recipe.contrast if a != b else None, activate)
            for one, other, (a, b) in zip(left, right, kinds, strict=True)
        ]

    def _recipe(self, call: str) -> Recipe:
        """Raises ConfigError for a model that generates."""
        if self._plan.recipe is None:
            raise ConfigError(
                f'LLM.{call}: this model is run to generate text; make it with LLM(model, task="embed") to use its embeddings'
            )
        return self._plan.recipe

    def _generates(self, call: str) -> None:
        """Raises ConfigError for a model that pools."""
        recipe = self._plan.recipe
        if recipe is not None:
            what, instead = ("embeds", "embed or score") if recipe.kind == "embed" else ("classifies", "classify or score")
            raise ConfigError(
                f"LLM.{call}: this model is run as one that {what}: use LLM.{instead}, "
                'or if it can generate, make it with LLM(model, task="generate")'
            )

    def _kind(self, pooling_task: str | None) -> str:
        recipe = self._recipe("encode")
        if pooling_task is None:
            return recipe.text_kind
        if pooling_task == "score":
            raise ConfigError("pooling_task=score: use LLM.score")
        if pooling_task not in _TASKS:
            raise ConfigError(
                f"pooling_task {pooling_task!r} is not supported{nearest(str(pooling_task), _TASKS)}; for now: {', '.join(_TASKS)}"
            )
        if recipe.kind != _TASKS[pooling_task]:
            what, instead = (
                ("is a classifier", "classify") if recipe.kind == "classify" else ("makes embeddings and has no classifier", "embed")
            )
            raise ConfigError(f"pooling_task={pooling_task}: this model {what}; use LLM.{instead} or LLM.score")
        return pooling_task

    def _encoder(
        self, limit: int | None, more: Mapping[str, Any] | None, prompt_name: str | None, prefix: str | None, side: str = ""
    ) -> TextEncoder:
        recipe, longest = self._recipe("encode"), self._plan.config.max_model_len
        if prompt_name is not None and prefix is not None:
            raise ConfigError("prompt_name and prefix are two ways to say what goes before a text; leave one of the two out")
        prefix = recipe.prefix_of(prompt_name, prefix)
        limit, cut = truncation(limit, dict(more or {}), longest)
        if limit is None:
            return TextEncoder(self.tokenizer, recipe, longest, prefix=prefix, side=side)
        if self.tokenizer is None:
            raise ConfigError("truncation needs a tokenizer, and there is none (skip_tokenizer_init): cut the token ids")
        cut = cut or (self._plan.tokenizer_source.read_json("tokenizer_config.json") or {}).get("truncation_side")
        return TextEncoder(self.tokenizer, recipe, limit, prefix=prefix, truncate="left" if cut == "left" else "right", side=side)


def _compared(
    one: PoolingRequestOutput[PoolingOutput],
    other: PoolingRequestOutput[PoolingOutput],
    measure: str,
    contrast: Contrast | None = None,
    activate: bool = False,
) -> ScoringRequestOutput:
    """`contrast`: of an image and a text, what makes the score; `activate`: as a probability."""
    error, score = one.error or other.error, ScoringOutput()
    if not error:
        a, b = one.outputs.data.numpy(), other.outputs.data.numpy()
        made = similarity(measure, a, b) if contrast is None else contrast.scores([a], [b], activate=activate)[0]
        score = ScoringOutput(float(made))
    ids = [*one.prompt_token_ids, *other.prompt_token_ids]
    return ScoringRequestOutput(f"{one.request_id}_{other.request_id}", score, ids, error=error)
