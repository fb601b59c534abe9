"""A tiny Whisper with random weights and a tokenizer, in a folder, and as transformers has it; and sounds that are made."""

from __future__ import annotations

import io
import json
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from numpy.typing import NDArray

#: Windows of one second.
POSITIONS, RATE = 50, 16000
_SPECIAL = ("endoftext", "startoftranscript", "en", "de", "fr", "translate", "transcribe", "startoflm", "startofprev", "nospeech")
TEXT_TOKENS = 260
TOKEN = {name: TEXT_TOKENS + i for i, name in enumerate((*_SPECIAL, "notimestamps"))}
FIRST_TIME = TOKEN["notimestamps"] + 1
VOCABULARY = FIRST_TIME + POSITIONS + 1
SUPPRESSED = [3, 7, TOKEN["translate"], TOKEN["transcribe"], TOKEN["startoflm"], TOKEN["startofprev"], TOKEN["nospeech"]]


@dataclass(frozen=True)
class Whisper:
    """A model in a folder, and as transformers has it."""

    folder: Path
    theirs: Any
    extractor: Any
    tokenizer: Any

    @torch.inference_mode()
    def transcribe(self, samples: NDArray[np.float32], **options: Any) -> dict[str, Any]:
        """transformers' sequences and segments of samples at RATE."""
        long = len(samples) > RATE
        read = self.extractor(
            samples, sampling_rate=RATE, return_tensors="pt", truncation=False, padding="longest" if long else "max_length"
        )
        found = self.theirs.generate(read["input_features"], return_segments=True, return_timestamps=True, **options)
        tokens = found["sequences"][0].tolist()
        text = self.tokenizer.decode([token for token in tokens if token < TEXT_TOKENS])
        return {"text": text.strip(), "segments": found["segments"][0]}


def whisper_of(folder: Path, seed: int = 0, sharp: float = 5.0, **more: Any) -> Whisper:
    """`sharp`: scale of logits."""
    sizes: dict[str, Any] = {
        **{"d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
        **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 80, "max_source_positions": POSITIONS, "max_target_positions": 64},
        **{"num_mel_bins": 16, "vocab_size": VOCABULARY, "pad_token_id": TOKEN["endoftext"], "bos_token_id": TOKEN["endoftext"]},
        **{"eos_token_id": TOKEN["endoftext"], "decoder_start_token_id": TOKEN["startoftranscript"]},
    }
    torch.manual_seed(seed)
    theirs = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**{**sizes, **more})).float().eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name == "model.decoder.layer_norm.weight":
                parameter.fill_(sharp)
            elif "decoder.embed" in name:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
            elif name.endswith(("out_proj.weight", "fc2.weight")):
                parameter.normal_(0, 4 * parameter.shape[1] ** -0.5)
            elif parameter.dim() > 1 and "embed_positions" not in name:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5)
            elif parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    told = theirs.generation_config
    values = {
        "suppress_tokens": SUPPRESSED,
        "begin_suppress_tokens": [5, TOKEN["endoftext"]],
        "no_timestamps_token_id": TOKEN["notimestamps"],
        "max_initial_timestamp_index": 20,
        "is_multilingual": True,
        "lang_to_id": {f"<|{name}|>": TOKEN[name] for name in ("en", "de", "fr")},
        "task_to_id": {name: TOKEN[name] for name in ("transcribe", "translate")},
        "prev_sot_token_id": TOKEN["startofprev"],
        "forced_decoder_ids": [[1, None], [2, TOKEN["transcribe"]]],
        "max_length": 64,
    }
    for name, value in values.items():
        setattr(told, name, value)
    told.decoder_start_token_id = TOKEN["startoftranscript"]
    theirs.save_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    extractor.save_pretrained(folder)
    tokenizer = _tokenizer(folder)
    return Whisper(folder, theirs, extractor, tokenizer)


def _tokenizer(folder: Path) -> tokenizers.Tokenizer:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: i for i, char in enumerate(alphabet)} | {f"Ġ{char}": 256 + i for i, char in enumerate("abcd")}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[("Ġ", char) for char in "abcd"]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens([f"<|{name}|>" for name in TOKEN])
    made.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(POSITIONS + 1)])
    assert made.get_vocab_size() == VOCABULARY
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "tokenizer_class": "WhisperTokenizer"}))
    return made


def sound(seconds: float, seed: int = 0, rate: int = RATE) -> NDArray[np.float32]:
    """A voice that goes up and down, with noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    pitch = 2 * np.pi * np.cumsum(200 + 150 * np.sin(2 * np.pi * (0.7 + 0.1 * seed) * time)) / rate
    loud = 0.3 * (1 + np.sin(2 * np.pi * 1.3 * time))
    values = loud * sum(np.sin(pitch * k) / k for k in range(1, 6)) / 2 + 0.01 * generator.standard_normal(len(time))
    return np.clip(values, -1, 1).astype(np.float32)


def wav(values: NDArray[np.float32], rate: int = RATE) -> bytes:
    """16 bits, one channel."""
    file = io.BytesIO()
    with wave.open(file, "wb") as one:
        one.setnchannels(1)
        one.setsampwidth(2)
        one.setframerate(rate)
        one.writeframes((values * 32767).astype("<i2").tobytes())
    return file.getvalue()


def as_read(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of samples in such a file."""
    return ((values * 32767).astype("<i2") / np.float32(32768)).astype(np.float32)
