"""What a model is used for: text that goes on, a vector of a text, or the scores of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError, ModelError

#: `model_type` of the bidirectional models we have code for; none of them generates.
ENCODERS = frozenset({"bert", "camembert", "modernbert", "nomic_bert", "roberta", "xlm-roberta"})
#: Other spellings of a task, as in vLLM's seed.
ALIASES = {"embedding": "embed"}


def choose_task(task: str, runner: str, convert: str, hf_config: Mapping[str, Any], modules: Sequence[Mapping[str, Any]] | None) -> str:
    """What the settings `task`, `runner` and `convert` come to for a model: "generate", "embed" or "classify".

    What is left open follows from the model: sentence-transformers modules that pool and encoders embed, classes named
    *ForSequenceClassification classify, everything else generates; `runner="pooling"` makes an embedder of that.

    Args:
        task: as in `EngineArgs`; "score" is "classify" with a model that is a classifier, else "embed".
        hf_config: config.json, overrides counted.
        modules: what modules.json lists; None without such a file.

    Raises:
        ConfigError: the settings contradict each other, or ask for text of a model that writes none.
        ModelError: the model cannot do what is asked for.
    """
    task = ALIASES.get(task, task)
    _refuse_contradictions(task, runner, convert)
    if convert in ("embed", "classify") and task in ("auto", "score"):
        task = convert
    own = _own_task(hf_config, modules)
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
    _check(chosen, convert, hf_config, modules, own)
    return chosen


def is_classifier(hf_config: Mapping[str, Any]) -> bool:
    """Whether config.json names a class with a classifier over whole texts."""
    return any(name.endswith("ForSequenceClassification") for name in architectures(hf_config))


def _own_task(hf_config: Mapping[str, Any], modules: Sequence[Mapping[str, Any]] | None) -> str:
    names = architectures(hf_config)
    if any(str(module.get("type", "")).endswith("Pooling") for module in modules or ()):
        return "embed"
    if is_classifier(hf_config):
        return "classify"
    if modules is not None or hf_config.get("model_type") in ENCODERS:
        return "embed"
    if any(name.endswith("RewardModel") for name in names):
        raise ModelError(f"{names[0]} is a reward model, which is not supported yet")
    bare = any(name.endswith("Model") and not name.endswith(("LMHeadModel", "ChatModel")) for name in names)
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


def _check(chosen: str, convert: str, hf_config: Mapping[str, Any], modules: Sequence[Mapping[str, Any]] | None, own: str) -> None:
    kind, names = hf_config.get("model_type"), architectures(hf_config)
    called = names[0] if names else f"a {kind} model"
    if chosen == "generate" and kind in ENCODERS:
        right = "infer score or task=classify" if own == "classify" else "infer embed or task=embed"
        raise ConfigError(f"{called} reads a text in both directions and writes none: use {right}, or another model")
    if chosen == "embed" and own == "classify":
        raise ModelError(f"{called} is a classifier, it makes no embeddings: use infer score or task=classify, or another model")
    if chosen == "classify" and not is_classifier(hf_config):
        right = "infer embed or task=embed" if own == "embed" else "infer generate"
        raise ModelError(f"{called} is no classifier (those are named *ForSequenceClassification): use {right}, or another model")
    if chosen == "embed" and own == "generate" and convert == "none":
        raise ConfigError(f"{called} generates text; convert=none keeps it from being used for embeddings: leave that out")


def architectures(hf_config: Mapping[str, Any]) -> list[str]:
    """The classes that config.json names."""
    found = hf_config.get("architectures")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
