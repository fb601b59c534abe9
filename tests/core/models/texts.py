"""Tiny models of transformers and ours beside them: what the tests of pooling models share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from infer.core import models
from infer.core.build.pooling import load_pooling_model
from infer.core.models.encoder import Encoder
from infer.core.models.pooling_model import PoolingModel
from infer.core.pooling.recipe import Recipe
from infer.core.quant.int8 import Int8
from infer.core.settings.args import EngineArgs
from infer.core.spec.read import read_spec
from infer.core.weights.find import find
from infer.core.weights.loader import load
from infer.core.weights.renamed import fit
from infer.core.weights.source import ModelSource, TensorInfo
from infer.kernels import load as load_kernels
from infer.kernels.ops import ROW_MULTIPLE, Segments

VOCABULARY = 160
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 160,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}


def with_int8(backend: str) -> str:
    """This backend, or the reference where the CPU has no exact int8 products for it."""
    return backend if load_kernels(backend).supports_int8() else "reference"


EMBED = Recipe(kind="embed", pooling="last", normalize=True, hidden_size=48)


@dataclass(frozen=True)
class Tensors(ModelSource):
    """A checkpoint in memory."""

    found: dict[str, Tensor]

    def read(self, filename: str) -> bytes | None:
        return None

    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(name, tuple(tensor.shape), "F32", "memory") for name, tensor in self.found.items()}

    def stream(self, cuts: object = None) -> Iterator[tuple[str, Tensor]]:
        yield from self.found.items()


def checkpoint(found: dict[str, Tensor]) -> Tensors:
    return Tensors("tiny", Path("tiny"), found)


def oracle_of(kind: str, changes: dict[str, Any] | None = None, auto: Any = transformers.AutoModel, **tiny: Any) -> Any:
    """A model of transformers with random weights in float32; `auto` is the class of its task."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**TINY, **tiny, **(changes or {})})
    model = auto.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # norms are all ones and biases zeros at first: that would hide a missing one
            torch.nn.init.normal_(parameter, 1.0 if "orm" in name and name.endswith("weight") else 0.0, 0.3)
        elif "embeddings" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.5)  # the padding's too
    return model


def encoder_of(
    oracle: Any,
    backend: str = "reference",
    *,
    dtype: torch.dtype = torch.float32,
    int8: bool = False,
    labels: int = 0,
    hf: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> Encoder:
    ops = load_kernels(backend)
    spec = read_spec(hf or oracle.config.to_dict())
    model = models.build_encoder(spec, ops, labels=labels, choose=(lambda _: Int8(ops)) if int8 else None)
    wanted = {part.name for parameter in model.parameters() for part in parameter.parts}
    found = fit(checkpoint(oracle.state_dict() if weights is None else weights), model.stack, wanted, whole=False)
    load(model.parameters(), found, dtype, torch.device("cpu"))
    model.allocate(128, torch.device("cpu"))
    return model


def texts_of(*lengths: int) -> list[list[int]]:
    """Token ids above those that have a meaning."""
    dice = torch.Generator().manual_seed(2)
    return [torch.randint(3, VOCABULARY, (n,), generator=dice).tolist() for n in lengths]


def types_of(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The later half of each text is of type 1."""
    return [[int(i >= len(text) / 2) for i in range(len(text))] for text in texts]


@torch.inference_mode()
def hidden_of(
    model: PoolingModel, texts: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None, rows: Sequence[int] | None = None
) -> list[Tensor]:
    """Hidden states of each text, all in one step; with `rows` those of these token rows alone, in one tensor."""
    tokens = [t for text in texts for t in text]
    pad = [0] * (-len(tokens) % ROW_MULTIPLE)
    positions = [i for text in texts for i in range(len(text))]
    starts = torch.tensor([0, *(len(text) for text in texts)]).cumsum(0).int()
    kinds = None if types is None else torch.tensor([t for one in types for t in one] + pad)
    wanted = None if rows is None else torch.tensor([*rows, *[0] * (-len(rows) % ROW_MULTIPLE)])
    hidden = model.forward(torch.tensor(tokens + pad), torch.tensor(positions + pad), kinds, Segments(starts), wanted)
    expected = len(tokens) + len(pad) if wanted is None else len(wanted)
    assert hidden.shape == (expected, model.hidden_size)
    return list(hidden[: len(tokens)].split(starts.diff().tolist())) if rows is None else [hidden[: len(rows)]]


@torch.inference_mode()
def expected_of(oracle: Any, texts: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> list[Tensor]:
    """What transformers' base model says of each text by itself."""
    found = []
    for i, text in enumerate(texts):
        more = {} if types is None else {"token_type_ids": torch.tensor([types[i]])}
        found.append(oracle(input_ids=torch.tensor([text]), **more).last_hidden_state[0])
    return found


def loaded(folder: Path, backend: str = "reference", recipe: Recipe = EMBED, dtype: str = "float32", **settings: Any) -> PoolingModel:
    source = find(str(folder))
    hf = source.read_json("config.json")
    assert hf is not None
    args = EngineArgs.from_kwargs(
        model=str(folder), device="cpu", dtype=dtype, kernels=backend, block_size=16, **{"max_model_len": 128, **settings}
    )
    return load_pooling_model(
        args.resolve(read_spec(hf)), source, load_kernels(backend), recipe, getattr(torch, dtype), torch.device("cpu")
    )


def classify(*labels: str, pooling: str = "last") -> Recipe:
    return Recipe(kind="classify", pooling=pooling, normalize=False, hidden_size=48, labels=labels)


def renamed(folder: Path, change: Any) -> None:
    """Writes the folder's tensors under the names `change` gives; None leaves one out."""
    file = folder / "model.safetensors"
    save_file({new: tensor for name, tensor in load_file(file).items() if (new := change(name)) is not None}, file, {"format": "pt"})


def with_config(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder
