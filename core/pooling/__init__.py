"""Texts in, vectors out: the engine of embeddings, scores and classes. It keeps no KV cache between steps.

request -> window (which texts next) -> runner (one flat batch) -> head (pooling, dense layers, activation) -> Pooled
"""
