"""Layers that models are made of, each with its parameters and its share of ranks."""
