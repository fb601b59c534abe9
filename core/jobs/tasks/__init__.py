"""Tasks: the fields a command reads of a record and the row it answers, one file a task."""

from .base import RecordOptions, Task
from .chat import ChatTask
from .completion import CompletionOptions, CompletionTask
from .generate import GenerateTask
from .pending import Pending

__all__ = ["ChatTask", "CompletionOptions", "CompletionTask", "GenerateTask", "Pending", "RecordOptions", "Task"]
