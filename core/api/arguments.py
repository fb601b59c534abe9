"""The arguments of `LLM`'s calls, checked and paired: lists must be as long as the prompts, parameters are copied."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeVar

from ..containment import own_error
from ..errors import ConfigError, RecordError, nearest
from ..jobs.tasks.adapters.declared import Declared
from ..types.adapters import LoRARequest
from ..types.beam_params import BeamSearchParams
from ..types.bounds import MOST
from ..types.params import SamplingParams
from ..types.pooling_params import PoolingParams
from ..types.prompts import as_prompts
from .drafts import Written

#: A LoRA adapter for all prompts, or one, or none, for each.
Loras = LoRARequest | str | Sequence[LoRARequest | str | None] | None
OnError = Literal["raise", "return"]
#: Whether there is a progress bar, or what makes one (called as `tqdm.tqdm` is).
UseTqdm = bool | Callable[..., Any]

#: What `tokenization_kwargs` may hold, as vLLM and transformers call it.
_TOKENIZATION = ("truncate_prompt_tokens", "truncation_side", "truncation", "max_length", "add_special_tokens")

_Params = TypeVar("_Params", SamplingParams, PoolingParams, BeamSearchParams)


def copied(
    params: _Params | Mapping[str, Any] | Sequence[_Params | Mapping[str, Any]],
    count: int,
    kind: type[_Params],
    name: str,
    *,
    raising: bool,
) -> list[_Params | RecordError]:
    """A copy for each prompt, or what is wrong with its values: what changes afterwards changes nothing here. What was one object is
    one copy.

    Args:
        kind, name: of the parameters.
        raising: raise what is wrong.

    Raises ConfigError unless there is one or as many as prompts.
    """
    many = [params] * count if isinstance(params, (kind, Mapping)) else _sequence(name, params)
    if len(many) != count:
        raise ConfigError(f"{count} prompts and {len(many)} {name}: there must be as many of both, or one of the latter for all")
    copies = {id(p): _copy(p, kind, name, raising=raising) for p in many}
    return [copies[id(p)] for p in many]


def paired(
    prompts: Iterable[Any],
    params: SamplingParams | Mapping[str, Any] | Iterable[SamplingParams | Mapping[str, Any]],
    *,
    raising: bool,
) -> Iterator[Written]:
    """Prompts with a copy of their parameters, as they are read. Raises ConfigError where there are not as many of both."""
    if isinstance(params, (SamplingParams, Mapping)):
        one = _copy(params, SamplingParams, "sampling_params", raising=raising)
        return (Written.of(prompt, one) for prompt in prompts)
    if isinstance(params, str) or not hasattr(params, "__iter__"):
        raise ConfigError(f"sampling_params must be SamplingParams, one or an iterable, not {type(params).__name__}")
    return _zipped(iter(prompts), iter(params))


def _zipped(prompts: Iterator[Any], params: Iterator[Any]) -> Iterator[Written]:
    end = object()
    last: Any = None
    copy: SamplingParams | RecordError = SamplingParams()
    while True:
        prompt, p = next(prompts, end), next(params, end)
        if prompt is end and p is end:
            return
        if prompt is end or p is end:
            raise ConfigError("there must be as many prompts as sampling_params, or one of the latter for all")
        if p is not last or p != copy:
            copy, last = _copy(p, SamplingParams, "sampling_params", raising=False), p
        yield Written.of(prompt, copy)


def priorities_of(priority: Sequence[int] | None, count: int, *, wanted: bool) -> list[int]:
    """One a prompt. Raises ConfigError for other than integers, or where the engine does not look at them (`wanted`)."""
    if priority is None:
        return [0] * count
    many = _sequence("priority", priority)
    if len(many) != count:
        raise ConfigError(f"{count} prompts and {len(many)} priorities: there must be as many of both")
    if not all(isinstance(p, int) and not isinstance(p, bool) for p in many):
        raise ConfigError("priority must be a list of integers")
    if any(abs(p) > MOST for p in many):
        raise ConfigError(f"priority must be a list of integers of at least {-MOST} and at most {MOST}")
    if any(many) and not wanted:
        raise ConfigError('priority needs LLM(scheduling_policy="priority")')
    return many


def conversations(messages: Any) -> list[Any]:
    """One conversation or many, as a list of conversations. Raises ConfigError."""
    many = _sequence("messages", messages)
    return [many] if many and isinstance(many[0], Mapping) else many


def refuse_adapters(count: int, **given: Any) -> None:
    """Raises ConfigError for an adapter, and for a list of them that is not as long as the prompts."""
    for name, value in given.items():
        many = list(value) if isinstance(value, (list, tuple)) else [value] * count
        if len(many) != count:
            raise ConfigError(f"{count} prompts and {len(many)} {name}: there must be as many of both, or one of the latter for all")
        if value is not None and any(v is not None for v in many or [value]):
            raise ConfigError(f"{name} is not supported yet")


def adapters_of(lora_request: Any, count: int, declared: Declared) -> list[LoRARequest | None]:
    """A LoRA adapter, or none, for each prompt.

    Args:
        declared: those of LLM(lora=…), which may be asked for by name; one that default_lora names is for prompts that ask for none.

    Raises ConfigError unless there is one or as many as prompts, and for an unknown name.
    """
    many = list(lora_request) if isinstance(lora_request, (list, tuple)) else [lora_request] * count
    if len(many) != count:
        raise ConfigError(f"{count} prompts and {len(many)} lora_request: there must be as many of both, or one of the latter for all")
    return [_adapter(one, declared) for one in many]


def _adapter(one: Any, declared: Declared) -> LoRARequest | None:
    if isinstance(one, str):
        if one not in declared.paths:
            raise ConfigError(
                f"lora_request: there is no adapter {one!r}{nearest(one, declared.paths)}; LLM(lora={{name: path}}) declares one"
            )
        return declared.request(one)
    if one is None:
        return None if declared.is_implied else declared.default_request
    if not isinstance(one, LoRARequest):
        raise ConfigError(f"lora_request must be LoRARequest or None, one or a list, not {type(one).__name__}")
    return one


def truncation(limit: Any, more: dict[str, Any], longest: int) -> tuple[int | None, str | None]:
    """Most tokens of a prompt, and the end that is cut; None is the tokenizer's. Raises ConfigError."""
    for name in more:
        if name not in _TOKENIZATION:
            raise ConfigError(
                f"tokenization_kwargs {name!r} is not supported{nearest(name, _TOKENIZATION)}; for now: {', '.join(_TOKENIZATION)}"
            )
    if more.get("add_special_tokens") not in (None, True):
        raise ConfigError("add_special_tokens=False is not supported: give token ids in place of texts")
    side = more.get("truncation_side")
    if side not in (None, "left", "right"):
        raise ConfigError(f"truncation_side must be 'left' or 'right', not {side!r}")
    asked = {"truncate_prompt_tokens": limit} if limit is not None else {}
    if more.get("truncate_prompt_tokens") is not None:
        if asked and limit != more["truncate_prompt_tokens"]:
            raise ConfigError("truncate_prompt_tokens is given twice, with two values; leave one of the two out")
        asked = {"truncate_prompt_tokens": more["truncate_prompt_tokens"]}
    if more.get("truncation") not in (None, False, True, "longest_first"):
        raise ConfigError(f"truncation must be true, false or 'longest_first', not {more['truncation']!r}")
    if more.get("truncation") and not asked:
        asked = {"max_length": -1 if more.get("max_length") is None else more["max_length"]}
    for name, value in asked.items():
        if isinstance(value, bool) or not isinstance(value, int) or (value != -1 and not 1 <= value <= longest):
            raise ConfigError(f"{name} must be -1 or an integer from 1 to max_model_len ({longest}), not {value!r}")
        return longest if value == -1 else value, side
    return None, side


