"""The Python class: `LLM` and its calls, with vLLM's names."""
