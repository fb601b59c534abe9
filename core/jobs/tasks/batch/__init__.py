"""`infer batch`: OpenAI Batch lines of any url that the model can answer, each by the task of its url."""

from .task import BatchTask

__all__ = ["BatchTask"]
