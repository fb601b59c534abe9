"""Default sampling parameters from a model's generation_config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ModelError, RecordError, nearest
from ..spec.hf_values import TOKEN
from ..types.params import SamplingParams
from ..weights.source import parse_json

FILE = "generation_config.json"

#: Names in generation_config.json -> our fields. The rest of it is about other things (EOS ids are read by the engine).
FIELDS = {
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "max_new_tokens": "max_tokens",
}
#: Values of the setting that mean "do not look at the file".
NONE = ("none", "vllm")

ReadJson = Callable[[str], "dict[str, Any] | None"]


def sampling_defaults(
    read_json: ReadJson, *, source: str = "auto", override: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], str]:
    """Sampling parameters of fields that nobody gave.

    Args:
        read_json: reads a small file of the model; None if there is no such file.
        source: "auto": the model's file, if there is one; "none" (or "vllm"): no file; else a folder that has the file.
        override: values by the file's names, over those of the file.

    Returns:
        Values by field of `SamplingParams`, without those that are the default anyway, and a sentence for the log, empty where
        there is nothing to say.

    Whatever the file states counts; transformers leaves its own defaults out when it writes one.
    `"do_sample": false` in the file means greedy decoding, so it becomes temperature 0 whatever the temperature beside it; an
    override of the temperature wins over that.

    Raises ConfigError for a folder without the file, for an override that is unknown or wrong, and ModelError for a file whose
    values are wrong.
    """
    stated = read_file(read_json, source) or {}
    if not isinstance(stated.get("do_sample"), (bool, type(None))):
        raise ModelError(f"{FILE}: do_sample must be true or false ({_way_out(source)})")
    over = _checked_override(override)
    if "temperature" in over and "do_sample" not in over:
        stated = {**stated, "do_sample": None}
    try:
        values = _values({**stated, **over})
    except RecordError as error:
        raise ModelError(f"{FILE}: {error} ({_way_out(source)})") from None
    plain = SamplingParams()
    values = {name: value for name, value in values.items() if value != getattr(plain, name) and (name, value) != ("top_k", 0)}
    return values, _sentence(values, source, from_file=bool(stated), overridden=bool(over))


def read_file(read_json: ReadJson, source: str) -> dict[str, Any] | None:
    """The content of the file that `source` names; None without one. Raises ConfigError for a folder without it."""
    if source in NONE:
        return None
    if source == "auto":
        return read_json(FILE)
    path = Path(source) / FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        what = f"auto, none or a folder with a {FILE}"
        raise ConfigError(f"generation_config={source}: {path} cannot be read ({error.strerror}); give {what}") from None
    return parse_json(content, path)


def end_tokens(stated: Mapping[str, Any] | None, path: Path | str = FILE) -> list[int]:
    """The ids that `eos_token_id` names. Raises ModelError if it is none, one or a list of them."""
    value = (stated or {}).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(TOKEN.fits(one) for one in ids):
        raise ModelError(f"{path}: eos_token_id is {value!r}; it must be a token id, a list of them, or null")
    return ids


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The file's values as ours, checked. Raises RecordError. A null is no value."""
    values = {own: config[name] for name, own in FIELDS.items() if config.get(name) is not None}
    if config.get("do_sample") is False:
        values["temperature"] = 0.0
    for name, value in values.items():
        if name in ("top_k", "max_tokens") and isinstance(value, float) and value.is_integer():
            values[name] = int(value)
    SamplingParams(**values)
    return values


def _checked_override(override: Mapping[str, Any] | None) -> dict[str, Any]:
    """Raises ConfigError."""
    known = (*FIELDS, "do_sample")
    over = dict(override or {})
    for name, value in over.items():
        if name not in known:
            raise ConfigError(f"override_generation_config: {name!r} has no effect{nearest(str(name), known)}; known: {', '.join(known)}")
        if name == "do_sample" and not isinstance(value, (bool, type(None))):
            raise ConfigError("override_generation_config: do_sample must be true or false")
    try:
        _values(over)
    except RecordError as error:
        raise ConfigError(f"override_generation_config: {error}") from None
    return over


def _way_out(source: str) -> str:
    return "generation_config=none ignores the file" if source == "auto" else f"generation_config={source}"


def _sentence(values: Mapping[str, Any], source: str, *, from_file: bool, overridden: bool) -> str:
    if not values:
        return ""
    places = [f"the model's {FILE}" if source == "auto" else str(Path(source) / FILE)] if from_file else []
    places += ["override_generation_config"] if overridden else []
    told = ", ".join(f"{name} {value}" for name, value in values.items())
    return f"sampling defaults of {' and '.join(places)}: {told}" + (" (generation_config=none: without)" if from_file else "")
