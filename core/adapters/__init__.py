"""LoRA adapters: their files, and what is held of them."""
