"""Decoders with norms of mean and variance (LayerNorm): what came before Llama, and what kept to it."""
