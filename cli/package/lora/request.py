"""`from infer.lora.request import LoRARequest`, as vLLM's examples have it; it is also `infer.LoRARequest`."""

from infer.core.types.adapters import LoRARequest

__all__ = ["LoRARequest"]
