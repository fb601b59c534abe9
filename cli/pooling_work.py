"""What `infer embed` and `infer score` do, for `job.py` and `findings.py`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from infer.core.errors import ConfigError

from .embed_options import given_pooling
from .options import IoOptions
from .prompt_options import Prompts
from .sampling_options import given_truncate
from .work import Say, Work

if TYPE_CHECKING:
    from infer.core.build.plan import Plan
    from infer.core.jobs.check import RequestLimits
    from infer.core.jobs.record import Record
    from infer.core.jobs.tasks.base import Task
    from infer.core.pooling.recipe import Recipe
    from infer.core.settings.args import EngineArgs

#: Options of the vectors -> keys of `pooler_config`.
_POOLER = {"pooling": "pooling_type", "normalize": "normalize", "dimensions": "dimensions"}


class Pooling(Work):
    """Texts are read, and nothing is written."""

    pools = True
    #: What the setting `task` must be; "auto" where the user says nothing.
    task: str
    #: What else the setting may be.
    also: tuple[str, ...] = ()

    def __init__(self, io: IoOptions, prompts: Prompts) -> None:
        self.given = given_pooling()
        self.truncate = given_truncate()
        super().__init__(io, prompts)
        for flag, given in (("--redo finish_reason", io.again.finish_reason), ("--report-cache", io.report_cache)):
            if given:
                raise click.UsageError(f"{flag} is about the outputs of a model that writes; leave it out.", click.get_current_context())
        self._recipe: Recipe | None = None

    def settings(self, args: EngineArgs, origin: dict[str, str]) -> tuple[EngineArgs, dict[str, str]]:
        if args.task not in ("auto", self.task, *self.also):
            raise ConfigError(f"task={args.task} contradicts infer {self.command}; leave --task out")
        over = {key: self.given[name] for name, key in _POOLER.items() if name in self.given}
        config = {**(args.pooler_config or {}), **over} or None
        return replace(args, task=self.task, pooler_config=config), origin

    def learn(self, plan: Plan, say: Say) -> None:
        assert plan.recipe is not None
        self._recipe = plan.recipe

    @property
    def recipe(self) -> Recipe:
        """The model's, after `learn`."""
        assert self._recipe is not None
        return self._recipe

    def limits(self, plan: Plan) -> RequestLimits:
        return plan.pooling_limits()

    def job(self) -> dict[str, Any]:
        return {**self.prompts.job(), "truncate": self.truncate, **self.own_job(), "recipe": asdict(self.recipe)}

    @abstractmethod
    def own_job(self) -> dict[str, Any]:
        """What else can change an answer."""

    def _common(self) -> dict[str, Any]:
        """Fields of PoolingOptions."""
        own = {"strict": self.io.strict, "error_format": self.io.error_format, "now": self.now, "truncate": self.truncate}
        return {**self.prompts.options(), **own}


class EmbedWork(Pooling):
    """`infer embed`."""

    task = "embed"
    also = ("embedding",)

    def make_task(self, plan: Plan, *, warn: Say, fingerprint: str = "", first: Record | None = None) -> Task:
        from infer.core.jobs.tasks.embed import EmbedOptions, EmbedTask

        options = EmbedOptions(
            **self._common(),
            warn=warn,
            fingerprint=fingerprint,
            model=plan.name,
            prompt_name=self.given.get("prompt_name"),
            prefix=self.given.get("prefix"),
            encoding=self._encoding,
            embedding_dtype=self.io.embedding_dtype,
            matrix=self._is_matrix,
        )
        return EmbedTask(options, plan.tokenizer, self.recipe, max_model_len=plan.config.max_model_len)

    def own_job(self) -> dict[str, Any]:
        return {
            "prefix": self._prefix(),
            "encoding": self._encoding,
            "embedding_dtype": self.io.embedding_dtype,
        }

    def defaults(self) -> dict[str, Any]:
        recipe = self._recipe
        if recipe is None:  # nothing was embedded
            return {"embedding": {}}
        return {
            "embedding": {
                "size": recipe.output_size,
                "dtype": self.io.embedding_dtype,
                "pooling": recipe.pooling,
                "normalized": recipe.normalize,
                "prefix": self._prefix(),
                "similarity": recipe.similarity,
                "truncate": self.truncate,
                "format": self.io.output_format,
                "encoding": None if self._is_matrix else self._encoding,
            }
        }

    def matrix(self, plan: Plan) -> tuple[int, Mapping[str, str]] | None:
        if not self._is_matrix:
            return None
        made = self.defaults()["embedding"]
        told = {name: made[name] for name in ("pooling", "normalized", "prefix", "similarity", "truncate")}
        return self.recipe.output_size, {name: _as_text(value) for name, value in {"model": plan.name, **told}.items()}

    def _prefix(self) -> str:
        from infer.core.jobs.tasks.pooling import prefix_of

        return prefix_of(self.recipe, prompt_name=self.given.get("prompt_name"), prefix=self.given.get("prefix"))

    @property
    def _encoding(self) -> str:
        return str(self.given.get("encoding") or "float")

    @property
    def _is_matrix(self) -> bool:
        return self.io.output_format != "jsonl"


class ScoreWork(Pooling):
    """`infer score`."""

    task = "score"
    also = ("classify", "embed", "embedding")

    def make_task(self, plan: Plan, *, warn: Say, fingerprint: str = "", first: Record | None = None) -> Task:
        from infer.core.jobs.tasks.score import ScoreOptions, ScoreTask

        options = ScoreOptions(**self._common(), warn=warn, fingerprint=fingerprint, model=plan.name, **self.own_job())
        return ScoreTask(options, plan.tokenizer, self.recipe, max_model_len=plan.config.max_model_len)

    def own_job(self) -> dict[str, Any]:
        return {name: self.given.get(name) for name in ("query_prefix", "document_prefix")}

    def defaults(self) -> dict[str, Any]:
        recipe = self._recipe
        if recipe is None:
            return {"scoring": {}}
        if recipe.kind == "classify":
            return {"scoring": {"by": "cross-encoder", "activation": recipe.activation, "truncate": self.truncate}}
        made = {"size": recipe.output_size, "pooling": recipe.pooling, "normalized": recipe.normalize}
        return {"scoring": {"by": recipe.similarity, **made, "truncate": self.truncate}}


def _as_text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
