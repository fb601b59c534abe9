"""What one command does with records, for whoever runs a job (`job.py`) or only checks its input (`findings.py`).

Work              the command's settings, and a face for both
├── Completions   generate, chat, beam: the model writes
└── Pooling       embed, score: the model only reads (pooling_work.py)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from infer.core.jobs.tasks.completion import TaskOptions
from infer.core.settings.memory import refuse_little_address_space

from .options import IoOptions, engine_args, given_sampling, sampling_params, with_model_defaults
from .prompt_options import Prompts
from .report import set_up_logging

if TYPE_CHECKING:
    from infer.core.build.plan import Plan
    from infer.core.jobs.check import RequestLimits
    from infer.core.jobs.record import Record
    from infer.core.jobs.tasks.base import Task
    from infer.core.settings.args import EngineArgs
    from infer.core.types.beam_params import BeamSearchParams

Say = Callable[[str], None]


class Work(ABC):
    """
    Args:
        io: where records come from and go.

    Attributes:
        command: its name.
        args, origin: the engine's settings and where each came from.
        pools: whether texts are only read.
        now: the job's time, for templates that tell it; None: that of each rendering.

    Raises click.UsageError, ConfigError: all that is wrong with the options is found when a Work is made.
    """

    pools = False
    now: datetime | None = None

    def __init__(self, io: IoOptions, prompts: Prompts) -> None:
        set_up_logging(quiet=io.quiet, verbose=io.verbose)
        refuse_little_address_space()
        self.io = io
        self.prompts = prompts
        self.command = click.get_current_context().command.name or ""
        self.args, self.origin = self.settings(*engine_args())

    def settings(self, args: EngineArgs, origin: dict[str, str]) -> tuple[EngineArgs, dict[str, str]]:
        """The engine's settings as this command needs them."""
        return args, origin

    def learn(self, plan: Plan, say: Say) -> None:  # noqa: B027 (not all want to)
        """Takes over what only the model's files tell; `say` tells the user. Raises ConfigError, ModelError."""

    @abstractmethod
    def make_task(self, plan: Plan, *, warn: Say, fingerprint: str = "", first: Record | None = None) -> Task:
        """After `learn`. `first` is the first record that is a JSON object, where it is known."""

    @abstractmethod
    def limits(self, plan: Plan) -> RequestLimits:
        """What the engine will hold requests to. Raises ConfigError."""

    @abstractmethod
    def job(self) -> dict[str, Any]:
        """What of the command's own options can change an answer, for the fingerprint. After `learn`."""

    def clock(self, plan: Plan, now: datetime) -> dict[str, str]:
        """Times that the templates in use can show at `now`, by format; see `Template.readings`. Raises ConfigError, ModelError."""
        return {} if self.prompts.template is None else self.prompts.template.readings(now)

    @abstractmethod
    def defaults(self) -> dict[str, Any]:
        """What was asked of every record, for --stats: {"sampling": …} or {"embedding": …}."""

    @property
    def max_tokens(self) -> int | None:
        """Output tokens of a record that asks for no number."""
        return None

    def matrix(self, plan: Plan) -> tuple[int, Mapping[str, str]] | None:
        """Length of the vectors, and how they are made, where rows are vectors."""
        return None


class Completions(Work):
    """
    Args:
        make: the task.
        system: what conversations begin with.
        chat: what else of the command's options can change an answer.
        beam: what it searches with, if it does.
    """

    def __init__(
        self,
        io: IoOptions,
        make: Callable[[TaskOptions, Plan], Task],
        prompts: Prompts,
        *,
        system: str | None = None,
        chat: Mapping[str, Any] | None = None,
        beam: BeamSearchParams | None = None,
    ) -> None:
        super().__init__(io, prompts)
        self._make = make
        self._chat = dict(chat or {})
        self.options = TaskOptions(
            defaults=sampling_params() if beam is None else beam.sampling(),
            beam=beam,
            max_tokens_given="max_tokens" in given_sampling(),
            by_priority=self.args.scheduling_policy == "priority",
            system=system,
            strict=io.strict,
            error_format=io.error_format,
            report_cache=io.report_cache,
            **prompts.options(),
        )

    def learn(self, plan: Plan, say: Say) -> None:
        plan.must_generate()
        if self.options.beam is None:
            self.options = with_model_defaults(self.options, plan, say)

    def make_task(self, plan: Plan, *, warn: Say, fingerprint: str = "", first: Record | None = None) -> Task:
        options = replace(self.options, warn=warn, fingerprint=fingerprint, model=plan.name, now=self.now)
        return self._make(options, plan)

    def limits(self, plan: Plan) -> RequestLimits:
        return plan.limits()

    def job(self) -> dict[str, Any]:
        return {**self.prompts.job(), **self._chat, **self._params}

    def clock(self, plan: Plan, now: datetime) -> dict[str, str]:
        told = super().clock(plan, now)
        return told | plan.chat_template(self._chat["chat_template"]).readings(now) if self._chat else told

    def defaults(self) -> dict[str, Any]:
        return {"sampling": self._params}

    @property
    def max_tokens(self) -> int | None:
        return self.options.defaults.max_tokens

    @property
    def _params(self) -> dict[str, Any]:
        return asdict(self.options.beam or self.options.defaults)
