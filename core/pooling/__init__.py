"""Engine of embeddings, scores and classes: texts in, vectors out. It keeps no KV cache between steps.

request -> window (which texts next) -> runner (one flat batch) -> head (pooling, dense layers, activation) -> Pooled
"""
