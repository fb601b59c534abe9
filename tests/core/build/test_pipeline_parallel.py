"""A model that is cut into stages gives the bytes of one that is not, whatever the cut and the steps; on processes, and together in one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from infer.core import LLM, BeamSearchParams, SamplingParams
from infer.core.build import engines
from infer.core.build.generating import Loaded, Room, load
from infer.core.build.stage_runner import StageRunner
from infer.core.engine.batch import Batch
from infer.core.errors import ConfigError
from infer.core.parallel.group import SINGLE
from infer.core.parallel.met import Met
from infer.core.parallel.stages import Place
from infer.core.settings.config import EngineConfig
from infer.core.weights.source import ModelSource

pytestmark = pytest.mark.usefixtures("forked_ranks")

PROMPTS = [[(7 * i + j * j) % 250 for j in range(5 + 9 * i)] for i in range(7)]
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 12, "mamba_d_state": 10, "mamba_d_conv": 3, "mamba_chunk_size": 8, "num_hidden_layers": 3}

#: Stacks whose layers are of several kinds, or whose ends have more than an embedding and a norm; and in how many stages.
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "llama": ({"num_hidden_layers": 5, "tie_word_embeddings": True}, 5),
    "gpt2": ({"n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 256}, 2),
    "gemma2": ({"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 20}, 2),
    "bamba": ({**MAMBA, "mamba_n_groups": 2, "attn_layer_indices": [1]}, 3),
    "qwen3_next": (
        {
            "full_attention_interval": 2,
            "head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 12,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 64,
        },
        2,
    ),
}


def saved(kind: str, folder: Path) -> Path:
    torch.manual_seed(3)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2}
    common = {"vocab_size": 257, "initializer_range": 0.2} | ({} if kind == "gpt2" else sizes | {"max_position_embeddings": 256})
    config = AutoConfig.for_model(kind, **{**common, **KINDS[kind][0]})
    AutoModelForCausalLM.from_config(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def of_one_rank(llama: Path) -> list[str]:
    return answers(llama)


def answers(model: Path, *, check: Callable[[LLM], None] | None = None, **more: Any) -> list[str]:
    """All that is said of tokens: greedy ones with log-probabilities of prompts too, and two drawn choices with penalties."""
    settings: dict[str, Any] = {"device": "cpu", "skip_tokenizer_init": True, "num_gpu_blocks_override": 60, "dtype": "float32", **more}
    llm = LLM(str(model), **settings)
    try:
        greedy = SamplingParams(temperature=0, max_tokens=12, logprobs=2, prompt_logprobs=1, detokenize=False, ignore_eos=True)
        drawn = SamplingParams(temperature=0.9, n=2, max_tokens=10, frequency_penalty=0.5, detokenize=False, ignore_eos=True)
        prompts = [{"prompt_token_ids": ids} for ids in PROMPTS]
        found = [output for params in (greedy, drawn) for output in llm.generate(prompts, params, use_tqdm=False)]
        assert all(output.error is None for output in found)
        llm.engine.scheduler.check_integrity()  # type: ignore[union-attr]
        if check is not None:
            check(llm)
        return [repr((one.prompt_logprobs, [(choice.token_ids, choice.logprobs) for choice in one.outputs])) for one in found]
    finally:
        llm.close()


class Queue:
    """A channel within one process, whose tensors are copied as between two."""

    def __init__(self) -> None:
        self.messages: deque[list[Tensor]] = deque()
        self.most = 0

    def send(self, tensors: Sequence[Tensor]) -> None:
        self.messages.append([tensor.clone() for tensor in tensors])
        self.most = max(self.most, len(self.messages))

    def receive(self) -> list[Tensor]:
        return self.messages.popleft()


class Together(StageRunner):
    """The last stage, with all before it in the same process: they compute a batch as soon as it is begun."""

    loaded: list[Loaded]
    others: list[StageRunner]
    queues: list[Queue]

    @property
    def num_stages(self) -> int:
        return len(self.others) + 1

    @property
    def can_be_shared(self) -> bool:
        return False

    @property
    def num_states(self) -> int:
        return max(StageRunner.num_states.fget(one) for one in (self, *self.others))  # type: ignore[attr-defined]

    def begin(self, batch: Batch) -> None:
        for stage in self.others:
            stage.run(Batch.from_arrays([array.copy() for array in batch.arrays()]))


def in_one_process(config: EngineConfig, source: ModelSource, wrap_ops: Any = None, tower: Any = None) -> tuple[StageRunner, int]:
    count = config.pipeline_parallel_size
    queues = [Queue() for _ in range(count - 1)]
    ends: list[Queue | None] = [None, *queues, None]
    places = [Place.of(count - 1 - number, 1, count) for number in range(count)]
    loaded = [load(config, source, Met(place, SINGLE, *ends[i : i + 2])) for i, place in enumerate(places)]
    room = Room(*map(min, zip(*(one.room for one in loaded), strict=True)))
    *others, last = [one.runner(config, room) for one in loaded]
    runner = Together(last.model, last.ops, last.caches, last.block_size, last.device, last.pools, last.before)
    runner.any_rows, runner.adapters = last.any_rows, last.adapters
    runner.others, runner.queues, runner.loaded = others, queues, loaded
    return runner, room.num_blocks


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are not processes but runners of this one."""
    monkeypatch.setattr(engines, "build_runner", in_one_process)


