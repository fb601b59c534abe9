"""Fields of a record: parameters we know, names of the OpenAI and vLLM APIs we accept or refuse, and the rest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ...errors import RecordError
from ...types.params import ALIASES, NOT_SUPPORTED_YET, SamplingParams
from ..jsonl import wrong_type
from . import constraint

#: Sampling parameters, ours and those refused by name.
SAMPLING = SamplingParams.field_names() | frozenset(ALIASES) | NOT_SUPPORTED_YET

#: What else a record may say, whatever the task.
COMMON = frozenset({"add_special_tokens", "priority"})

#: How a record names its adapters.
LORA = frozenset({"lora", "lora_name"})
PROMPT_ADAPTER = frozenset({"prompt_adapter"})

#: Integers that JSON readers agree on are far below this.
_MAX_PRIORITY = 2**63 - 1

#: Accepted and dropped, whatever they say: the command line names the model, there is nothing to stream, and `_error` is ours
#: (--errors writes it).
DROPPED = frozenset({"_error", "model", "stream_options", "user"})

#: Known fields that ask for nothing when they are null or have one of these values, and are refused otherwise.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "chat_template": (),
    "echo": (False,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "logits_processors": ([],),
    "parallel_tool_calls": (True,),
    "stream": (False,),
    "suffix": ("",),
    "use_beam_search": (False,),
}

#: Parameters that a misspelled field may have meant; not those whose names are everyday words.
GUESSABLE = (SAMPLING | constraint.FIELDS | {"add_special_tokens"}) - {"echo", "suffix"}

#: Names that other engines and clients give to parameters, folded -> ours.
_ELSEWHERE: Mapping[str, str] = {
    "dosample": "temperature",
    "eostokenid": "stop_token_ids",
    "inputtype": "prompt_name",
    "jsonschema": "structured_outputs",
    "ebnf": "structured_outputs",
    "maxlength": "max_tokens",
    "maxoutputtokens": "max_tokens",
    "minlength": "min_tokens",
    "npredict": "max_tokens",
    "numpredict": "max_tokens",
    "outputdimension": "dimensions",
    "stopsequences": "stop",
    "stopstrings": "stop",
    "stopwords": "stop",
}

#: No field here is echoed in `extra`.
KNOWN = SAMPLING | COMMON | LORA | PROMPT_ADAPTER | constraint.FIELDS | DROPPED | frozenset(NEUTRAL) | {"id"}


def refuse_unsupported(fields: Mapping[str, Any], refusable: frozenset[str]) -> None:
    """Raises RecordError for one of the `refusable` fields that asks for something."""
    for name, value in fields.items():
        if name in refusable and not is_neutral(name, value):
            raise RecordError("unsupported", f"{name} is not supported", param=name)


def is_neutral(name: str, value: Any) -> bool:
    """True if a known field asks for nothing."""
    return value is None or any(type(value) is type(known) and value == known for known in NEUTRAL.get(name, ()))


def flag(fields: Mapping[str, Any], name: str, default: bool) -> bool:
    """A field that is true or false. Raises RecordError."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong_type(name, "true or false", value)
    return value


def priority_of(fields: Mapping[str, Any]) -> int:
    """`priority`: with the priority policy records of lower ones go first. Raises RecordError."""
    value = fields.get("priority")
    if value is None:
        return 0
    if type(value) is not int:
        raise wrong_type("priority", "an integer", value)
    if abs(value) > _MAX_PRIORITY:
        raise RecordError("invalid_value", f"priority must be at least {-_MAX_PRIORITY} and at most {_MAX_PRIORITY}", param="priority")
    return value


@lru_cache(maxsize=4096)
def intended(name: str, known: frozenset[str]) -> str | None:
    """The known field that an unknown `name` looks like a misspelling of (max_token, top-p, temprature), or is called elsewhere, if any.

    Stricter than the suggestions for flags: a data column that is only a bit like a parameter must not be called a mistake.
    """
    folded = _fold(name)
    if len(folded) < 3:
        return None
    for candidate in sorted(known):
        if _fold(candidate) == folded:
            return candidate
    if _ELSEWHERE.get(folded) in known:
        return _ELSEWHERE[folded]
    close = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.81)
    return close[0] if close else None


def _fold(name: str) -> str:
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()
