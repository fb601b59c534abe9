"""Attention of all heads over one latent a token, of which values are a part."""
