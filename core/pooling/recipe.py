"""Recipe: how a model's hidden states become a vector, by its files and by the user's settings over them. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ConfigError, nearest
from .contrast import Contrast
from .late import LateInteraction
from .template import PairTemplate

POOLINGS = ("cls", "mean", "last")
#: What vLLM calls the pooling of classifiers that score tokens: all of them, or those at the ends of steps.
TOKEN_POOLINGS = ("ALL", "STEP")


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """A Dense module of sentence-transformers: act(x @ weight^T + bias), and with `residual` x itself is added, or what a second layer
    makes of it where the sizes differ (PyLate). `folder` is where its weights lie ("2_Dense"); "": among the model's own.
    `prefix` is that of its tensors."""

    folder: str
    in_features: int
    out_features: int
    bias: bool
    activation: str  # "identity", "tanh", "relu", "gelu", "silu" or "sigmoid"
    residual: bool = False
    prefix: str = "linear"


@dataclass(frozen=True, slots=True)
class Recipe:
    """The way from a text to its vector: pooling -> dense layers -> first `dimensions` -> normalize; all in float32."""

    kind: str  # "embed" or "classify": what the model's own head is for
    pooling: str  # one of POOLINGS
    normalize: bool
    hidden_size: int
    dense: tuple[DenseSpec, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)  # name -> text put before each text
    default_prompt_name: str | None = None
    lower_case: bool = False
    include_prompt: bool = True  # whether tokens of the prompt take part in mean pooling
    matryoshka: bool | tuple[int, ...] = False  # lengths a vector may be cut to: any, or these
    dimensions: int | None = None  # the run's own choice among them
    max_seq_length: int | None = None  # sentence_bert_config.json's; the model's limit is in EngineConfig.max_model_len
    labels: tuple[str, ...] = ()  # of a classifier, in order
    per_token: bool = False  # each token has a vector or scores, and no text as a whole
    contrast: Contrast | None = None  # it makes vectors of images too, and scores of both
    filled_to: int = 0  # tokens that each text is filled up to, with `padding`; 0: it is not
    padding: int = 0
    late: LateInteraction | None = None  # queries and documents are read as ColBERT reads them
    step_tag_id: int | None = None  # or each token with this id alone: the ends of steps
    activation: str = "identity"  # of a classifier's scores: "identity", "sigmoid" or "softmax"
    tokens: tuple[str, ...] = ()  # of a language model's head whose logits are scores; none: a classifier has weights of its own
    token_ids: tuple[int, ...] = ()  # theirs, once there is a tokenizer
    difference: bool = False  # the score is the logit of the second of two tokens less that of the first
    template: PairTemplate | None = None  # the text around a pair
    similarity: str = "cosine"  # how two embeddings are compared: one of similarity.MEASURES, or MAXSIM of those of tokens

    @property
    def size(self) -> int:
        """Length of a vector before `dimensions` cuts it; for a classifier the number of its labels."""
        if self.kind == "classify":
            return len(self.labels)
        return self.dense[-1].out_features if self.dense else self.hidden_size

    @property
    def reads_head(self) -> bool:
        """True if scores are logits of the language model's own head."""
        return bool(self.tokens or self.token_ids)

    @property
    def output_size(self) -> int:
        """Length of the vectors of a request that asks for no other."""
        return self.dimensions or self.size

    @property
    def text_kind(self) -> str:
        """What is made of a text that is asked for nothing else, one of pooling_request.KINDS."""
        return f"token_{self.kind}" if self.per_token else self.kind

    def side_of(self, prompt_name: str | None) -> str:
        """The side of texts with this prompt, of late interaction; "" of other models."""
        name = self.default_prompt_name if prompt_name is None else prompt_name
        return "" if self.late is None else "query" if name == "query" else "document"

    def prefix_of(self, prompt_name: str | None, prefix: str | None = None) -> str:
        """The text put before texts: `prefix`, or else the prompt of this name, or else the model's default one, if it has one.

        Raises ConfigError for a prompt that it does not have.
        """
        if prefix is not None:
            return prefix
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            there = f"its prompts: {', '.join(self.prompts)}" if self.prompts else "it has none (a prefix can be given)"
            raise ConfigError(f"this model has no prompt {name[:100]!r}{nearest(name[:100], self.prompts)}; {there}")
        return self.prompts[name]

    def wrong_dimensions(self, dimensions: int) -> str:
        """The reason why vectors cannot be cut to so many numbers; empty if they can."""
        if self.kind != "embed":
            return "a classifier's scores are not cut"
        if dimensions == self.size:
            return ""
        if not self.matryoshka:
            return (
                f"this model was not made for other vectors than those of {self.size}: its config.json has neither is_matryoshka nor "
                "matryoshka_dimensions (hf_overrides can set them)"
            )
        if not 1 <= dimensions <= self.size:
            return f"its vectors have {self.size} numbers"
        if not isinstance(self.matryoshka, bool) and dimensions not in self.matryoshka:
            return f"this model was made for {', '.join(map(str, self.matryoshka))}"
        return ""
