"""Encoders with a decoder that attends to what they give."""
