"""`infer.lora`: where scripts written for vLLM look for `LoRARequest`."""
