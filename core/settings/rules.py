"""Rules of settings' values: each returns the fault of a value in words that follow the setting's name, or "".

Knows the values, not where they come from; that is in setting.py.
"""

from __future__ import annotations

from typing import Any

from ..errors import nearest
from ..types.structured import BACKENDS


def power_of_two(value: int) -> str:
    return f"must be a power of two, not {value}" if value & (value - 1) else ""


def device_name(value: str) -> str:
    kind, _, index = value.partition(":")
    if value in ("auto", "cpu", "cuda") or (kind == "cuda" and index.isdecimal()):
        return ""
    return f"must be auto, cpu, cuda or cuda:N, not {value!r}"


def adapters(value: list[Any]) -> str:
    wrong = [one for one in value if not isinstance(one, str) or not one.strip()]
    return f"must be NAME=PATH or a path, one or several, not {wrong[0]!r}" if wrong else ""


#: Backends of structured output that vLLM has and we do not.
OTHER_BACKENDS = ("lm-format-enforcer", "outlines")


def structured_outputs(value: dict[str, Any]) -> str:
    for name, given in value.items():
        if name == "backend":
            if given in OTHER_BACKENDS:
                return f"backend={given} is not supported yet; for now: {', '.join(BACKENDS)}"
            if given not in BACKENDS:
                return f"backend must be one of {', '.join(BACKENDS)}, not {given!r}"
        elif name in ("disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(given, bool):
                return f"{name} must be true or false, not {given!r}"
        elif name == "disable_fallback":
            pass  # there is nothing to fall back to
        else:
            return f"has no {name!r}{nearest(name, ('backend', 'disable_any_whitespace', 'disable_additional_properties'))}"
    return ""


#: What `reasoning_config` may say.
_REASONING_CONFIG = ("reasoning_parser", "reasoning_start_str", "reasoning_end_str")


def reasoning_config(value: dict[str, Any]) -> str:
    for name, given in value.items():
        if name not in _REASONING_CONFIG:
            return f"has no {name!r}{nearest(name, _REASONING_CONFIG)}"
        if not isinstance(given, str) or not given:
            return f"{name} must be a text, not {given!r}"
    if value and "reasoning_parser" not in value and len(value) < 2:
        return "needs both reasoning_start_str and reasoning_end_str, or reasoning_parser"
    return ""


#: What `pooler_config` may say, as `infer` and vLLM call it; two names on a line mean the same.
_POOLER_CONFIG = (
    ("pooling_type", "seq_pooling_type", "tok_pooling_type"),
    ("normalize", "use_activation"),
    ("dimensions",),
    ("activation",),
    ("step_tag_id",),
    ("returned_token_ids",),
)


def pooler_config(value: dict[str, Any]) -> str:
    known = [name for names in _POOLER_CONFIG for name in names]
    for name, given in value.items():
        if name not in known:
            return f"has no {name!r}{nearest(name, known)}"
        if given is not None and (wrong := _pooler_value(name, given)):
            return wrong
    for names in _POOLER_CONFIG:
        if len([name for name in names if value.get(name) is not None]) > 1:
            return f"has both {' and '.join(names)}, which are two names of one thing; leave one of the two out"
    return ""


def _pooler_value(name: str, given: Any) -> str:
    if name in ("normalize", "use_activation"):
        return "" if isinstance(given, bool) else f"{name} must be true or false, not {given!r}"
    if name == "dimensions":
        good = isinstance(given, int) and not isinstance(given, bool) and given >= 1
        return "" if good else f"dimensions must be an integer of at least 1, not {given!r}"
    if name == "activation":
        return "" if given in ("identity", "sigmoid", "softmax") else f"activation must be identity, sigmoid or softmax, not {given!r}"
    if name == "step_tag_id":
        return "" if _is_token(given) else f"step_tag_id must be a token id, not {given!r}"
    if name == "returned_token_ids":
        good = isinstance(given, list) and len(given) > 0 and all(map(_is_token, given)) and len(set(given)) == len(given)
        return "" if good else f"returned_token_ids must be a list of token ids, each once, not {given!r}"
    kind = given.upper() if isinstance(given, str) else given
    whole, of_tokens = ("CLS", "MEAN", "LAST"), ("ALL", "STEP")
    known = {"seq_pooling_type": whole, "tok_pooling_type": of_tokens}.get(name, whole + of_tokens)
    return "" if kind in known else f"{name} must be {', '.join(known)}, not {given!r}"


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
