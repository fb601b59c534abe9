"""LoRA of a step's rows: see rows.py."""