def cut_right(llm: LLM) -> None:
    """Each layer, and what it keeps, is in one stage, both ends are where they belong, and batches were on their way."""
    runner = llm.engine.runner  # type: ignore[union-attr]
    assert isinstance(runner, Together)
    models: list[Any] = [stage.model for stage in (*runner.others, runner)]
    stack = models[0].stack
    assert [model.first + i for model in models for i in range(len(model.layers))] == [*range(len(stack.layers))]
    assert sum(len(one.caches) for one in (*runner.others, runner)) == len(stack.caches)
    assert sum(len(states) for model in models for states in model.states) == len(stack.states)
    held = [bool(model.embedding.table.numel()) for model in models], [bool(model.norm.weight.numel()) for model in models]
    assert held == ([True] + [False] * (len(models) - 1), [False] * (len(models) - 1) + [True])
    assert not any(queue.messages for queue in runner.queues)
    assert runner.queues[-1].most == len(models), "as many batches on their way as there are stages"


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_all_kinds_are_cut_and_nothing_changes(
    kind: str, together: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(kind, tmp_path)
    found = answers(model, pipeline_parallel_size=KINDS[kind][1], check=cut_right)
    small = answers(model, pipeline_parallel_size=2, max_num_seqs=3, max_num_batched_tokens=32, num_gpu_blocks_override=14)
    monkeypatch.undo()
    alone = answers(model)
    assert found == alone
    assert small == alone, "batches of other sizes, and sequences that gave their blocks back"


@pytest.mark.parametrize("settings", [{"quantization": "int8"}, {"dtype": "bfloat16"}, {"kv_cache_dtype": "int8", "speculation": "ngram"}])
def test_other_weights_caches_and_guesses(settings: dict[str, Any], llama: Path, together: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers(llama, pipeline_parallel_size=3, **settings)
    monkeypatch.undo()
    assert found == answers(llama, **settings)


def test_dummy_weights_are_those_of_one_rank(llama: Path, together: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers(llama, pipeline_parallel_size=2, load_format="dummy")
    monkeypatch.undo()
    assert found == answers(llama, load_format="dummy")


def test_beams_stay_in_one_lane_and_what_follows_is_shared_out(llama: Path, together: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(**more: Any) -> tuple[list[Any], list[Any]]:
        llm = LLM(str(llama), device="cpu", skip_tokenizer_init=True, num_gpu_blocks_override=60, dtype="float32", **more)
        params = SamplingParams(temperature=0, max_tokens=30, detokenize=False, ignore_eos=True)
        beams = llm.beam_search([{"prompt_token_ids": ids} for ids in PROMPTS[:3]], BeamSearchParams(beam_width=3, max_tokens=6))
        after = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)
        llm.engine.scheduler.check_integrity()  # type: ignore[union-attr]
        return [[beam.tokens for beam in one.sequences] for one in beams], [one.outputs[0].token_ids for one in after]

    found = run(pipeline_parallel_size=2)
    monkeypatch.undo()
    assert found == run()


def test_two_processes(llama: Path, of_one_rank: list[str]) -> None:
    """Over shared memory: small steps, so that many are on their way."""
    assert answers(llama, pipeline_parallel_size=2, max_num_seqs=4, max_num_batched_tokens=48) == of_one_rank


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"disable_custom_all_reduce": True}, {"max_num_batched_tokens": 512}])
def test_three_processes(llama: Path, more: dict[str, Any], of_one_rank: list[str]) -> None:
    assert answers(llama, pipeline_parallel_size=3, **more) == of_one_rank


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"disable_custom_all_reduce": True}])
def test_two_stages_of_two_ranks(llama: Path, more: dict[str, Any]) -> None:
    sizes = {"tensor_parallel_size": 2}
    assert answers(llama, pipeline_parallel_size=2, **sizes, **more) == answers(llama, **sizes)


def test_what_cannot_be_cut_is_refused_before_anything_starts(llama: Path, bert_folder: Path) -> None:
    for count, message in ((6, r"pipeline_parallel_size=6: the model has 5 layers; lower it to 5"), (0, "must be at least 1")):
        with pytest.raises(ConfigError, match=message):
            LLM(str(llama), device="cpu", pipeline_parallel_size=count, skip_tokenizer_init=True)
    with pytest.raises(ConfigError, match="pipeline_parallel_size: models that pool are not cut into stages yet"):
        LLM(str(bert_folder), device="cpu", pipeline_parallel_size=2)
