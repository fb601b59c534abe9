"""Decoders with root-mean-square norms: Llama and what followed it."""
