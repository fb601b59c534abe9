"""Weights in groups: their layout and their kernel."""
