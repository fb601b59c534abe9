"""Weights and small files of a model: found, fetched, read, and put into parameters."""
