"""LoRA adapters as PEFT saves them, as far as adapter_config.json and the header of the weights tell. No torch.

An adapter has for some linear layers a pair A [rank, in], B [out, rank]: the layer gives x W^T + scale * (x A^T) B^T. `scale` is
lora_alpha / rank, or with `use_rslora` lora_alpha / sqrt(rank), each of that layer (`rank_pattern`, `alpha_pattern`). Of an embedding
A is [rank, vocabulary] and B [size, rank]: a token's row has scale * B A[:, token] added.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AdapterError, ModelError
from ..weights.header import Entry, read_header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: What PEFT puts before the name of a layer.
PREFIX = "base_model.model."
_HALF = re.compile(r"(?P<layer>.+)\.(?:lora_(?P<half>[AB])\.weight|lora_embedding_(?P<words>[AB]))")
#: The embedding itself, which PEFT saves beside its pair unless told otherwise.
_BASE = re.compile(r"(?P<layer>.+)\.base_layer\.weight")
#: What a pattern of layers may not have, or have more of: matching it might take hours, and nothing stops it.
_ENDLESS, _REPEATS, _MOST_REPEATS = re.compile(r"\)[*+{]"), re.compile(r"(?<![\\(])[*+?{]"), 4
#: Characters of a value out of a file that a message shows.
_MOST_SHOWN = 200
_LARGEST_ALPHA = 3e38
_FLOATS = ("F64", "F32", "F16", "BF16")
#: What an adapter may be that we do not have -> what to do about it. Keys of adapter_config.json with the values that say no.
_REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "use_dora": ("DoRA is not supported; merge it into the model with PEFT", (None, False)),
    "bias": ("biases that were trained are not supported; merge it into the model with PEFT", (None, "none")),
    "lora_bias": ("biases of its own are not supported; merge it into the model with PEFT", (None, False)),
    "modules_to_save": ("whole layers beside the pairs are not supported; merge it into the model with PEFT", (None, [])),
    "target_parameters": ("pairs of parameters that are no layers are not supported; merge it into the model with PEFT", (None, [])),
    "trainable_token_indices": ("tokens that were trained are not supported; merge it into the model with PEFT", (None, [], {})),
    "layer_replication": ("layers that are used twice are not supported", (None, [])),
    "alora_invocation_tokens": ("an adapter that begins within the prompt is not supported", (None, [])),
    "use_qalora": ("QALoRA is not supported", (None, False)),
    "use_bdlora": ("block-diagonal pairs are not supported", (None, False)),
}
#: Ways to begin training that change the model's own weights, so that the pairs are not all there is to an adapter.
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class Pair:
    """The two matrices for one layer."""

    layer: str
    """Its name in the base model's checkpoint, "model.layers.0.self_attn.q_proj"."""
    a: Entry
    b: Entry
    scale: float
    of_embedding: bool = False

    @property
    def rank(self) -> int:
        """Columns of B."""
        return self.b.info.shape[1]

    @property
    def features(self) -> tuple[int, int]:
        """(out, in) of the layer; of an embedding (size, vocabulary)."""
        return self.b.info.shape[0], self.a.info.shape[1]


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter: where its weights are, and what they are for."""

    path: Path
    pairs: Mapping[str, Pair]
    """By layer."""
    bases: Mapping[str, Entry]
    """Embeddings of the base model that are in the file too, by layer."""
    base_model: str | None
    """As the adapter's own file calls the model that it was trained for."""

    @property
    def weights(self) -> Path:
        """The file with all tensors."""
        return self.path / WEIGHTS

    @property
    def rank(self) -> int:
        """The largest one of its pairs."""
        return max(pair.rank for pair in self.pairs.values())


