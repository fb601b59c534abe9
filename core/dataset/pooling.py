"""`Embed`, `Score` and `Classify`: the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, RecordError
from ..jobs.output.sinks.vectors import DTYPES, decoded_dtype
from ..jobs.tasks.classify.labels import LabelOptions
from ..jobs.tasks.classify.spec import ClassifySpec
from ..jobs.tasks.embed import EmbedOptions
from ..jobs.tasks.pooling_spec import EmbedSpec, ScoreSpec
from ..jobs.tasks.score import ScoreOptions
from ..text.fitting import SIDES
from ..text.labels import checked
from ..types.params import scoring_params
from . import shapes
from .arguments import template_of
from .transform import Transform

if TYPE_CHECKING:
    from ..build.plan import Plan
    from ..jobs.tasks.adapters.declared import Adapters
    from ..jobs.tasks.spec import TaskSpec
    from ..settings.args import EngineArgs


class Embed(Transform):
    """Embeds the texts of rows (`input` or `text`), as `infer embed` does. See `Transform`.

    Args:
        prompt_field, template, literal_special_tokens, strict: see `Generate`.
        prompt_name, prefix: what goes before texts: a prompt of the model's, or this text; None: its default one.
        truncate: the end that is cut off texts that are too long, "left" or "right"; None: they are errors.
        embedding_dtype: "float32", "float16", "int8" or "binary".
        settings: see `Transform`; `pooler_config` says how vectors are made.
    """

    def __init__(
        self,
        model: str,
        *,
        prompt_field: str | None = None,
        template: str | None = None,
        literal_special_tokens: bool = False,
        strict: bool = False,
        prompt_name: str | None = None,
        prefix: str | None = None,
        truncate: str | None = None,
        embedding_dtype: str = "float32",
        **settings: Any,
    ) -> None:
        if embedding_dtype not in DTYPES:
            raise ConfigError(f"embedding_dtype must be one of {', '.join(DTYPES)}, not {embedding_dtype!r}")
        self._options = EmbedOptions(
            prompt_field=prompt_field,
            template=template_of(template, prompt_field),
            literal_special_tokens=literal_special_tokens,
            strict=strict,
            prompt_name=prompt_name,
            prefix=prefix,
            truncate=_side(truncate),
            embedding_dtype=embedding_dtype,
        )
        super().__init__(model, **settings)

    def _with_settings(self, args: EngineArgs) -> EngineArgs:
        return replace(args, task="embed")

    def _spec(self, adapters: Adapters) -> TaskSpec:
        return EmbedSpec(replace(self._options, adapters=adapters), {})

    def _answer(self, plan: Plan, spec: TaskSpec) -> Mapping[str, Any]:
        dtype = self._options.embedding_dtype
        return shapes.embed("float32" if dtype == "float16" else decoded_dtype(dtype).name)


class Score(Transform):
    """Scores the pairs of texts of rows (`query` and `documents`, `text_1` and `text_2`), as `infer score` does. See `Transform`.

    Args:
        literal_special_tokens, strict, truncate: see `Embed`.
        query_prefix, document_prefix: what goes before either side; None: the model's own prompts.
    """

    def __init__(
        self,
        model: str,
        *,
        literal_special_tokens: bool = False,
        strict: bool = False,
        truncate: str | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        **settings: Any,
    ) -> None:
        self._options = ScoreOptions(
            literal_special_tokens=literal_special_tokens,
            strict=strict,
            truncate=_side(truncate),
            query_prefix=query_prefix,
            document_prefix=document_prefix,
        )
        super().__init__(model, **settings)

    def _with_settings(self, args: EngineArgs) -> EngineArgs:
        return replace(args, task="score")

    def _spec(self, adapters: Adapters) -> TaskSpec:
        return ScoreSpec(replace(self._options, adapters=adapters), {})

    def _answer(self, plan: Plan, spec: TaskSpec) -> Mapping[str, Any]:
        return shapes.TOKEN_SCORE if plan.must_pool().per_token else shapes.SCORE


class Classify(Transform):
    """Labels the texts of rows, as `infer classify` does: by a classifier's own labels, or by a language model's choice. See `Transform`.

    Args:
        prompt_field, template, literal_special_tokens, strict: see `Generate`.
        labels: what a language model chooses from, where a row has no `labels` of its own.
        calibration_prompt: a prompt that asks the same about nothing: what labels have after it is taken off.
        chat: a prompt that is text becomes a user message; `system` goes before it.
        threshold: of a classifier whose labels do not exclude each other.
        truncate: see `Embed`.
    """

    def __init__(
        self,
        model: str,
        *,
        prompt_field: str | None = None,
        template: str | None = None,
        literal_special_tokens: bool = False,
        strict: bool = False,
        labels: Sequence[str] = (),
        calibration_prompt: str | None = None,
        chat: bool = False,
        system: str | None = None,
        threshold: float | None = None,
        truncate: str | None = None,
        **settings: Any,
    ) -> None:
        self._truncate, self._threshold = _side(truncate), threshold
        cut = {} if truncate is None else {"truncate_prompt_tokens": -1, "truncation_side": truncate}
        self._options = LabelOptions(
            prompt_field=prompt_field,
            template=template_of(template, prompt_field),
            literal_special_tokens=literal_special_tokens,
            strict=strict,
            system=system,
            defaults=scoring_params(**cut),
            by_priority=settings.get("scheduling_policy") == "priority",
            labels=_labels(labels),
            calibration_prompt=calibration_prompt,
            as_chat=chat,
        )
        super().__init__(model, **settings)

    def _spec(self, adapters: Adapters) -> TaskSpec:
        options = replace(self._options, adapters=adapters)
        return ClassifySpec(options, {}, self._truncate, self._threshold, lambda plan: plan.chat_template(None))

    def _answer(self, plan: Plan, spec: TaskSpec) -> Mapping[str, Any]:
        return shapes.LABELS if plan.recipe is None else shapes.CLASSIFIER


def _side(truncate: str | None) -> str | None:
    if truncate is not None and truncate not in SIDES:
        raise ConfigError(f"truncate must be {' or '.join(SIDES)}, or None, not {truncate!r}")
    return truncate


def _labels(labels: Sequence[str]) -> tuple[str, ...]:
    if not labels:
        return ()
    try:
        return tuple(checked(labels))
    except RecordError as error:
        raise ConfigError(str(error)) from None
