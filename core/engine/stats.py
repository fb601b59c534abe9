"""What an engine counts while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EngineStats:
    """Totals since the engine was made. Prompt tokens count once their request has its first output token."""

    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    """Prompt tokens not computed because the prefix cache had them."""
    num_steps: int = 0
    num_preemptions: int = 0
    kv_usage: float = 0.0
    """Share of the KV blocks in use after the last step, 0 to 1."""
    peak_kv_usage: float = 0.0
    num_running: int = 0
    first_token_at: float | None = None
    """time.monotonic() of the first drawn token."""
