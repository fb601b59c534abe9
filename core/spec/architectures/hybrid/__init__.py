"""Decoders with layers that keep a state of fixed size, beside attention or without any."""
