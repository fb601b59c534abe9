"""Prompt adapters as PEFT saves them: the embeddings that prompt tuning or p-tuning puts before every prompt. No torch.

PEFT saves of either method the embeddings alone, `prompt_embeddings` [virtual tokens, features]: what encodes them while p-tuning
trains is not needed any more. Prefix tuning saves keys and values of every layer instead, which we do not have a place for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import AdapterError, ModelError
from ..types.prompt_embeds import PromptEmbeds
from ..weights.floats import FLOATS, as_float32
from ..weights.header import Entry, read_header
from .adapter import WEIGHTS, expanded, read_json

#: Its kind in adapter_config.json.
KINDS = ("PROMPT_TUNING", "P_TUNING")
TENSOR = "prompt_embeddings"
#: Kinds that we know and do not have -> why.
_REFUSED = {
    "PREFIX_TUNING": "prefix tuning puts keys and values before those of every layer, which is not supported",
    "MULTITASK_PROMPT_TUNING": "prompts of several tasks are not supported; save those of one with PEFT",
    "CARTRIDGE": "keys and values in place of a prompt are not supported",
    "LORA": "it is a LoRA adapter: --lora, or lora, is for those",
}


def read_prompt_adapter(path: str | Path, *, size: int | None = None, most: int = 0, stated: int | None = None) -> PromptEmbeds:
    """The embeddings of the adapter in a folder.

    Args:
        size: features of the model's embeddings; None: any.
        most: most virtual tokens that are accepted; 0: any number.
        stated: their number, as the caller knows it.

    Raises AdapterError: adapter_not_found where there is no such folder, else adapter_invalid with the reason.
    """
    path = expanded(path)
    values = read_json(path)
    kind = values.get("peft_type")
    if kind not in KINDS:
        why = (
            _REFUSED.get(kind, f"only {' and '.join(KINDS)} put embeddings before a prompt") if isinstance(kind, str) else "it says no kind"
        )
        raise AdapterError(f"prompt adapter {path} is of the kind {kind!r}: {why}")
    entry = _entry(path)
    count, features = entry.info.shape
    submodules = values.get("num_transformer_submodules")
    if submodules not in (None, 1):
        raise AdapterError(f"prompt adapter {path} is for a model of {submodules!r} parts (an encoder and a decoder), not for this one")
    for said, whose in ((values.get("num_virtual_tokens"), "adapter_config.json says"), (stated, "the request says")):
        if said is not None and said != count:
            raise AdapterError(f"prompt adapter {path} has {count} virtual tokens, and {whose} {said!r}")
    if most and count > most:
        raise AdapterError(f"prompt adapter {path} has {count} virtual tokens, above max_prompt_adapter_token {most}")
    if size is not None and features != size:
        raise AdapterError(
            f"prompt adapter {path} has {features} features a token, and the model's embeddings have {size}: it is another's"
        )
    try:
        with (path / WEIGHTS).open("rb") as file:
            file.seek(entry.start)
            data = file.read(entry.end - entry.start)
    except OSError as error:
        raise AdapterError(f"cannot read {path / WEIGHTS}: {error.strerror}") from None
    made: Any = as_float32(data, entry.info.dtype, entry.info.shape)
    try:
        return PromptEmbeds.of(made)
    except ValueError:
        raise AdapterError(f"prompt adapter {path}: its embeddings are not finite numbers") from None


def _entry(path: Path) -> Entry:
    file = path / WEIGHTS
    if not file.is_file():
        also = "; pickle files can run code when read, so they are refused" if (path / "adapter_model.bin").exists() else ""
        raise AdapterError(f"prompt adapter {path} has no {WEIGHTS}{also}; save it with PEFT's save_pretrained(folder)")
    try:
        entries = read_header(file)
    except ModelError as error:
        raise AdapterError(str(error).replace("fetch the model again", "fetch the adapter again")) from None
    entry = entries.get(TENSOR)
    if entry is None:
        raise AdapterError(f"prompt adapter {path}: {WEIGHTS} has no tensor {TENSOR!r}; save it with PEFT's save_pretrained(folder)")
    if entry.info.dtype not in FLOATS or len(entry.info.shape) != 2 or 0 in entry.info.shape:
        raise AdapterError(f"prompt adapter {path}: {TENSOR} is {entry.info.dtype} {list(entry.info.shape)}, not a matrix of floats")
    return entry
