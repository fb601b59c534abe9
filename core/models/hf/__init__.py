"""Architectures that have no file of ours, through transformers' model classes and our paged attention."""
