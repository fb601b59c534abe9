"""Intake of an engine: prompts become requests, for `LLM` and jobs alike."""
