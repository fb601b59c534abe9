"""The settings of speculation, as part of `EngineArgs`, and what they mean together."""

# ruff: noqa: RUF009 (the defaults are fields, made by `setting`)

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ..errors import ConfigError, nearest
from ..spec.model_spec import ModelSpec
from .config import Caution
from .setting import setting

#: Tokens that must have come before in the same order for a draft from a sequence's own text, and that are compared at most.
SHORTEST, LONGEST = 2, 16
#: Drafts of a sequence in a step where the number is not given: always, and where as many as pay are made.
DRAFTS, MOST_DRAFTS = 7, 15

#: Ways of vLLM's `speculative_config` -> ours; the others it has.
_METHODS = {"ngram": "ngram", "suffix": "ngram", "draft_model": "draft"}
_OTHER_METHODS = ("eagle", "eagle3", "medusa", "mlp_speculator", "mtp", "ngram_gpu")
_NUMBERS = ("num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max")


def speculative_config(value: dict[str, Any]) -> str:
    """The fault of a `speculative_config` in words that follow its name, or ""."""
    method = value.get("method")
    if method in _OTHER_METHODS:
        return f"method={method} is not supported yet; for now: {', '.join(_METHODS)}"
    if method not in _METHODS:
        return (
            f"needs a method, one of {', '.join(_METHODS)}"
            if method is None
            else f"has no method {method!r}{nearest(str(method), _METHODS)}"
        )
    for name, given in value.items():
        if name == "method":
            continue
        if name == "model":
            if not isinstance(given, str) or not given:
                return f"model must be a text, not {given!r}"
            continue
        if name not in _NUMBERS:
            return f"has no {name!r}{nearest(name, ('method', 'model', *_NUMBERS))}"
        if not isinstance(given, int) or isinstance(given, bool) or given < 1:
            return f"{name} must be an integer of at least 1, not {given!r}"
    if value.get("prompt_lookup_min", SHORTEST) > value.get("prompt_lookup_max", max(LONGEST, value.get("prompt_lookup_min", 0))):
        return "prompt_lookup_min is above prompt_lookup_max"
    return ""


_speculation = partial(setting, group="speculation", no_effect=("pooling",))


@dataclass(kw_only=True)
class SpeculationArgs:
    """See `EngineArgs`."""

    speculation: str = _speculation(
        "auto",
        "Guess tokens and compute them with the one before; those that are then drawn are kept, so no output changes. ngram: they are "
        "copied from where the same words stood before in the record's prompt or output; auto: the same on CPUs, in steps of few "
        "sequences, as far as it pays in this job; draft: --speculative-model makes them.",
        choices=("auto", "off", "ngram", "draft"),
    )
    speculative_model: str | None = _speculation(None, "Smaller model of the same tokens that makes the guesses; with --speculation draft.")
    num_speculative_tokens: int | None = _speculation(None, "Most tokens guessed of a sequence in a step.", low=1, high=255)
    speculative_config: dict[str, Any] | None = _speculation(
        None,
        'The same as JSON with vLLM\'s names, such as {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}.',
        rule=speculative_config,
    )


class _Args(Protocol):
    speculation: str
    speculative_model: str | None
    num_speculative_tokens: int | None
    speculative_config: dict[str, Any] | None
    tensor_parallel_size: int
    pipeline_parallel_size: int
    model_impl: str


def choose_speculation(args: _Args, spec: ModelSpec, *, kind: str, pools: bool, notes: list[str]) -> dict[str, Any]:
    """Fields of `EngineConfig`. Raises ConfigError where settings contradict each other."""
    given = args.speculative_config or {}
    way = args.speculation
    if given:
        asked = _METHODS[given["method"]]
        if way not in ("auto", asked):
            raise ConfigError(f"speculation={way} and speculative_config with method={given['method']} contradict each other; give one")
        way = asked
    model = args.speculative_model or given.get("model")
    if args.speculative_model and given.get("model", args.speculative_model) != args.speculative_model:
        raise ConfigError("speculative_model is given twice, and another one in speculative_config; give one")
    if model and way == "auto":
        way = "draft"
    if way == "draft" and not model:
        raise ConfigError("speculation=draft needs a model that makes the guesses: give --speculative-model")
    if model and way != "draft":
        notes.append(Caution(f"speculative_model has no effect with speculation={way}"))
    if way == "draft" and args.tensor_parallel_size > 1:
        raise ConfigError("speculation=draft: ranks that share a model have no draft model yet; leave tensor_parallel_size at 1")
    if way == "draft" and args.pipeline_parallel_size > 1:
        raise ConfigError("speculation=draft: stages of a pipeline have no draft model yet; leave pipeline_parallel_size at 1")
    number = args.num_speculative_tokens
    if number is not None and number != given.get("num_speculative_tokens", number):
        raise ConfigError("num_speculative_tokens is given twice, and another number in speculative_config; give one")
    ranks = args.tensor_parallel_size * args.pipeline_parallel_size
    if way == "auto" and (kind != "cpu" or ranks > 1 or spec.states or not spec.in_our_code(args.model_impl)):
        way = "off"
    if pools:
        way = "off"
    elif way == "off" and number is not None:
        notes.append(Caution("num_speculative_tokens has no effect without speculation"))
    elif way != "off" and spec.states:
        notes.append(Caution(f"speculation={way} has no effect: {spec.model_type} models keep states, which cannot take a guess back"))
        way = "off"
    shortest = given.get("prompt_lookup_min", min(SHORTEST, given.get("prompt_lookup_max", SHORTEST)))
    return {
        "speculation": way,
        "speculative_model": model if way == "draft" else None,
        **({"lanes": 1} if way == "draft" else {}),  # one draft model serves one step at a time
        "num_speculative_tokens": number or given.get("num_speculative_tokens"),
        "prompt_lookup_min": shortest,
        "prompt_lookup_max": given.get("prompt_lookup_max", max(LONGEST, shortest)),
    }
