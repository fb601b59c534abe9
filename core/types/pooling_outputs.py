"""Outputs of `LLM.encode`, `embed`, `classify` and `score`. The names and fields are vLLM's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import RecordError

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, eq=False)
class PoolingOutput:  # noqa: PLW1641 (nothing that compares by a tensor is hashed)
    """The data of one prompt: float32 on the CPU, [size]; [tokens, size] where the pooling_task is of tokens; empty after an
    error."""

    data: torch.Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PoolingOutput) and self.data.shape == other.data.shape and bool((self.data == other.data).all())

    @property
    def embedding(self) -> list[float]:
        """The data as a list, as `encode` gave it in vLLM's first versions."""
        return list(self.data.tolist())


@dataclass(slots=True, repr=False)
class EmbeddingOutput:
    """The vector of one prompt."""

    embedding: list[float]

    def __repr__(self) -> str:
        return f"EmbeddingOutput(hidden_size={self.hidden_size})"

    @property
    def hidden_size(self) -> int:
        """Length of the vector."""
        return len(self.embedding)


@dataclass(slots=True)
class ClassificationOutput:
    """The scores of one prompt, one a label: probabilities, unless the model's activation is another or was left out."""

    probs: list[float]

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.probs)


@dataclass(slots=True)
class LabelOutput(ClassificationOutput):
    """The labels that a language model was asked to choose from. `probs` are in the order of `labels`; after an error all is empty.

    See `LabelScores` of `probs` and `label_mass`.
    """

    labels: tuple[str, ...] = ()
    label: str = ""
    """The likeliest."""
    logprobs: list[float] = field(default_factory=list)
    """Of each label, that the model writes it after the prompt."""
    label_mass: float = 0.0


@dataclass(slots=True)
class ScoringOutput:
    """The score of two texts: a cross-encoder's score, or the cosine of two embeddings; NaN after an error."""

    score: float = math.nan


Out = TypeVar("Out")


@dataclass(slots=True)
class PoolingRequestOutput(Generic[Out]):
    """The answer to one prompt, or its `error`: then `outputs` is empty."""

    request_id: str
    outputs: Out
    prompt_token_ids: list[int]
    num_cached_tokens: int = 0
    finished: bool = True
    error: RecordError | None = None

    def _as(self, kind: type[Any], outputs: Any) -> Any:
        return kind(self.request_id, outputs, self.prompt_token_ids, self.num_cached_tokens, self.finished, self.error)


class EmbeddingRequestOutput(PoolingRequestOutput[EmbeddingOutput]):
    """The output of `LLM.embed` for a prompt."""

    @classmethod
    def from_base(cls, output: PoolingRequestOutput[PoolingOutput]) -> EmbeddingRequestOutput:
        """Of what `LLM.encode` gave. Raises ValueError unless it is one vector."""
        made: EmbeddingRequestOutput = output._as(cls, EmbeddingOutput(_vector(output)))
        return made


class ClassificationRequestOutput(PoolingRequestOutput[ClassificationOutput]):
    """The output of `LLM.classify` for a prompt."""

    @classmethod
    def from_base(cls, output: PoolingRequestOutput[PoolingOutput]) -> ClassificationRequestOutput:
        """Of what `LLM.encode` gave. Raises ValueError unless it is one vector."""
        made: ClassificationRequestOutput = output._as(cls, ClassificationOutput(_vector(output)))
        return made


class LabelRequestOutput(PoolingRequestOutput[LabelOutput]):
    """The output of `LLM.classify` with labels for a prompt."""


class ScoringRequestOutput(PoolingRequestOutput[ScoringOutput]):
    """The output of `LLM.score` for a pair. `prompt_token_ids`: of the pair; of two embeddings those of one after those of the other."""

    @classmethod
    def from_base(cls, output: PoolingRequestOutput[PoolingOutput]) -> ScoringRequestOutput:
        """Of what `LLM.encode` gave. Raises ValueError unless it is one number."""
        numbers = output.outputs.data.flatten().tolist()
        if output.error is None and len(numbers) != 1:
            raise ValueError(f"a score is one number, not {len(numbers)}")
        made: ScoringRequestOutput = output._as(cls, ScoringOutput(numbers[0]) if output.error is None else ScoringOutput())
        return made


def _vector(output: PoolingRequestOutput[PoolingOutput]) -> list[float]:
    data = output.outputs.data
    if output.error is None and data.ndim != 1:
        raise ValueError(f"one vector was expected, not a tensor of {data.ndim} dimensions")
    return [] if output.error is not None else list(data.tolist())
