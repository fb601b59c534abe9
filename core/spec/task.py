"""The task of a model: text that goes on, a vector of a text, or the scores of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError, ModelError
from .model_spec import ModelSpec

#: Other spellings of a task, as in vLLM.
ALIASES = {"embedding": "embed", "reward": "classify"}


def choose_task(
    task: str,
    runner: str,
    convert: str,
    spec: ModelSpec,
    modules: Sequence[Mapping[str, Any]] | None,
    *,
    scores_tokens: bool = False,
) -> str:
    """The use of a model by the settings `task`, `runner` and `convert`: "generate", "embed" or "classify".

    What is left open follows from the model: sentence-transformers modules that pool and encoders embed, classes named
    *ForSequenceClassification classify, everything else generates; `runner="pooling"` makes an embedder of that.

    Args:
        task: as in `EngineArgs`; "score" is "classify" with a model that is a classifier, else "embed".
        spec: the model's.
        modules: what modules.json lists; None without such a file.
        scores_tokens: the settings name tokens whose logits are scores: a language model is a classifier by them.

    Raises:
        ConfigError: the settings contradict each other, or ask for text of a model that writes none.
        ModelError: the model cannot do what is asked for.
    """
    task = ALIASES.get(task, task)
    _refuse_contradictions(task, runner, convert)
    if convert in ("embed", "classify") and task in ("auto", "score"):
        task = convert
    own = "classify" if scores_tokens and not spec.is_encoder else _own_task(spec, modules)
    if task == "score":
        chosen = "classify" if own == "classify" else "embed"
    elif task != "auto":
        chosen = task
    elif runner == "generate":
        chosen = "generate"
    elif runner == "pooling":
        chosen = "embed" if own == "generate" else own
    else:
        chosen = own
    _check(chosen, convert, spec, own)
    return chosen


def _own_task(spec: ModelSpec, modules: Sequence[Mapping[str, Any]] | None) -> str:
    names = spec.architectures
    if any(str(module.get("type", "")).endswith("Pooling") for module in modules or ()):
        return "embed"
    if spec.is_classifier:
        return "classify"
    if modules is not None or spec.is_encoder:
        return "embed"
    bare = any(name.endswith("Model") and not name.endswith(("LMHeadModel", "ChatModel", "MTModel")) for name in names)
    return "embed" if bare else "generate"


def _refuse_contradictions(task: str, runner: str, convert: str) -> None:
    pools = task in ("embed", "classify", "score")
    if runner == "generate" and pools:
        raise ConfigError(f"task={task} contradicts runner=generate; leave one of the two out")
    if runner == "pooling" and task == "generate":
        raise ConfigError("task=generate contradicts runner=pooling; leave one of the two out")
    if convert not in ("embed", "classify"):
        return
    if runner == "generate" or task == "generate":
        raise ConfigError(f"convert={convert} contradicts {'task' if task == 'generate' else 'runner'}=generate; leave one of the two out")
    if task in ("embed", "classify") and task != convert:
        raise ConfigError(f"convert={convert} contradicts task={task}; leave one of the two out")


def _check(chosen: str, convert: str, spec: ModelSpec, own: str) -> None:
    called = spec.architectures[0] if spec.architectures else f"a {spec.model_type} model"
    if chosen == "generate" and spec.is_encoder:
        right = "infer classify, infer score or task=classify" if own == "classify" else "infer embed or task=embed"
        raise ConfigError(f"{called} reads a text in both directions and writes none: use {right}, or another model")
    if chosen == "embed" and own == "classify":
        raise ModelError(f"{called} is a classifier, it makes no embeddings: use infer classify or infer score, or another model")
    if chosen == "classify" and own != "classify" and not spec.is_classifier:
        right = "infer embed or task=embed" if own == "embed" else "infer generate"
        raise ModelError(f"{called} is not a classifier (those are named *ForSequenceClassification): use {right}, or another model")
    if chosen == "embed" and own == "generate" and convert == "none":
        raise ConfigError(f"{called} generates text; convert=none keeps it from being used for embeddings: leave that out")
