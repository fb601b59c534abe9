"""An `LLM` that is let go of gives its memory back there and then: the next model may need it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import pytest
import torch

from infer.core import LLM, BeamSearchParams, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=4, logprobs=1, prompt_logprobs=1)
DRAWN = SamplingParams(n=2, top_p=0.9, max_tokens=4, repetition_penalty=1.2, bad_words=["b"], stop=["zz"])


@contextmanager
def no_collector() -> Iterator[None]:
    """Objects in a circle of references stay."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def tensors_of(root: object) -> list[weakref.ref[torch.Tensor]]:
    """Every tensor that is reached from an object, but for what is not its own: classes, functions and modules."""
    seen, left, found = {id(root)}, [root], []
    while left:
        for one in gc.get_referents(left.pop()):
            if id(one) in seen or isinstance(one, (type, ModuleType, FunctionType, BuiltinFunctionType)):
                continue
            seen.add(id(one))
            if isinstance(one, torch.Tensor):
                found.append(weakref.ref(one))
            else:
                left.append(one)
    return found


def generate(llm: LLM) -> None:
    llm.generate(["abcabc", "b"], GREEDY, use_tqdm=False)
    llm.generate(["abcabc", "b"], DRAWN, use_tqdm=False)
    llm.beam_search(["ab"], BeamSearchParams(beam_width=2, max_tokens=3))
    next(iter(llm.stream(["ab", "abc"], GREEDY)))


def embed(llm: LLM) -> None:
    llm.embed(["the cat sat", "rain"], use_tqdm=False)


def score(llm: LLM) -> None:
    llm.score("the cat", ["rain", "sun"], use_tqdm=False)


@pytest.mark.parametrize(
    ("folder", "use", "settings"),
    [
        ("tiny_llama", generate, {}),
        ("tiny_llama", generate, {"kernels": "reference"}),
        ("tiny_llama", generate, {"quantization": "int8", "kernels": "reference"}),
        ("tiny_llama", generate, {"model_impl": "transformers"}),
        ("tiny_bert", embed, {}),
        ("tiny_ranker", score, {}),
        ("qwen_folder", embed, {}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_weights_go_with_their_llm(request: pytest.FixtureRequest, folder: str, use: Any, settings: dict[str, Any]) -> None:
    path = str(request.getfixturevalue(folder))
    with no_collector():
        llm = LLM(path, device="cpu", dtype="float32", **settings)
        use(llm)
        tensors = tensors_of(llm)
        assert len(tensors) > 10
        del llm
        left = [tuple(tensor.shape) for tensor in (ref() for ref in tensors) if tensor is not None and tensor.numel()]
        assert left == []