def read_config(path: str | Path, *, max_rank: int | None = None) -> AdapterConfig:
    """The adapter in a folder; its weights are not read. Cheap.

    Args:
        max_rank: the largest rank that is accepted; None: any.

    Raises AdapterError: adapter_not_found where there is no such folder, else adapter_invalid with the reason.
    """
    path = expanded(path)
    values = read_json(path)
    _check_kind(path, values)
    if not (path / WEIGHTS).is_file():
        raise AdapterError(f"adapter {path} has no {WEIGHTS}{_instead(path)}")
    try:
        entries = read_header(path / WEIGHTS)
    except ModelError as error:
        raise AdapterError(str(error).replace("fetch the model again", "fetch the adapter again")) from None
    pairs, bases = _pairs(path, values, entries)
    made = AdapterConfig(path, pairs, bases, _text(values.get("base_model_name_or_path")))
    if max_rank is not None and made.rank > max_rank:
        raise AdapterError(f"adapter {path} has rank {made.rank}, above max_lora_rank {max_rank}; raise --max-lora-rank to {made.rank}")
    return made


def adapter_hash(path: str | Path) -> str:
    """A hash of all that an adapter is: both of its files, every byte. Raises AdapterError where one cannot be read."""
    path = expanded(path)
    digest = hashlib.blake2b(digest_size=16)
    for name in (CONFIG, WEIGHTS):
        try:
            _check_file(path / name)
            with (path / name).open("rb") as f:
                while piece := f.read(1 << 20):
                    digest.update(piece)
        except OSError as error:
            raise _unreadable(path / name, error) from None
        digest.update(b"\0")
    return digest.hexdigest()


def expanded(path: str | Path) -> Path:
    """A path with its ~ replaced, where there is such a user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads adapter_config.json in the folder of an adapter. Raises AdapterError."""
    file = path / CONFIG
    try:
        if not path.exists():
            raise AdapterError(f"there is no adapter {path}: give the folder with its {CONFIG}", code="adapter_not_found")
        _check_file(file)
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise AdapterError(f"{path} is no adapter: it has no {CONFIG}; give the folder that PEFT saved") from None
    except OSError as error:  # a name that is too long too
        raise _unreadable(file, error) from None
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{file} is not valid JSON ({len(content)} bytes: {error}); fetch the adapter again") from None
    if not isinstance(values, dict):
        raise AdapterError(f"{file} holds a JSON {type(values).__name__}, not an object; fetch the adapter again")
    return values


def _check_kind(path: Path, values: Mapping[str, Any]) -> None:
    kind = values.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"adapter {path} is of the kind {kind!r}, not LORA; only LoRA adapters are answered with here")
    for key, (why, fine) in _REFUSED.items():
        value = values.get(key)
        if not any(value is one or (type(value) is type(one) and value == one) for one in fine):
            named = f" ({_cut(', '.join(map(str, value)))})" if isinstance(value, list) else ""
            raise AdapterError(f"adapter {path}: {key} is set{named}: {why}")
    if not isinstance(rslora := values.get("use_rslora"), (bool, type(None))):
        raise AdapterError(f"adapter {path}: use_rslora must be true or false, not {_cut(repr(rslora))}")
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(patterns := values.get(key), (dict, type(None))):
            raise AdapterError(f"adapter {path}: {key} must be an object, not {_cut(repr(patterns))}")
        for pattern in patterns or ():
            if _ENDLESS.search(pattern) or len(_REPEATS.findall(pattern)) > _MOST_REPEATS:
                raise AdapterError(f"adapter {path}: {key} {_cut(repr(pattern))} repeats too much to be matched; write layers' names out")
    begun = values.get("init_lora_weights")
    if isinstance(begun, str) and begun.startswith(_CHANGING):
        raise AdapterError(
            f"adapter {path} was begun with {begun}, which changes the model's own weights; save it again with PEFT's "
            "path_initial_model_for_weight_conversion"
        )


