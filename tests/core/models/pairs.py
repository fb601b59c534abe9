"""Tiny models with an encoder and a decoder, random weights in float32, and what transformers makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from infer.core.api.llm import LLM
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams

VOCABULARY = 120
#: Of encoder inputs: around the ends of blocks, and longer than a step of decodes.
LENGTHS = (1, 3, 16, 17, 40, 70)

T5 = {
    **{"d_model": 48, "d_kv": 12, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
    **{"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": 0},
}
BART = {
    **{"d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 80, "max_position_embeddings": 128, "pad_token_id": 1, "eos_token_id": 2},
    **{"bos_token_id": 0, "decoder_start_token_id": 2, "forced_eos_token_id": None},
}
#: model_type -> what its configs have in common.
COMMON: dict[str, dict[str, Any]] = {
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    **dict.fromkeys(("bart", "mbart", "pegasus", "marian", "m2m_100"), BART),
}


@dataclass(frozen=True)
class Pair:
    """A model in a folder, and as transformers has it."""

    folder: Path
    theirs: Any

    def llm(self, **settings: Any) -> LLM:
        given = {
            "max_num_seqs": 16,
            "dtype": "float32",
            "kv_cache_memory_bytes": 1 << 24,
            "max_model_len": 128,
            "skip_tokenizer_init": True,
        }
        return LLM(model=str(self.folder), **{**given, **settings})

    @torch.inference_mode()
    def logprobs(self, source: list[int], written: list[int]) -> torch.Tensor:
        """log_softmax [tokens, vocabulary] behind each of the decoder's tokens, one by one from the first that it draws."""
        start = len(written) - 1
        logits = self.theirs(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([written]), use_cache=False).logits
        assert start >= 0
        return logits.log_softmax(-1)[0]


def pair_of(kind: str, folder: Path, seed: int = 0, **more: Any) -> Pair:
    """One of a kind whose logits are far from each other."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, **COMMON[kind], **more})
    theirs = transformers.AutoModelForSeq2SeqLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "relative_attention_bias" in name:
                parameter.normal_(0, 2)
            elif parameter.dim() > 1 and "shared" not in name and "embed" not in name:
                parameter.normal_(0, 1.5 * parameter.shape[1] ** -0.5)
            elif parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
        if hasattr(theirs, "final_logits_bias"):
            theirs.final_logits_bias.normal_()
    theirs.save_pretrained(folder)
    return Pair(folder, theirs)


def sources(seed: int = 3) -> list[list[int]]:
    """Encoder inputs of `LENGTHS`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


def told(output: RequestOutput) -> list[Any]:
    """All that an answer says of its choices, to the bit."""
    return [
        (choice.token_ids, choice.finish_reason, [sorted((i, e.logprob) for i, e in entries.items()) for entries in choice.logprobs or ()])
        for choice in output.outputs
    ]


def greedy(max_tokens: int = 12, **more: Any) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=3, ignore_eos=True, **more)
