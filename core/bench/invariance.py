"""Invariance: proof that what a record gets depends on the record alone, by answering the same records in many ways.

The records are answered one at a time and by one thread first. Every check answers them again, in another batch, cut, cached or preempted,
and compares the bits: token ids, and log-probabilities as they are. Another check multiplies random rows by the model's own weights, alone
and among others.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from infer.kernels import set_threads
from infer.kernels.ops import ROW_MULTIPLE, Rows, ScaledRows

from ..build.engines import build_engine
from ..build.generating import DTYPES
from ..build.plan import make_plan
from ..engine.engine import Engine
from ..layers.linear import Linear
from ..settings.args import EngineArgs
from ..settings.threads import choose_threads
from ..types.outputs import CompletionOutput, Logprob
from ..types.params import SamplingParams
from ..types.request import Request

#: Sequences that run at a time, one of them being compared with what it gets alone.
BATCHES = (2, 3, 16, 64, 256, 2048)
#: Most tokens of a step: prompts are cut into chunks of so many.
CHUNKS = (5, 16, 64, 512)
#: Rows of the multiplication that smaller ones are compared with, and those.
ROWS = 2048
FEW_ROWS = (1, 2, 3, 16, 17, 64, 100, 512, 1000)
#: A layer as wide as a vocabulary never sees more rows than sequences.
WIDE, ROWS_OF_WIDE = 16384, 256
#: Tokens of prompt and output together of the longest record.
LONGEST = 120
#: Tokens of a block of the KV cache.
BLOCK = 16


@dataclass(frozen=True)
class Difference:
    """
    Args:
        compared, differ: records, or rows.
        largest: of log-probabilities, or of elements of rows; infinite where a token that one has is none of the other's likely ones.
        tokens: records whose tokens differ.
    """

    compared: int = 0
    differ: int = 0
    largest: float = 0.0
    tokens: int = 0

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.compared + other.compared, self.differ + other.differ, max(self.largest, other.largest), self.tokens + other.tokens
        )


@dataclass(frozen=True)
class Check:
    """
    Args:
        settings: of the engine.
        fillers: short records beside the others, of which nothing is compared.
        passes: how often the records are answered; the last counts.
        backwards: they come in the other order.
        reached: true of the engine if what was to be tried did happen.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    fillers: int = 0
    passes: int = 1
    backwards: bool = False
    reached: Callable[[Engine], bool] = lambda engine: True


@dataclass(frozen=True)
class Form:
    """A way of keeping weights and keys and values, all checks of which have one base."""

    name: str
    settings: Mapping[str, Any]


def forms_of_toy(device: str) -> list[Form]:
    """Types and schemes to try on a device ("cpu", "cuda"); what it cannot do is said when it is tried."""
    forms = [
        Form("float32", {"dtype": "float32"}),
        Form("bfloat16", {"dtype": "bfloat16"}),
        Form("int8", {"dtype": "bfloat16", "quantization": "int8", "quantize_lm_head": True}),
        Form("int4", {"dtype": "bfloat16", "quantization": "int4"}),
        Form("KV in 8 bits", {"dtype": "bfloat16", "kv_cache_dtype": "int8" if device == "cpu" else "fp8"}),
    ]
    if device == "cpu":
        return forms
    forms += [Form("float16", {"dtype": "float16"}), Form("fp8", {"dtype": "bfloat16", "quantization": "fp8"})]
    return [Form(form.name, {**form.settings, "deterministic": True}) for form in forms]


#: config.json of a model that is enough to go wrong: shared keys, odd sizes, a vocabulary beyond one tile.
TOY = {
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 224,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "torch_dtype": "float32",
    "eos_token_id": 0,
}


def toy_model(folder: Path) -> dict[str, Any]:
    """Settings of a small model with random weights; its config.json is written into `folder`."""
    (folder / "config.json").write_text(json.dumps(TOY))
    return {"model": str(folder), "load_format": "dummy", "skip_tokenizer_init": True, "seed": 1}


