"""`from infer.prompt_adapter.request import PromptAdapterRequest`, as vLLM has it; it is also `infer.PromptAdapterRequest`."""

from infer.core.types.adapters import PromptAdapterRequest

__all__ = ["PromptAdapterRequest"]
