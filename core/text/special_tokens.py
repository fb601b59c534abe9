"""Special tokens of a model, read from its small files as transformers reads them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..spec.hf_values import is_text, shown

if TYPE_CHECKING:
    import tokenizers

#: Reads one small file of the model by name; None if the model has no such file.
Reader = Callable[[str], bytes | None]

log = logging.getLogger(__name__)

#: The small files of a tokenizer.
CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"
#: Tokens that tokenizer_config.json names, and the two lists of more.
_NAMED = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_EXTRA, _ADDITIONAL = "extra_special_tokens", "additional_special_tokens"
#: What transformers 5 writes of those that have a name.
_SPECIFIC = "model_specific_special_tokens"


def add_special_tokens(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], special_map: Mapping[str, Any], name: str = ""
) -> dict[str, str]:
    """Makes the tokens that the configs name, and tokenizer.json does not list as added, added tokens; returns the named ones.

    A config without `added_tokens_decoder` is from before it existed, and then special_tokens_map.json wins; with it, that file is not
    read: as in transformers. Raises ModelError for a value that is no token.
    """
    from tokenizers import AddedToken

    special_map = special_map if "added_tokens_decoder" not in config else {}
    merged = {**config, **special_map}
    for key in _NAMED:
        if merged.get(key) is not None and _token_text(merged[key]) is None and merged[key] != "":
            raise _wrong(name, key, merged[key], "a token", MAP if key in special_map else CONFIG)
    named = {key: text for key in _in_order(merged, special_map) if (text := _token_text(merged[key])) is not None}
    known = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    extra, more, left = _extra_tokens(config, special_map, name)
    named.update({**_specific(config, name), **more})
    if left := [text for text in left if not known.get(text)]:
        what = f"{_ADDITIONAL} has {', '.join(left[:4])}{' and others' if len(left) > 4 else ''}"
        log.warning("%s%s, which do not count beside the list of %s, as in transformers", prefix(name), what, _EXTRA)

    missing: dict[str, AddedToken] = {}
    for _, spec in _added_tokens(config, name):
        if (text := _token_text(spec)) is not None:
            flags = {k: bool(spec[k]) for k in ("lstrip", "rstrip", "single_word", "normalized", "special") if k in spec}
            missing[text] = AddedToken(text, **flags)
    for text in [*named.values(), *extra]:
        token = missing.setdefault(text, AddedToken(text, special=True, normalized=False))
        token.special = True
    backend.add_tokens([token for text, token in missing.items() if text not in known])
    # Of those that are there already, a name makes a token special; to be in a list of more does not: as in transformers.
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in named.values() if known.get(text) is False])
    return named


def _in_order(merged: Mapping[str, Any], special_map: Mapping[str, Any]) -> list[str]:
    """Keys of named tokens in the order in which transformers makes those that are missing."""
    own = [key for key in merged if key.endswith("_token") and key not in _NAMED]
    plain = [key for key in own if isinstance(merged[key], str) and key not in special_map]
    return [key for key in _NAMED if key in merged] + [key for key in own if key not in plain] + plain


def _extra_tokens(config: Mapping[str, Any], special_map: Mapping[str, Any], name: str) -> tuple[list[str], dict[str, str], list[str]]:
    """Special tokens without a name, those that `extra_special_tokens` gives a name, and those that are stated and do not count.

    As in transformers: `additional_special_tokens`, the older name, counts unless `extra_special_tokens` is a list of others. Of
    special_tokens_map.json the extra ones are more, the additional ones take the place of the config's.
    """
    extra, additional = (_checked_extra(config, key, name) for key in (_EXTRA, _ADDITIONAL))
    if additional is not None and not extra:
        extra, additional = additional, None
    named: dict[str, str] = {}
    if isinstance(extra, Mapping):
        named, extra = _texts(extra), None
    given = _checked_extra(special_map, _EXTRA, name, MAP)
    if isinstance(given, Mapping):
        named, extra = {**named, **_texts(given)}, None
    elif given is not None:
        extra = [*(extra or ()), *given]
    if (more := _checked_extra(special_map, _ADDITIONAL, name, MAP)) is not None:
        additional = more
    if extra is None:
        extra, additional = additional, None
    found = dict.fromkeys(text for value in extra or () if (text := _token_text(value)) is not None)
    left = [text for value in additional or () if (text := _token_text(value)) is not None and text not in found]
    return list(found), named, left


def _specific(config: Mapping[str, Any], name: str) -> dict[str, str]:
    """Tokens that `model_specific_special_tokens` gives a name, which counts where no other key names one of the model's own."""
    found = _checked_extra(config, _SPECIFIC, name)
    if isinstance(found, list):
        raise _wrong(name, _SPECIFIC, found, "an object of tokens")
    own = any(key.endswith("_token") and key not in _NAMED and isinstance(value, str) for key, value in config.items())
    return {} if own or not found or (isinstance(config.get(_EXTRA), Mapping) and config[_EXTRA]) else _texts(found)


def _texts(tokens: Mapping[str, Any]) -> dict[str, str]:
    return {key: text for key, value in tokens.items() if (text := _token_text(value)) is not None}


def _checked_extra(config: Mapping[str, Any], key: str, name: str, file: str = CONFIG) -> Any:
    """A list of tokens, an object of them by name, or None. Raises ModelError for anything else."""
    value = config.get(key)
    tokens = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [] if value is None else [None]
    if not all(_token_text(token) is not None or token == "" for token in tokens):
        raise _wrong(name, key, value, "a list of tokens" if key == _ADDITIONAL else "a list of tokens or an object of them", file)
    return value


def _added_tokens(config: Mapping[str, Any], name: str) -> list[tuple[int, Any]]:
    """(id, token) of `added_tokens_decoder`, by id. Raises ModelError if it is not that."""
    found = config.get("added_tokens_decoder") or {}
    if not isinstance(found, Mapping) or not all(key.isascii() and key.isdigit() for key in found):
        raise _wrong(name, "added_tokens_decoder", found, "an object of tokens by their id")
    if not all(_token_text(token) is not None or token == {"content": ""} for token in found.values()):
        raise _wrong(name, "added_tokens_decoder", found, "an object of tokens by their id")
    return sorted((int(key), token) for key, token in found.items())


def _wrong(name: str, key: str, value: Any, wanted: str, file: str = CONFIG) -> ModelError:
    return ModelError(f"{prefix(name)}{file}: {key} is {shown(value)}; it must be {wanted}")


def _token_text(value: Any) -> str | None:
    """A token of a config file: a string, or an AddedToken as an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if value and is_text(value) else None


def read_json(read: Reader, filename: str, name: str) -> dict[str, Any]:
    """One of the model's JSON files; empty if it has none. Raises ModelError if it is not an object."""
    data = read(filename)
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{prefix(name)}{filename} is not valid JSON: {e}") from e
    if not isinstance(value, dict):
        raise ModelError(f"{prefix(name)}{filename} must be a JSON object")
    return value


def prefix(name: str) -> str:
    """The model's name before a message, if it has one."""
    return f"{name}: " if name else ""
