"""Grammars: what an output must look like, and which tokens may come next."""
