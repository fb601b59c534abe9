"""`infer.prompt_adapter`: where scripts written for vLLM look for `PromptAdapterRequest`."""
