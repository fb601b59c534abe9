"""Trace of a run: one JSON object a second, of speeds, KV use and queues."""

from __future__ import annotations

import time
from typing import Any

from ..stats import JobStats


class Trace:
    """Makes the lines; speeds are those since the line before."""

    def __init__(self, stats: JobStats) -> None:
        self._stats = stats
        self._last: tuple[float, int, int] | None = None

    def line(self) -> dict[str, Any]:
        """The run now. `t` is in seconds since the process began, `time` since 1970; tokens count as they are computed."""
        stats, engine = self._stats, self._stats.engine
        now = time.monotonic()
        prompt = engine.num_prompt_tokens if engine else 0
        output = stats.num_texts - stats.resumed_texts if stats.pools else engine.num_output_tokens if engine else 0
        then, *before = self._last or (now, prompt, output)
        seconds = now - then
        speeds = [round((count - old) / seconds, 1) if seconds > 0 else 0.0 for count, old in zip((prompt, output), before, strict=True)]
        self._last = now, prompt, output
        told: dict[str, Any] = {
            "t": round(now - stats.started_at, 3),
            "time": round(time.time(), 3),
            "attempt": stats.attempts,
            "records": stats.num_records,
            "failed": stats.num_failed,
            "prompt_tokens": prompt,
            "texts" if stats.pools else "output_tokens": output,
            "prompt_tokens_per_s": speeds[0],
            "texts_per_s" if stats.pools else "output_tokens_per_s": speeds[1],
            "running": engine.num_running if engine else 0,
            "waiting": stats.num_waiting,
            "open": stats.num_open,
            "held": stats.num_held,
            "steps": engine.num_steps if engine else 0,
        }
        if not stats.pools:
            told |= {"kv_usage": round(engine.kv_usage, 4) if engine else 0.0, "preemptions": engine.num_preemptions if engine else 0}
        return told
