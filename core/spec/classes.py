"""The use of hidden states that config.json states: a classifier's labels and activation, and the lengths of vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ModelError
from .decoder import REWARD, SCORE, TOKEN_SCORE
from .model_spec import ModelSpec
from .stack import ClassifierSpec

_ACTIVATIONS = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax"}


#: The token at the ends of steps, by model_type, as published ("<extra_0>").
_STEP_TAGS = {"qwen2": 151651}


def head_of(spec: ModelSpec) -> ClassifierSpec | None:
    """The layers of the classifier of a model that has a stack; None: it has none. Raises ModelError for a reward model's that is not
    known."""
    if spec.is_encoder:
        return spec.need_stack().classifier
    if not spec.is_reward:
        return TOKEN_SCORE if spec.labels_tokens else SCORE
    if spec.model_type not in _STEP_TAGS:
        raise ModelError(f"{spec.architectures[0]} is a reward model whose head is not known; supported: Qwen2's")
    return REWARD


def step_tag_of(spec: ModelSpec) -> int | None:
    """The token at whose positions a process reward model's scores are meant; None: at all, or nothing says which."""
    return _STEP_TAGS.get(spec.model_type) if spec.rewards_steps else None


def labels_of(spec: ModelSpec) -> tuple[str, ...]:
    """The labels in order of their number; "LABEL_0"... where only their number is stated, two where nothing is, as in transformers.

    Raises ModelError for labels that are not numbered from 0.
    """
    hf_config = spec.config
    if tokens := tokens_of(spec):
        return tokens[1:] if is_difference(spec) else tokens
    names = hf_config.get("id2label")
    if names:
        numbers = {int(key): str(name) for key, name in names.items()} if isinstance(names, Mapping) and _numbered(names) else {}
        if sorted(numbers) != list(range(len(names))) or not all(isinstance(name, (str, int)) for name in names.values()):
            raise ModelError(f"config.json: id2label does not number labels from 0: {names!r}")
        return tuple(numbers[i] for i in range(len(numbers)))
    count = hf_config.get("num_labels", 1 if spec.is_reward and not spec.rewards_steps else 2)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ModelError(f"config.json: num_labels is {count!r}, not a number of labels")
    return tuple(f"LABEL_{i}" for i in range(count))


def tokens_of(spec: ModelSpec) -> tuple[str, ...]:
    """The tokens whose logits are scores (`classifier_from_token`, as vLLM calls it); empty: its classifier has weights of its own.

    Raises ModelError for a model without a head that writes.
    """
    found = spec.config.get("classifier_from_token")
    if not found:
        return ()
    if not isinstance(found, (list, tuple)) or not all(isinstance(token, str) and token for token in found):
        raise ModelError(f"config.json: classifier_from_token is {found!r}, not a list of tokens")
    if spec.is_encoder or spec.stack is None:
        raise ModelError(f"config.json: classifier_from_token is for language models in our code, which {spec.model_type} is not")
    return tuple(found)


def is_difference(spec: ModelSpec) -> bool:
    """True if the score is the logit of the second token less that of the first. Raises ModelError for another `method`."""
    method, count = spec.config.get("method"), len(tokens_of(spec))
    known = ("from_2_way_softmax", "no_post_processing")
    if method is not None and method not in known:
        raise ModelError(f"config.json: method {method!r} (of classifier_from_token) is not supported; supported: {', '.join(known)}")
    if method == known[0] and count != 2:
        raise ModelError(f"config.json: method {method!r} needs two tokens in classifier_from_token, not {count}")
    return method == known[0]


def activation_of(spec: ModelSpec, saved: Mapping[str, Any], num_labels: int) -> str:
    """The function that turns scores into probabilities: "identity", "sigmoid" or "softmax".

    `problem_type` decides, then sentence-transformers' `activation_fn` (in config.json, or in `saved`, its own file), then the
    number of labels: one is a sigmoid, more are a softmax. Raises ModelError for an activation that is none of the three.
    """
    hf_config = spec.config
    if spec.is_reward and num_labels < 2:  # a reward has no bounds
        return "identity"
    by_number = "sigmoid" if num_labels < 2 else "softmax"
    problem = hf_config.get("problem_type")
    if problem:
        known = {"regression": "identity", "single_label_classification": by_number, "multi_label_classification": "sigmoid"}
        if problem not in known:
            raise ModelError(f"config.json: problem_type {problem!r} is not supported; supported: {', '.join(known)}")
        return known[problem]
    inner = hf_config.get("sentence_transformers")
    name = inner.get("activation_fn") if isinstance(inner, Mapping) else None
    name = name or hf_config.get("sbert_ce_default_activation_function") or saved.get("activation_fn")
    if not name:
        return by_number
    if activation_class(name) not in _ACTIVATIONS:
        raise ModelError(f"config.json: activation_fn {name!r} is not supported; supported: torch.nn's {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[activation_class(name)]


def pooling_of(spec: ModelSpec) -> str:
    """The token whose hidden state the classifier reads, or "mean". Raises ModelError for another kind of pooling."""
    known = ("cls", "mean") if spec.is_encoder else ("last",)
    if spec.classifier_pooling not in known:
        raise ModelError(f"config.json: classifier_pooling {spec.classifier_pooling!r} is not supported; supported: {', '.join(known)}")
    return spec.classifier_pooling


def _numbered(names: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, int) or (isinstance(key, str) and key.isdecimal()) for key in names)


def activation_class(name: Any) -> str:
    """The last part of the dotted name of a class of torch.nn ("torch.nn.modules.activation.Tanh" -> "Tanh"), else ""."""
    return name.rpartition(".")[2] if isinstance(name, str) and name.startswith("torch.nn.") else ""


def lengths_of(spec: ModelSpec) -> bool | tuple[int, ...]:
    """The lengths that a vector may be cut to; true: any, false: none but its own. Raises ModelError."""
    lengths = spec.config.get("matryoshka_dimensions")
    if lengths is None or lengths == []:
        return spec.config.get("is_matryoshka") is True
    if not isinstance(lengths, (list, tuple)) or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in lengths):
        raise ModelError(f"config.json: matryoshka_dimensions is {lengths!r}, not a list of lengths")
    return tuple(lengths)
