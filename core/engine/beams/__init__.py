"""Beams of the engine: sequences of one request that share blocks and go on together."""
