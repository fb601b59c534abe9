"""`infer.ray`: models as callable classes for `ds.map_batches` of Ray Data.

    import infer.ray

    ds.map_batches(infer.ray.Generate, fn_constructor_kwargs={"model": "…", "max_tokens": 64}, concurrency=4, batch_size=512)

They need no Ray: one may be called with rows of pandas, pyarrow, numpy or plain Python. What they have is `infer.core.dataset`'s.
"""

from infer.core.dataset.pooling import Classify, Embed, Score
from infer.core.dataset.writing import Chat, Generate

__all__ = ["Chat", "Classify", "Embed", "Generate", "Score"]