def checks(records: int, batches: Sequence[int], most_threads: int) -> list[Check]:
    """All ways of answering `records` records that must not matter."""
    threads = sorted({n for n in (2, 4, 8, 16, 32, 64, 128, most_threads) if 1 < n <= max(2, most_threads)})
    # Two choices of the longest record, and little more: records take the blocks away from each other.
    few_blocks = 2 * (-(-LONGEST // BLOCK)) + 4
    found = [
        *(Check(f"{n:,} sequences at a time", {"max_num_seqs": n}, fillers=max(0, n - records)) for n in batches),
        *(Check(f"chunks of {n} tokens", {"max_num_batched_tokens": n, "max_num_seqs": min(n - 1, 64)}) for n in CHUNKS),
        Check("backwards", {"max_num_seqs": 7}, backwards=True),
        Check("prefixes cached", {"enable_prefix_caching": True}, passes=2, reached=lambda engine: engine.stats.num_cached_tokens > 0),
        Check(
            "preempted",
            {"max_num_seqs": 16, "num_gpu_blocks_override": few_blocks},
            reached=lambda engine: engine.stats.num_preemptions > 0,
        ),
        Check("blocks of 4 tokens", {"block_size": 4}),
        *(Check(f"{n} threads", {"threads": n}) for n in threads),
        *(
            # With few sequences one lane does it all.
            Check(
                f"{n} lanes",
                {"lanes": n, "threads": n, "max_num_seqs": 32 * n},
                fillers=32 * n,
                reached=lambda engine: engine.config.lanes > 1,
            )
            for n in (2, 4)
        ),
        Check("speculation", {"speculation": "ngram"}, reached=lambda engine: getattr(engine.stats, "num_drafts", 0) > 0),
    ]
    return [check for check in found if check.settings.keys() <= EngineArgs.settings().keys()]


def measure_invariance(
    args: EngineArgs,
    forms: Sequence[Form],
    *,
    records: int = 40,
    batches: Sequence[int] = BATCHES,
    on_form: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """The model of `args` in each form by each check; JSON. Raises InferError for what is not about one form.

    A form that cannot be had here has an `error`, and no checks.
    """
    from ..errors import ConfigError, ModelError

    threads = torch.get_num_threads()
    told, most = [], choose_threads(args.threads).count
    try:
        for form in forms:
            on_form(form.name)
            one: dict[str, Any] = {"name": form.name, "settings": dict(form.settings), "error": None, "checks": []}
            try:
                trial = _Trial(args, form, records)
                found = [("linear layers: rows in batches", trial.rows, True)]
                found += [(check.name, *trial.run(check)) for check in checks(records, batches, most)]
                one["dtype"] = trial.dtype
                one["checks"] = [_told(name, difference, reached) for name, difference, reached in found]
            except (ConfigError, ModelError) as error:
                if len(forms) == 1:
                    raise
                one["error"] = str(error)
            told.append(one)
    finally:
        set_threads(threads)
    differ = sum(check["differ"] > 0 for one in told for check in one["checks"])
    return {"records": records, "forms": told, "checks_that_differ": differ}


def _told(name: str, difference: Difference, reached: bool) -> dict[str, Any]:
    return {
        "name": name,
        "equal": difference.differ == 0,
        "compared": difference.compared,
        "differ": difference.differ,
        "tokens_differ": difference.tokens,
        "largest": difference.largest if difference.largest != float("inf") else None,
        "reached": reached,
    }


class _Trial:
    """A model in one form, and what its records get one at a time."""

    def __init__(self, args: EngineArgs, form: Form, records: int) -> None:
        self._args, self._records = replace(args, **form.settings), records
        with self._engine(Check("alone", {"max_num_seqs": 1, "enable_prefix_caching": False})) as engine:
            self.dtype = engine.config.dtype
            self.rows = _rows_of_all(engine, DTYPES[self.dtype])
            self._requests = list(_requests(records, engine.vocab_size))
            self._base = _answers(engine, self._requests)

    def run(self, check: Check) -> tuple[Difference, bool]:
        """The records answered as the check says, against the base; and if the check tried what it is for."""
        with self._engine(check) as engine:
            requests = self._requests[::-1] if check.backwards else self._requests
            fillers = list(_fillers(check.fillers, engine.vocab_size))
            for _ in range(check.passes):
                got = _answers(engine, [*fillers[::2], *requests, *fillers[1::2]])
            return _compared(self._base, got), check.reached(engine)

    @contextmanager
    def _engine(self, check: Check) -> Iterator[Engine]:
        # Room for all of them at a time: two choices of the longest record, one block of a filler.
        blocks = 2 * self._records * -(-LONGEST // check.settings.get("block_size", BLOCK)) + check.fillers
        # One thread but where threads are what is tried: the answers say the same, and a busy machine waits for none of the others.
        settings = {
            "max_num_seqs": 64,
            "max_num_batched_tokens": 2048,
            "threads": 1,
            "block_size": BLOCK,
            "num_gpu_blocks_override": blocks,
        }
        settings |= {"max_model_len": LONGEST, **check.settings}
        engine = build_engine(make_plan(replace(self._args, **settings)))
        try:
            yield engine
        finally:
            engine.close()


@torch.inference_mode()
def _rows_of_all(engine: Engine, dtype: torch.dtype) -> Difference:
    """Random rows multiplied by each shape of weight the model has, alone and among others."""
    model, seen, found = engine.runner.model, set(), Difference()
    for layer in [*model.linears(), model.head]:
        kind = (layer.method.kind, layer.in_features, layer.out_features)
        if kind not in seen:
            seen.add(kind)
            found += _rows(layer, dtype)
    return found


def _requests(count: int, vocab_size: int) -> Iterator[Request]:
    """Prompts of many lengths, half of them with a common beginning, some that repeat themselves; greedy, sampled, and two choices."""
    dice = random.Random(0)
    common = dice.choices(range(vocab_size), k=2 * BLOCK + 5)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0, "logprobs": 4},
        {"temperature": 0.8, "logprobs": 2},
        {"temperature": 1.0, "top_p": 0.9, "top_k": 30, "n": 2, "logprobs": 1},
        {"temperature": 0.0, "repetition_penalty": 1.2, "logprobs": 2},
    ]
    for i in range(count):
        own = dice.choices(range(vocab_size), k=1 + i * 7 % 60)
        if i % 4 == 0:
            own = (own[:9] * 7)[: len(own)]
        params = SamplingParams(max_tokens=20 if i % 4 == 0 else 6 + i % 7, ignore_eos=True, **kinds[i % len(kinds)])
        yield Request(f"record {i}", common + own if i % 2 else own, params, i)


def _fillers(count: int, vocab_size: int) -> Iterator[Request]:
    dice = random.Random(1)
    for i in range(count):
        params = SamplingParams(max_tokens=6, ignore_eos=True, temperature=0.0)
        yield Request(f"filler {i}", dice.choices(range(vocab_size), k=1 + i % 3), params, 1_000_000 + i)


def _answers(engine: Engine, requests: Sequence[Request]) -> dict[str, list[CompletionOutput]]:
    for request in requests:
        engine.add(replace(request, prompt_token_ids=list(request.prompt_token_ids)))
    got: dict[str, list[CompletionOutput]] = {}
    while engine.num_unfinished:
        for output in engine.step():
            if output.error is not None:
                raise output.error
            got[output.request_id] = output.outputs
    return got


def _compared(base: Mapping[str, Sequence[CompletionOutput]], got: Mapping[str, Sequence[CompletionOutput]]) -> Difference:
    found = Difference()
    for name, expected in base.items():
        if got[name] == expected:
            found += Difference(1)
            continue
        pairs = list(zip(expected, got[name], strict=True))
        largest = max(_furthest(one, other) for one, other in pairs)
        found += Difference(1, 1, largest, int(any(one.token_ids != other.token_ids for one, other in pairs)))
    return found


def _furthest(one: CompletionOutput, other: CompletionOutput) -> float:
    """The largest difference of log-probabilities up to the first token that differs, behind which the texts are two."""
    largest = 0.0
    for i, (a, b) in enumerate(zip(one.logprobs or (), other.logprobs or (), strict=False)):
        largest = max(largest, _apart(a, b))
        if one.token_ids[i] != other.token_ids[i]:
            break
    return largest


def _apart(one: Mapping[int, Logprob], other: Mapping[int, Logprob]) -> float:
    both = one.keys() & other.keys()
    return max((abs(one[token].logprob - other[token].logprob) for token in both), default=float("inf"))


def _rows(layer: Linear, dtype: torch.dtype) -> Difference:
    """The first and some later rows of a large batch, computed again in smaller ones."""
    count = ROWS_OF_WIDE if layer.out_features > WIDE else ROWS
    device = next(layer.parameters()).tensor.device if any(True for _ in layer.parameters()) else torch.device("cpu")
    x = torch.randn(count, layer.in_features, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    whole, found = _plain(layer(x)), Difference()
    for few in (n for n in FEW_ROWS if n < count):
        for start in (0, (count - few) // 2 + 1, count - few):
            part = torch.zeros(-(-few // ROW_MULTIPLE) * ROW_MULTIPLE, layer.in_features, dtype=dtype, device=device)
            part[:few] = x[start : start + few]
            apart = (_plain(layer(part))[:few] - whole[start : start + few]).abs().amax(dim=1)
            found += Difference(few, int((apart > 0).sum()), float(apart.max()))
    return found


def _plain(rows: Rows) -> torch.Tensor:
    """float32, factors multiplied in."""
    return rows.values.float() * rows.scale.float()[:, None] if isinstance(rows, ScaledRows) else rows.float()
