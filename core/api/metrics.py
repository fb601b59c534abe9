"""The engine's counts as metrics, each with a name, labels and a value, as vLLM's class gives them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..engine.protocol import AnyEngine


@dataclass(frozen=True)
class Metric:
    name: str
    labels: dict[str, str] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class Counter(Metric):
    """Only grows, as long as the engine is the same."""

    value: int


@dataclass(frozen=True)
class Gauge(Metric):
    """May rise and fall."""

    value: float


def metrics_of(engine: AnyEngine, model: str) -> list[Metric]:
    """Names are vLLM's where it has one, with "infer:" before them in place of its own."""
    stats, labels = engine.stats, {"model_name": model}
    counted = {
        "prompt_tokens": stats.num_prompt_tokens,
        "generation_tokens": stats.num_output_tokens,
        "prefix_cache_hits": stats.num_cached_tokens,
        "prefix_cache_queries": stats.num_prompt_tokens,
        "num_preemptions": stats.num_preemptions,
        "engine_steps": stats.num_steps,
    }
    waiting = engine.num_waiting
    measured = {
        "num_requests_running": stats.num_running if engine.num_unfinished else 0,
        "num_requests_waiting": waiting,
        "kv_cache_usage_perc": stats.kv_usage if engine.num_unfinished else 0.0,
    }
    counters = [Counter(f"infer:{name}", value, labels=labels) for name, value in counted.items()]
    gauges = [Gauge(f"infer:{name}", value, labels=labels) for name, value in measured.items()]
    return [*counters, *gauges]
