"""Calibration texts: the first records of a JSONL file, as token ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, RecordError
from ..jobs.jsonl import loads, wrong_type

if TYPE_CHECKING:
    from ..build.plan import Plan
    from ..text.chat import ChatTemplate

#: Tokens of a record that are used.
LENGTH = 512
#: Fields of which a record has one.
FIELDS = ("prompt", "text", "messages", "prompt_token_ids")


def read_texts(path: Path, plan: Plan, num_records: int) -> list[list[int]]:
    """The ids of the first records: a `prompt` or `text`, a conversation (`messages`), or `prompt_token_ids`.

    Raises ConfigError naming the line that is not one of these, and for a file that cannot be read or has no records.
    """
    template: ChatTemplate | None = None
    texts: list[list[int]] = []
    length = min(LENGTH, plan.config.max_model_len)
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if len(texts) == num_records:
                    break
                if not line.strip():
                    continue
                try:
                    record = loads(line.strip())
                    if "messages" in record and template is None:
                        template = plan.chat_template()
                    texts.append(_ids(record, plan, template)[:length])
                except RecordError as error:
                    raise ConfigError(f"calibrate: {path}, line {number}: {error.code}: {error}; mend the line or leave it out") from error
    except OSError as error:
        raise ConfigError(f"calibrate: cannot read {path}: {error.strerror or error}") from error
    if not texts:
        raise ConfigError(f"calibrate: {path} has no records; give some texts like those that the model is for")
    return texts


def _ids(record: dict[str, Any], plan: Plan, template: ChatTemplate | None) -> list[int]:
    given = [name for name in FIELDS if name in record]
    if len(given) != 1:
        what = "none of them is there" if not given else f"{' and '.join(given)} are there"
        raise RecordError("missing_field" if not given else "invalid_value", f"one of {', '.join(FIELDS)} is wanted, and {what}")
    (name,) = given
    value = record[name]
    if name == "messages":
        assert template is not None
        ids = template.encode(value)
    elif name == "prompt_token_ids":
        if not isinstance(value, list) or not all(type(token) is int for token in value):
            raise wrong_type(name, "a list of integers", value)
        if beyond := [token for token in value if not 0 <= token < plan.vocab_size]:
            raise RecordError("invalid_value", f"{name}: {beyond[0]} is not a token id; the vocabulary has {plan.vocab_size}")
        ids = value
    else:
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        assert plan.tokenizer is not None, "it is loaded"
        ids = plan.tokenizer.encode(value)
    if not ids:
        raise RecordError("invalid_value", f"{name} is empty")
    return ids