def cut_as(params: Iterable[Any], more: Mapping[str, Any] | None, longest: int) -> bool:
    """Does to copied parameters what `tokenization_kwargs` says of prompts' lengths; returns whether the tokenizer adds its special
    tokens to texts. Raises ConfigError."""
    more = dict(more or {})
    adds = more.pop("add_special_tokens", None)
    if adds not in (None, True, False):
        raise ConfigError(f"add_special_tokens must be true or false, not {adds!r}")
    limit, side = truncation(None, more, longest)
    for one in params:
        if isinstance(one, SamplingParams) and limit is not None:
            one.truncate_prompt_tokens = limit
            one.truncation_side = side or one.truncation_side
    return adds is not False


def sides(text_1: Any, text_2: Any) -> tuple[list[Any], list[Any]]:
    """Both sides of `LLM.score` as lists, the first of one or as many as the second. Raises ConfigError."""
    first, second = as_prompts(text_1), as_prompts(text_2)
    if not first or not second:
        raise ConfigError("score needs at least one text on either side")
    if len(first) not in (1, len(second)):
        raise ConfigError(f"score takes one text and one or many, or as many of both; not {len(first)} and {len(second)}")
    return first, second


def is_raising(on_error: str) -> bool:
    """True if an error is raised. Raises ConfigError for what is neither "raise" nor "return"."""
    if on_error not in ("raise", "return"):
        raise ConfigError(f"on_error must be 'raise' or 'return', not {on_error!r}")
    return on_error == "raise"


def warn_of_legacy(prompt_token_ids: Any, *, wanted: bool) -> None:
    """Warns the caller's caller where it uses the legacy argument."""
    if prompt_token_ids is not None and wanted:
        warnings.warn("the argument prompt_token_ids is deprecated: give prompts of token ids", DeprecationWarning, stacklevel=3)


def _copy(params: Any, kind: type[_Params], name: str, *, raising: bool) -> _Params | RecordError:
    if isinstance(params, Mapping):
        names = [field.name for field in fields(kind)]
        if unknown := [key for key in params if key not in names]:
            raise ConfigError(f"{name}: {kind.__name__} has no {unknown[0]!r}{nearest(str(unknown[0]), names)}")
    elif not isinstance(params, kind):
        raise ConfigError(f"{name} must be {kind.__name__} or a dict, one or a list, not {type(params).__name__}")
    try:
        return kind(**params) if isinstance(params, Mapping) else params.clone()
    except BaseException as error:
        wrong = own_error(error, name)
        if raising:
            raise wrong from None
        return wrong


def _sequence(name: str, value: Any) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{name} must be a list, not {type(value).__name__}")
    return list(value)
