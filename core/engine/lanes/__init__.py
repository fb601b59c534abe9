"""Lanes: batches of one engine that are computed at a time."""
