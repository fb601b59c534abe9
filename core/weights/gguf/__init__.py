"""GGUF: a model in one file, seen as a Hugging Face folder."""
