"""Queues: sequences that wait, in the order in which they are to start."""
