"""Task specs of `infer embed` and `infer score`: texts are read, and no text is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ...errors import ConfigError
from .embed import EmbedOptions, EmbedTask
from .pooling import PoolingOptions
from .score import ScoreOptions, ScoreTask
from .spec import Say, TaskSpec
from .token_score import TokenScoreTask

if TYPE_CHECKING:
    from ...build.plan import Plan
    from .protocol import AnyTask

S = TypeVar("S", bound="PoolingSpec")


@dataclass(frozen=True)
class PoolingSpec(TaskSpec):
    """See `TaskSpec`."""

    options: PoolingOptions
    pools: ClassVar[bool] = True

    def settled(self: S, plan: Plan, say: Say) -> S:
        plan.must_pool()
        return self

    def job(self, plan: Plan) -> dict[str, Any]:
        own = {**self.prompts, "truncate": self.options.truncate, **self._own(plan), "recipe": asdict(plan.must_pool())}
        return own | self.options.adapters.fingerprint(plan.config)

    def _own(self, plan: Plan) -> dict[str, Any]:
        """The other options that can change an answer."""
        raise NotImplementedError


@dataclass(frozen=True)
class EmbedSpec(PoolingSpec):
    """`output_format`: see `JobOptions`."""

    options: EmbedOptions
    output_format: str = "jsonl"

    def _make(self, options: EmbedOptions, plan: Plan) -> AnyTask:
        chat = plan.own_chat_template()
        return EmbedTask(options, plan.tokenizer, plan.must_pool(), max_model_len=plan.config.max_model_len, chat=chat)

    def clock(self, plan: Plan, now: datetime) -> dict[str, str]:
        chat = plan.own_chat_template()
        return super().clock(plan, now) | ({} if chat is None else chat.readings(now))

    def _own(self, plan: Plan) -> dict[str, Any]:
        options = self.options
        return {"prefix": self._prefix(plan), "encoding": options.encoding, "embedding_dtype": options.embedding_dtype}

    def defaults(self, plan: Plan) -> dict[str, Any]:
        recipe, options = plan.must_pool(), self.options
        return {
            "embedding": {
                "size": recipe.output_size,
                "dtype": options.embedding_dtype,
                "pooling": "all" if recipe.per_token else recipe.pooling,
                "normalized": recipe.normalize,
                "prefix": self._prefix(plan),
                "similarity": recipe.similarity,
                "truncate": options.truncate,
                "format": self.output_format,
                "encoding": None if options.matrix else options.encoding,
            }
        }

    def matrix(self, plan: Plan) -> tuple[int, Mapping[str, str]] | None:
        if not self.options.matrix:
            return None
        made = self.defaults(plan)["embedding"]
        told = {name: made[name] for name in ("pooling", "normalized", "prefix", "similarity", "truncate")}
        return made["size"], {name: _as_text(value) for name, value in {"model": plan.name, **told}.items()}

    def _prefix(self, plan: Plan) -> str:
        return plan.must_pool().prefix_of(self.options.prompt_name, self.options.prefix)


@dataclass(frozen=True)
class ScoreSpec(PoolingSpec):
    """See `TaskSpec`."""

    options: ScoreOptions

    def _make(self, options: ScoreOptions, plan: Plan) -> AnyTask:
        recipe = plan.must_pool()
        of_tokens = recipe.per_token and recipe.kind == "classify"
        made = TokenScoreTask if of_tokens else ScoreTask
        if of_tokens and (options.query_prefix or options.document_prefix):
            raise ConfigError(f"{plan.source.name} scores the tokens of a text, and knows no queries and documents: leave prefixes out")
        return made(options, plan.tokenizer, recipe, max_model_len=plan.config.max_model_len)

    def _own(self, plan: Plan) -> dict[str, Any]:
        return {"query_prefix": self.options.query_prefix, "document_prefix": self.options.document_prefix}

    def defaults(self, plan: Plan) -> dict[str, Any]:
        recipe, truncate = plan.must_pool(), self.options.truncate
        if recipe.per_token and recipe.kind == "classify":
            return {"scoring": {"by": "tokens", "step_tag_id": recipe.step_tag_id, "activation": recipe.activation, "truncate": truncate}}
        if recipe.kind == "classify":
            return {"scoring": {"by": "cross-encoder", "activation": recipe.activation, "truncate": truncate}}
        made = {"size": recipe.output_size, "pooling": "all" if recipe.per_token else recipe.pooling, "normalized": recipe.normalize}
        return {"scoring": {"by": recipe.similarity, **made, "truncate": truncate}}


def _as_text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