def _pairs(path: Path, values: Mapping[str, Any], entries: Mapping[str, Entry]) -> tuple[dict[str, Pair], dict[str, Entry]]:
    halves: dict[str, dict[str, Entry]] = {}
    words: set[str] = set()
    bases: dict[str, Entry] = {}
    for name, entry in entries.items():
        inner = name.removeprefix(PREFIX)
        match, base = _HALF.fullmatch(inner), _BASE.fullmatch(inner)
        if inner is name or (match is None and base is None):
            raise AdapterError(f"adapter {path}: tensor {name!r} is not one that PEFT saves of LoRA ({PREFIX}<layer>.lora_A.weight)")
        if base is not None and match is None:
            bases[base["layer"]] = entry
            continue
        assert match is not None
        if entry.info.dtype not in _FLOATS or len(entry.info.shape) != 2 or 0 in entry.info.shape:
            raise AdapterError(f"adapter {path}: tensor {name!r} is {entry.info.dtype} {list(entry.info.shape)}, not a matrix of floats")
        halves.setdefault(match["layer"], {})[match["half"] or match["words"]] = entry
        if match["words"]:
            words.add(match["layer"])
    if not halves:
        raise AdapterError(f"adapter {path} has no tensors; fetch it again")
    pairs = {}
    for layer, both in halves.items():
        if len(both) != 2:
            raise AdapterError(f"adapter {path}: {layer} has lora_{next(iter(both))} and not the other half; fetch the adapter again")
        if both["A"].info.shape[0] != both["B"].info.shape[1]:
            shapes = f"{list(both['A'].info.shape)} and {list(both['B'].info.shape)}"
            raise AdapterError(f"adapter {path}: {layer} has matrices {shapes}, whose ranks differ; fetch the adapter again")
        scale = _scale(path, values, layer, both["A"].info.shape[0])
        pairs[layer] = Pair(layer, both["A"], both["B"], scale, layer in words)
    return pairs, bases


def _scale(path: Path, values: Mapping[str, Any], layer: str, rank: int) -> float:
    alpha: Any = _of_layer(values.get("alpha_pattern"), layer, values.get("lora_alpha"))
    stated = _of_layer(values.get("rank_pattern"), layer, values.get("r"))
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not -_LARGEST_ALPHA < alpha < _LARGEST_ALPHA:
        raise AdapterError(f"adapter {path}: lora_alpha of {layer} must be a number that float32 can hold, not {_cut(repr(alpha))}")
    if stated != rank:
        raise AdapterError(f"adapter {path}: {layer} has rank {rank}, and {CONFIG} says {_cut(repr(stated))}; fetch the adapter again")
    return float(alpha / math.sqrt(rank) if values.get("use_rslora") else alpha / rank)


def _of_layer(pattern: Any, layer: str, usual: Any) -> Any:
    """A layer's own value: of the first pattern that its name, or the end of it from a dot on, fits; as in PEFT."""
    for key, value in (pattern or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", layer):
                return value
        except (re.error, RecursionError, OverflowError):  # one that is no pattern fits nothing
            continue
    return usual


def _instead(path: Path) -> str:
    pickles = sorted(p.name for p in path.glob("adapter_model.*") if p.suffix in (".bin", ".pt"))
    if not pickles:
        return "; fetch the adapter again"
    return f", only {pickles[0]}: pickle files can run code when read, so they are refused; save it with PEFT's save_pretrained(folder)"


def _check_file(path: Path) -> None:
    """Raises AdapterError for what is there and is no file: reading a pipe or a device might never end."""
    if path.exists() and not path.is_file():
        raise AdapterError(f"{path} is not a file; fetch the adapter again")


def _unreadable(path: Path, error: OSError) -> AdapterError:
    code = "adapter_not_found" if isinstance(error, FileNotFoundError) else "adapter_invalid"
    return AdapterError(f"cannot read {path}: {error.strerror}", code=code)


def _text(value: Any) -> str | None:
    return _cut(value) if isinstance(value, str) and value else None


def _cut(text: str) -> str:
    """A text from a file, shortened for a message: it may be of any length."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
