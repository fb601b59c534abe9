"""The calls of `LLM` that are about itself and not about prompts: its life, its memory, its counts, its insides. vLLM's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..errors import ConfigError, nearest
from ..fleet.start import start
from .metrics import Metric, metrics_of
from .shared import SharedEngine

if TYPE_CHECKING:
    from ..build.plan import Plan
    from ..engine.protocol import AnyEngine

_Self = TypeVar("_Self", bound="Controls")


class _NoEngine:
    """Stands where an engine was. Whatever is asked of it raises ConfigError."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> NoReturn:
        raise ConfigError(self._why)


class Controls:
    """The calls of `LLM` that are about itself."""

    engine: AnyEngine
    _plan: Plan
    _shared: SharedEngine
    _profiler: Any = None

    # -- its life ------------------------------------------------------------------------------------------------
    def __enter__(self: _Self) -> _Self:
        self._need_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends its processes and gives its memory back; what is not answered is dropped. May be called again. Any other call then
        raises ConfigError. An `LLM` that nothing refers to any longer does the same by itself."""
        self._leave(_NoEngine("this LLM is closed; make another"))

    def sleep(self, level: int = 1) -> None:
        """Gives weights and KV cache back, until `wake_up`. Raises ConfigError while prompts wait for their answers.

        Args:
            level: 1 or 2, as vLLM has them. Here they are the same: weights are read again from their files, which the system
                mostly still has in memory.
        """
        if level not in (1, 2):
            raise ConfigError(f"sleep: level must be 1 or 2, not {level!r}")
        if self.is_sleeping:
            return
        if self.engine.num_unfinished or self._shared.num_enqueued:
            raise ConfigError("sleep: prompts wait for their answers; wait_for_completion, or close their streams, first")
        self._leave(_NoEngine("this LLM sleeps; call wake_up first"))

    def wake_up(self, tags: Sequence[str] | None = None) -> None:
        """Loads what `sleep` gave back. Statistics begin anew, and so does the prefix cache. Does nothing to one that is awake.

        Args:
            tags: which parts to wake, in vLLM; here all of them come back whatever is named.
        """
        self._need_open()
        for tag in [tags] if isinstance(tags, str) else tags or ():
            if tag not in ("weights", "kv_cache"):
                raise ConfigError(f"wake_up: no part is called {tag!r}{nearest(str(tag), ('weights', 'kv_cache'))}")
        if self.is_sleeping:
            self.engine = start(self._plan)
            self._shared.move_to(self.engine)

    @property
    def is_sleeping(self) -> bool:
        """True between `sleep` and `wake_up`."""
        return isinstance(self.engine, _NoEngine) and "sleeps" in self.engine._why

    def _need_open(self) -> None:
        """Raises ConfigError once it is closed."""
        if isinstance(self.engine, _NoEngine) and not self.is_sleeping:
            raise ConfigError(self.engine._why)

    def _leave(self, instead: Any) -> None:
        if not isinstance(self.engine, _NoEngine):
            self.engine.close()
        self.engine = instead
        self._shared.move_to(instead)

    # -- what it keeps and counts ---------------------------------------------------------------------------------
    def reset_prefix_cache(self) -> bool:
        """Forgets cached prefixes, after weights were changed, say. False, and nothing is forgotten, while prompts wait for their
        answers."""
        return self.engine.reset_prefix_cache()

    def get_metrics(self) -> list[Metric]:
        """Counts since it was made, and what it does just now."""
        return metrics_of(self.engine, self._plan.source.name)

    # -- its insides ---------------------------------------------------------------------------------------------
    def apply_model(self, func: Callable[[Any], Any]) -> list[Any]:
        """Calls a function with the model and returns its result in a list of one: only a model in this process can be reached.

        The model is `core/models/decoder.py`'s, or an encoder's, or where it runs in transformers' code that one's wrapper. Raises
        ConfigError where ranks or several engines have it.
        """
        return [func(self._worker("apply_model").model)]

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Calls a method of the runner by its name, or a function with the runner before `args`: a list of one result.

        `timeout` has no effect on what runs in this process. Raises ConfigError as `apply_model`.
        """
        worker = self._worker("collective_rpc")
        if callable(method):
            return [method(worker, *args, **(kwargs or {}))]
        if not isinstance(method, str) or not callable(getattr(worker, method, None)):
            raise ConfigError(f"collective_rpc: the runner has no method {method!r}")
        return [getattr(worker, method)(*args, **(kwargs or {}))]

    def _worker(self, call: str) -> Any:
        config = self._plan.config
        runner = getattr(self.engine, "runner", None)
        if runner is None or config.num_ranks > 1:
            sizes = "tensor_parallel_size, pipeline_parallel_size and data_parallel_size"
            raise ConfigError(f"{call} reaches the model in this process alone; leave {sizes} at 1")
        return runner

    def start_profile(self, profile_prefix: str | None = None) -> None:
        """Begins to record what torch computes in this process. Raises ConfigError if it does already.

        Args:
            profile_prefix: of the file that `stop_profile` writes, a path; None: "infer-profile" in the current folder.
        """
        import torch
        from torch.profiler import ProfilerActivity, profile

        if self._profiler is not None:
            raise ConfigError("start_profile: a profile is being recorded; stop_profile first")
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profiler = profile(activities=activities), Path(profile_prefix or "infer-profile")
        self._profiler[0].start()

    def stop_profile(self) -> Path:
        """Ends recording; writes the trace beside others of its prefix, in Chrome's format, and returns its path."""
        if self._profiler is None:
            raise ConfigError("stop_profile: nothing is recorded; start_profile first")
        (profiler, prefix), self._profiler = self._profiler, None
        profiler.stop()
        number = 0
        while (path := prefix.with_name(f"{prefix.name}-{number}.json")).exists():
            number += 1
        profiler.export_chrome_trace(str(path))
        return path
