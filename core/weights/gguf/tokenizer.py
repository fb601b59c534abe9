"""tokenizer.json and tokenizer_config.json from a GGUF file's metadata."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ModelError, nearest
from .metadata import Metadata

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

#: Values of tokenizer.ggml.token_type.
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
UNDERLINE = "\u2581"  # how SentencePiece writes a space
SPECIAL = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id", "pad_token": "padding_token_id"}
#: What a SentencePiece vocabulary means when its metadata does not say (as in llama.cpp).
SENTENCEPIECE_IDS = {"bos_token": 1, "eos_token": 2, "unk_token": 0}


@dataclass(frozen=True)
class Split:
    """The cuts that a byte-level vocabulary makes in text before its merges apply, as in the tokenizer.json of the models that brought it.

    `ignore_merges`: a piece that is a token is taken whole. `add_bos`: what a file without add_bos_token means.
    """

    pattern: str | None = None  # None: GPT-2's own rule
    digits: bool = False  # every digit is a piece of its own
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = Split(LLAMA3, ignore_merges=True, add_bos=True)
#: By tokenizer.ggml.pre.
SPLITS = {
    "default": Split(),
    "gpt-2": Split(),
    "smollm": Split(digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smaug-bpe": Split(LLAMA3),
    "qwen2": Split(QWEN2, nfc=True),
    "deepseek-r1-qwen": Split(QWEN2, nfc=True),
    "tekken": Split(TEKKEN, ignore_merges=True, add_bos=True),
}


def tokenizer(meta: Metadata) -> dict[str, Any] | None:
    """tokenizer.json, or None if the file carries no vocabulary. Raises ModelError for kinds of tokenizer that are not read."""
    kind = meta.text("tokenizer.ggml.model")
    tokens = meta.items("tokenizer.ggml.tokens", str)
    if kind is None or tokens is None:
        return None
    try:
        if kind == "gpt2":
            built = _byte_level(meta, tokens)
        elif kind == "llama":
            built = _sentencepiece(meta, tokens)
        else:
            raise ModelError(f"{meta.path}: tokenizer {kind!r} is not read from GGUF (known: gpt2, llama); use the model's original folder")
        _add_tokens(built, meta, tokens)
        _add_template(built, meta, tokens)
    except ModelError:
        raise
    except Exception as e:  # the tokenizers library raises bare Exception for a vocabulary that does not fit its merges
        raise ModelError(f"{meta.path}: its tokenizer cannot be rebuilt: {e}") from e
    return json.loads(built.to_str())


def tokenizer_config(meta: Metadata) -> dict[str, Any] | None:
    """tokenizer_config.json: special tokens, which of them are added, and the chat template (several as a list of name and text)."""
    tokens = meta.items("tokenizer.ggml.tokens", str)
    if tokens is None:
        return None
    adds = _adds(meta)
    found: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: tokens[id] for name, id in _special_ids(meta, tokens).items()},
        "add_bos_token": adds[0],
        "add_eos_token": adds[1],
        "clean_up_tokenization_spaces": False,
    }
    if length := meta.integer(".context_length"):
        found["model_max_length"] = length
    template = meta.text("tokenizer.chat_template")
    named = {n: meta.text(f"tokenizer.chat_template.{n}") for n in meta.items("tokenizer.chat_templates", str) or []}
    if any(named.values()):
        templates = {"default": template, **named}
        found["chat_template"] = [{"name": name, "template": text} for name, text in templates.items() if text]
    elif template:
        found["chat_template"] = template
    return found


def _byte_level(meta: Metadata, tokens: Sequence[str]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = meta.items("tokenizer.ggml.merges", str)
    if merges is None:
        raise ModelError(f"{meta.path}: its byte-level tokenizer lacks tokenizer.ggml.merges; convert the model again")
    split = _split(meta)
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    built = Tokenizer(models.BPE(vocab=_vocab(tokens), merges=pairs, ignore_merges=split.ignore_merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.pattern is None)
    steps: list[Any] = [byte_level]
    if split.digits:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    if split.pattern is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"))
    built.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else byte_level
    if split.nfc:
        built.normalizer = normalizers.NFC()
    built.decoder = decoders.ByteLevel()
    return built


def _sentencepiece(meta: Metadata, tokens: Sequence[str]) -> Tokenizer:
    """SentencePiece BPE merges the pair whose result scores best, so the merges are all pairs that make a token, best first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocab = _vocab(tokens)
    unknown = tokens[_special_ids(meta, tokens).get("unk_token", 0)]
    byte_fallback = "<0x0A>" in vocab
    model = models.BPE(vocab=vocab, merges=_merges(meta, tokens, vocab), unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback)
    built = Tokenizer(model)
    steps: list[Any] = [normalizers.Replace(" ", UNDERLINE)]
    decode: list[Any] = [decoders.Replace(UNDERLINE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if meta.flag("tokenizer.ggml.add_space_prefix") is not False:
        steps.insert(0, normalizers.Prepend(UNDERLINE))
        decode.append(decoders.Strip(content=" ", left=1))
    built.normalizer = normalizers.Sequence(steps)
    built.decoder = decoders.Sequence(decode)
    return built


def _merges(meta: Metadata, tokens: Sequence[str], vocab: dict[str, int]) -> list[tuple[str, str]]:
    scores = meta.items("tokenizer.ggml.scores", float)
    if scores is None or len(scores) != len(tokens):
        raise ModelError(f"{meta.path}: its tokenizer lacks a score for each token; convert the model again")
    types = _types(meta, tokens)
    found = []
    for id, token in enumerate(tokens):
        if types[id] in {UNKNOWN, CONTROL, USER_DEFINED, BYTE}:
            continue  # never made by merging
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                found.append((-scores[id], id, vocab[left], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _add_tokens(built: Tokenizer, meta: Metadata, tokens: Sequence[str]) -> None:
    """Control tokens are special (left out of text on request), user-defined ones are plain, but both are never cut up."""
    from tokenizers import AddedToken

    types = _types(meta, tokens)
    special = {CONTROL, UNKNOWN}
    added = [
        # A token spelled with SentencePiece's space is looked for in the normalized text.
        AddedToken(token, special=type in special, normalized=type == USER_DEFINED and UNDERLINE in token)
        for token, type in zip(tokens, types, strict=True)
        if type in special or type == USER_DEFINED
    ]
    built.add_tokens(added)


def _add_template(built: Tokenizer, meta: Metadata, tokens: Sequence[str]) -> None:
    from tokenizers import processors

    ids = _special_ids(meta, tokens)
    parts: dict[str, int] = {}
    single, pair = ["$A"], ["$B:1"]
    for wanted, name, at in zip(_adds(meta), ("bos_token", "eos_token"), (0, 2), strict=True):
        if wanted and name in ids:
            token = tokens[ids[name]]
            parts[token] = ids[name]
            single.insert(at, token)
            pair.insert(at, f"{token}:1")
    if parts:
        built.post_processor = processors.TemplateProcessing(
            single=" ".join(single), pair=" ".join([*single, *pair]), special_tokens=list(parts.items())
        )


def _adds(meta: Metadata) -> tuple[bool, bool]:
    """(BOS is put before each text, EOS after it)"""
    bos, eos = meta.flag("tokenizer.ggml.add_bos_token"), meta.flag("tokenizer.ggml.add_eos_token")
    if bos is None:
        bos = meta.text("tokenizer.ggml.model") == "llama" or _split(meta).add_bos
    return bos, bool(eos)


def _split(meta: Metadata) -> Split:
    name = meta.text("tokenizer.ggml.pre")
    if name is None and meta.text("tokenizer.ggml.model") == "gpt2":
        log.warning(
            "%s does not say how its tokenizer cuts text (tokenizer.ggml.pre); GPT-2's rule is used and may not be the model's", meta.path
        )
    if (name or "default") not in SPLITS:
        why = f"tokenizer.ggml.pre {name!r} is not known{nearest(str(name), SPLITS)}"
        raise ModelError(f"{meta.path}: {why} (known: {', '.join(SPLITS)}); use the model's original folder")
    return SPLITS[name or "default"]


def _special_ids(meta: Metadata, tokens: Sequence[str]) -> dict[str, int]:
    defaults = SENTENCEPIECE_IDS if meta.text("tokenizer.ggml.model") == "llama" else {}
    ids = {name: meta.integer(f"tokenizer.ggml.{key}") for name, key in SPECIAL.items()}
    found = {name: defaults.get(name) if id is None else id for name, id in ids.items()}
    for name, id in found.items():
        if id is not None and not 0 <= id < len(tokens):
            raise ModelError(f"{meta.path}: its {name} is token {id}, but there are {len(tokens)} tokens; convert the model again")
    return {name: id for name, id in found.items() if id is not None}


def _types(meta: Metadata, tokens: Sequence[str]) -> list[int]:
    types = meta.items("tokenizer.ggml.token_type", int) or [1] * len(tokens)
    if len(types) != len(tokens):
        raise ModelError(f"{meta.path}: {len(types)} token types for {len(tokens)} tokens; convert the model again")
    return types


def _vocab(tokens: Sequence[str]) -> dict[str, int]:
    """A token listed twice keeps its first id."""
    vocab: dict[str, int] = {}
    for id, token in enumerate(tokens):
        vocab.setdefault(token, id)
    return vocab
