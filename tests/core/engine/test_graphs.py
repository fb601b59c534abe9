"""Recorded steps: what is replayed gives what the plain step gives, and padding touches nothing.

A recording here is the Python function itself. That it may be one on a GPU rests on what is checked about it: it is called with the
same memory at every replay, whatever the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from infer.core.build.recording import LAYER_BYTES, graph_bytes, is_recorded, unrecordable
from infer.core.engine import graphs as graphs_module
from infer.core.engine.batch import Batch
from infer.core.engine.engine import Engine
from infer.core.engine.graphs import MOST_LATER, CudaRecorder, StepGraphs, StepSizes, decode_sizes, mixed_sizes
from infer.core.engine.runner import Runner
from infer.core.engine.static_inputs import MOST_GROUPS, StaticInputs, StepSize
from infer.core.engine.stopping import EndTokens
from infer.core.errors import EngineError
from infer.core.memory.device_memory import MemoryPlan
from infer.core.memory.kv_cache import KVShape
from infer.core.memory.prefixes import prefix_groups
from infer.core.memory.state_pools import StateShape
from infer.core.parallel.met import ALONE
from infer.core.settings.args import EngineArgs
from infer.core.settings.config import EngineConfig
from infer.core.spec.read import read_spec
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request
from infer.kernels import load as load_kernels
from infer.kernels.ops import NULL_BLOCK, AttentionMeta, DecodeLaunch
from infer.kernels.state import NULL_STATE

from . import stacks
from .stacks import BLOCK_SIZE, LENGTH

CPU = torch.device("cpu")
NUM_BLOCKS = 100
SPARE = NUM_BLOCKS + 1
MAX_CONTEXT = 24
NEVER_CUT = DecodeLaunch(0, joins=False)


class FakeRecorder:
    """Replays by calling; a recording that is made is not run, as with CUDA."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        compute()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            compute()

        return replay


def recorded(
    runner: Runner,
    most: int,
    *,
    tokens: int = 0,
    spare_slot: int = SPARE * BLOCK_SIZE,
    launch: DecodeLaunch = NEVER_CUT,
    alone: bool = True,
) -> FakeRecorder:
    """Gives the runner graphs of decodes up to `most`, and of mixed steps of up to so many tokens."""
    recorder, sizes = FakeRecorder(), StepSizes.choose(most, tokens, launch)
    sizes = sizes if tokens else StepSizes(sizes.decodes, [], launch)
    inputs = StaticInputs(sizes.largest, MAX_CONTEXT, BLOCK_SIZE, CPU, spare_slot=spare_slot)
    runner.graphs = StepGraphs(runner.model, runner.caches, inputs, sizes, recorder, runner.pools, alone=alone)
    return recorder


def alone(size: int) -> StepSize:
    """Of decodes."""
    return StepSize(size, size)


def pair(
    most: int, backend: str = "reference", tokens: int = 0, launch: DecodeLaunch = NEVER_CUT, **described: Any
) -> tuple[Runner, Runner, FakeRecorder]:
    """Two runners of one model: without graphs and with them."""
    model = stacks.load(stacks.described(load_kernels(backend), **{"num_layers": 2, **described}))
    eager, replaying = (stacks.runner_of(model, NUM_BLOCKS + 1) for _ in range(2))
    return eager, replaying, recorded(replaying, most, tokens=tokens, launch=launch)


def prompts(count: int) -> list[tuple[list[int], int, list[int]]]:
    """Prompts of 1 to 20 tokens, each with blocks of its own and room for more."""
    lengths = [1 + i * 7 % 20 for i in range(count)]
    tables = np.random.default_rng(0).permutation(np.arange(1, NUM_BLOCKS + 1))
    starts = np.cumsum([0, *(length // BLOCK_SIZE + 2 for length in lengths)])
    return [
        ([(i * 5 + j) % stacks.VOCABULARY for j in range(length)], 0, tables[starts[i] : starts[i + 1]].tolist())
        for i, length in enumerate(lengths)
    ]


def following(sequences: list[tuple[list[int], int, list[int]]], token: int) -> list[tuple[list[int], int, list[int]]]:
    return [([(token + i) % stacks.VOCABULARY], before + len(tokens), blocks) for i, (tokens, before, blocks) in enumerate(sequences)]


def content(runner: Runner) -> Tensor:
    """Everything in the caches but the spare block, and the states of sequences."""
    used = (pool[NULL_STATE + 1 : 18] for pools in runner.pools for pool in pools)
    return torch.cat([tensor[:SPARE].flatten() for cache in runner.caches for tensor in cache] + [one.flatten() for one in used])


@pytest.fixture
def easily(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is short here counts as long, and three steps of a kind are many."""
    monkeypatch.setattr(graphs_module, "prefix_groups", partial(prefix_groups, least=8))
    monkeypatch.setattr(graphs_module, "LONG", 8)
    monkeypatch.setattr(graphs_module, "PATIENCE", 3)


def test_sizes() -> None:
    assert decode_sizes(1) == [1]
    assert decode_sizes(3) == [1, 2, 4]
    assert decode_sizes(8) == [1, 2, 4, 8]
    assert decode_sizes(17) == [1, 2, 4, 8, 16, 24]
    assert decode_sizes(256)[-2:] == [248, 256]
    assert decode_sizes(1024)[-2:] == decode_sizes(10_000)[-2:] == [960, 1024]
    assert len(decode_sizes(256)) == 35
    assert mixed_sizes(1) == [16]
    assert mixed_sizes(100)[-1] == 112
    assert mixed_sizes(8192)[-2:] == [1920, 2048]
    joined = StepSizes.choose(1024, 8192).of(960 + 64 * 16, 1024)  # by a sixteenth of all, with short prompts
    assert joined == StepSize(2048, 1025)
    assert joined.prompts > 64
    assert all(size % 16 == 0 and size <= before * 9 / 8 for before, size in itertools.pairwise(mixed_sizes(8192)) if before >= 128)


@pytest.mark.parametrize("most", [1, 2, 15, 16, 300])
def test_every_step_up_to_the_largest_has_a_size(most: int) -> None:
    """With a place for the sequence that has the tokens that are too many."""
    sizes = StepSizes.choose(most, 512)
    for tokens in range(1, 513):
        for sequences in {1, 2, tokens - 1, tokens, most} - {0}:
            if not sequences <= min(tokens, most):
                continue
            size = sizes.of(tokens, sequences)
            assert size is not None
            assert size.decodes_alone == (tokens == sequences)
            assert size.tokens >= tokens
            assert size.sequences >= sequences + (tokens < size.tokens)
    assert sizes.of(513, 1) is None
    assert sizes.of(40, most + 1) is None or most + 1 <= sizes.decodes[-1].sequences or most + 1 > 40


def test_sizes_for_later() -> None:
    """Those of few sequences where decodes would be whole, and those with groups where they are looked at."""
    sizes = StepSizes.choose(256, 2048, DecodeLaunch(32, joins=True))
    assert sizes.of_few(StepSize(2048, 257)) == StepSize(2048, 16)
    assert sizes.of_few(StepSize(32, 31)) is sizes.of_few(alone(64)) is None
    assert sizes.joined(alone(32)) == StepSize(32, 32, MOST_GROUPS)
    assert sizes.joined(StepSize(2048, 257)) == StepSize(2048, 257, MOST_GROUPS)
    assert sizes.joined(alone(24)) is None
    assert sizes.largest == StepSize(2048, 257, MOST_GROUPS)
    assert {size.groups for size in sizes.first} == {0}
    assert not StepSizes.choose(256, 2048).later
    assert all(not size.groups for size in StepSizes.choose(256, 2048, DecodeLaunch(32, joins=False)).later)
    assert not StepSizes.choose(20, 2048, DecodeLaunch(32, joins=True)).later


HYBRID = {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}


@pytest.mark.parametrize("described", [{}, {"quantization": "int8"}, HYBRID], ids=["plain", "int8", "with states"])
def test_every_batch_size_gives_what_the_plain_step_gives(described: dict[str, Any]) -> None:
    """Sizes go down and up again, so that each padded row held another sequence before."""
    eager, replaying, recorder = pair(17, **described)
    everyone = prompts(17)
    for runner in (eager, replaying):
        runner.run(stacks.step(*everyone))
    assert recorder.replayed == 0
    for number, count in enumerate([*range(17, 0, -1), 2, 9, 16]):
        batch = stacks.step(*following(everyone[:count], 3 + number))
        want, got = eager.run(batch), replaying.run(batch)
        assert recorder.replayed == number + 1
        assert want.shape == (count, stacks.VOCABULARY)
        assert torch.equal(got, want), count
        assert torch.equal(content(replaying), content(eager)), count


def test_padding_stores_nothing() -> None:
    _, replaying, recorder = pair(16)
    sequences = following(prompts(3), 5)
    before = [tensor.clone() for cache in replaying.caches for tensor in cache]
    batch = stacks.step(*sequences)
    replaying.run(batch)
    assert recorder.replayed == 1
    written = {slot: slot // BLOCK_SIZE for slot in batch.slots.tolist()}
    for old, new in zip(before, (tensor for cache in replaying.caches for tensor in cache), strict=True):
        changed = (old != new).flatten(2).any(-1).nonzero().tolist()
        assert NULL_BLOCK not in {block for block, _ in changed}
        assert {block * BLOCK_SIZE + place for block, place in changed} - {SPARE * BLOCK_SIZE} == set(written)


def test_what_stands_for_nobody() -> None:
    """Rows that held sequences before: no tokens, no context, nowhere to store."""
    inputs = StaticInputs(StepSize(8, 8), MAX_CONTEXT, BLOCK_SIZE, CPU, spare_slot=-1)
    everyone = prompts(8)
    # Each piece of memory on the host holds in turn more and fewer sequences, and longer and shorter ones, than it did.
    counts = ((8, 8), (3, 4), (5, 8), (2, 2), (8, 8), (1, 8), (7, 8), (2, 4), (8, 8), (1, 1), (1, 8), (3, 8))
    for turn, (count, size) in enumerate(counts):
        batch = stacks.step(*following((everyone if turn % 2 else everyone[::-1])[:count], 3))
        inputs.fill(batch, alone(size))
        meta = inputs.meta(alone(size))
        assert inputs.tokens(alone(size)).tolist() == batch.tokens[:count].tolist() + [0] * (16 - count)
        assert inputs.positions(alone(size)).tolist() == batch.positions[:count].tolist() + [0] * (16 - count)
        assert inputs.logit_rows(alone(size)).tolist() == batch.logit_rows.tolist()[:count] + [0] * (16 - count)
        assert meta.query_start.tolist() == list(range(size + 1))
        assert meta.kv_lens.tolist() == batch.kv_lens.tolist() + [0] * (size - count)
        assert meta.states.slots.tolist() == batch.state_slots.tolist() + [NULL_STATE] * (size - count)
        assert meta.slots.tolist() == batch.slots.tolist() + [-1] * (size - count)
        width = batch.block_tables.shape[1]
        want = np.full((size, meta.block_tables.shape[1]), NULL_BLOCK)
        want[:count, :width] = batch.block_tables[:, : want.shape[1]]
        assert meta.block_tables.tolist() == want.tolist()


def test_what_a_null_block_or_a_freed_one_holds_reaches_nobody() -> None:
    eager, replaying, _ = pair(8)
    everyone = prompts(5)
    used = {block for _, _, blocks in everyone for block in blocks}
    for runner in (eager, replaying):
        for cache in runner.caches:
            for tensor in cache:
                tensor[[block for block in range(1, SPARE + 1) if block not in used]] = float("nan")
        runner.run(stacks.step(*everyone))
    for count in (5, 3):
        batch = stacks.step(*following(everyone[:count], 8))
        got = replaying.run(batch)
        assert got.isfinite().all()
        assert torch.equal(got, eager.run(batch))


def test_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the batch, a size's recording meets the memory it was recorded with."""
    calls: dict[int, set[tuple[Any, ...]]] = {}
    given: list[int] = []
    model = stacks.load(stacks.described(load_kernels("reference"), num_layers=2))
    forward = model.forward

    def watched(tokens: Tensor, positions: Tensor, caches: Any, meta: Any, rows: Tensor | None = None, pools: Any = ()) -> Tensor:
        tensors = [
            tokens,
            positions,
            meta.query_start,
            meta.kv_lens,
            meta.block_tables,
            meta.slots,
            meta.state_slots,
            *(t for c in caches for t in c),
        ]
        key = tuple((t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors)
        assert all(t.data_ptr() % 16 == 0 for t in tensors)
        calls.setdefault(len(meta.kv_lens), set()).add(key)
        given.append(len(meta.kv_lens))
        assert rows is None
        return forward(tokens, positions, caches, meta, rows, pools)

    monkeypatch.setattr(model, "forward", watched)
    runner = stacks.runner_of(model, NUM_BLOCKS + 1)
    recorder = recorded(runner, 16)
    assert given == [16, 8, 4, 2, 1], "largest first: smaller ones fit into its memory"
    everyone = prompts(16)
    addresses = set()
    assert runner.graphs is not None
    for count in (1, 2, 3, 5, 8, 11, 16, 4, 7, 1):
        batch = stacks.step(*following(everyone[:count], count))
        size = runner.graphs.size_of(batch)
        assert size is not None
        with torch.inference_mode():
            addresses.add(runner.graphs.run(batch, size).data_ptr())
    assert recorder.recorded == 5
    assert given[5:] == [1, 2, 4, 8, 8, 16, 16, 4, 8, 1], "each runs in the least size that it fits"
    assert all(len(keys) == 1 for keys in calls.values()), "recorded and replayed on the same memory"
    assert len(addresses) == 1


def test_which_steps_are_replayed() -> None:
    _, replaying, _ = pair(8, tokens=32)
    graphs = replaying.graphs
    assert graphs is not None
    decode = ([4], 9, [1, 2, 3])
    assert graphs.size_of(stacks.step(decode)) == alone(1)
    assert graphs.size_of(stacks.step(*[decode] * 8)) == alone(8)
    assert graphs.size_of(stacks.step(*[decode] * 9)) is None
    assert graphs.size_of(stacks.step(decode, ([4, 5], 9, [1, 2, 3]))) == StepSize(16, 9)
    assert graphs.size_of(stacks.step(([4, 5, 6], 0, [1]))) == StepSize(16, 9)
    long = list(range(1, 9))
    assert graphs.size_of(stacks.step((long * 2, 0, long), *[decode] * 7)) == StepSize(32, 9)
    assert graphs.size_of(stacks.step((long * 2, 0, long), *[decode] * 8)) is None
    assert graphs.size_of(stacks.step((long * 2, 0, long), (long * 2, 0, long), decode)) is None
    assert graphs.size_of(stacks.step(*[([4, 5], 0, [1])] * 8)) == StepSize(16, 9)
    assert graphs.size_of(stacks.step(*[([4, 5], 0, [1])] * 7)) == StepSize(16, 9), "seven and the one of nobody's"
    assert graphs.size_of(stacks.step(decode, ([4], MAX_CONTEXT - 1, long))) == alone(2)
    assert graphs.size_of(stacks.step(decode, ([4], MAX_CONTEXT, long))) is None
    wanted = stacks.step(decode)
    prompt = Batch.from_arrays([*wanted.arrays()[:-1], np.array([wanted.num_logits, wanted.prompt_start, 1])])
    assert graphs.size_of(prompt) is None


@pytest.mark.parametrize("described", [{}, {"quantization": "int8"}, HYBRID], ids=["plain", "int8", "with states"])
def test_mixed_steps_give_what_the_plain_step_gives(described: dict[str, Any]) -> None:
    """Prompts, chunks, decodes and sequences that draw nothing, in many numbers; each size's rows held other sequences before."""
    eager, replaying, recorder = pair(9, tokens=48, **described)
    for pool in (pool for runner in (eager, replaying) for pools in runner.pools for pool in pools):
        pool.zero_()
    everyone = prompts(9)
    choose = np.random.default_rng(1)
    done = [0] * len(everyone)
    for number in range(60):
        some = sorted(choose.permutation(9)[: int(choose.integers(1, 8))].tolist())
        parts = []
        for row in some:
            tokens, _, blocks = everyone[row]
            if done[row] >= min(len(tokens) + 3, len(blocks) * BLOCK_SIZE):
                done[row] = 0  # begins again, over what it left
            left = len(tokens) - done[row]
            count = int(choose.integers(1, left + 1)) if left > 0 else 1
            parts.append((tokens[done[row] : done[row] + count] if left > 0 else [number % 50], done[row], blocks))
            done[row] += count
        draw = [bool(one) for one in choose.integers(0, 2, len(some) - 1)] + [True]
        arrays = stacks.step(*parts, draw=draw).arrays()
        arrays[10] = np.array(some, np.int32) + 1  # states stay a sequence's own
        batch = Batch.from_arrays(arrays)
        want, got = eager.run(batch), replaying.run(batch)
        assert torch.equal(got, want), number
        assert torch.equal(content(replaying), content(eager)), number
    assert recorder.replayed > 50


def test_rows_of_nobody_read_and_store_nothing() -> None:
    """A mixed step's: what was in the memory before, and blocks that are not the batch's, reach nobody."""
    eager, replaying, recorder = pair(8, tokens=64)
    everyone = prompts(6)
    for runner in (eager, replaying):
        runner.run(stacks.step(*everyone))  # fills the memory with others' slots and tables
        for cache in runner.caches:
            for tensor in cache:
                tensor[1:] = float("nan")
    assert recorder.replayed == 1
    few = [everyone[4], ([7, 8], 0, everyone[1][2])]
    batch = stacks.step(*few)
    got = replaying.run(batch)
    assert recorder.replayed == 2
    assert got.isfinite().all()
    assert torch.equal(got, eager.run(batch))
    for mine, its in zip((t for c in replaying.caches for t in c), (t for c in eager.caches for t in c), strict=True):
        assert torch.equal(mine[:SPARE].nan_to_num(7.0), its[:SPARE].nan_to_num(7.0))


@pytest.mark.parametrize("draw", [[True, False, True, False, True], [False, True, True, True, True], [False] * 5])
def test_sequences_that_do_not_draw(draw: list[bool]) -> None:
    """A prompt's last chunk but one may be of one token."""
    eager, replaying, recorder = pair(8)
    everyone = prompts(5)
    for runner in (eager, replaying):
        runner.run(stacks.step(*everyone))
    batch = stacks.step(*following(everyone, 9), draw=draw)
    want, got = eager.run(batch), replaying.run(batch)
    assert want.shape == (sum(draw), stacks.VOCABULARY)
    assert torch.equal(got, want)
    assert torch.equal(content(replaying), content(eager))
    assert recorder.replayed == 1


def test_tokens_that_only_the_device_has() -> None:
    eager, replaying, recorder = pair(8)
    everyone = prompts(3)
    for runner in (eager, replaying):
        runner.run(stacks.step(*everyone))
    known = following(everyone, 20)
    drawn = torch.tensor([99, 22, -1, 20])
    asked = [([token], before, blocks) for token, (_, before, blocks) in zip((-4, 21, -2), known, strict=True)]
    want = eager.run(stacks.step(*known))
    replaying.drawn = drawn
    assert torch.equal(replaying.run(stacks.step(*asked)), want)
    assert recorder.replayed == 1
    # One that could not be drawn is computed as token 0.
    zero = stacks.step(*[([0], before, blocks) for _, before, blocks in known[:1]])
    assert torch.equal(replaying.run(stacks.step(([-3], *known[0][1:]))), eager.run(zero))


def test_copies_come_before_a_replay() -> None:
    eager, replaying, recorder = pair(4)
    everyone = prompts(2)
    for runner in (eager, replaying):
        runner.run(stacks.step(*everyone))
    first = everyone[0][2][0]
    batch = stacks.step(*following([(everyone[0][0], 0, [50, *everyone[0][2][1:]])], 9))
    arrays = batch.arrays()
    arrays[7] = np.array([[first, 50]])
    batch = Batch.from_arrays(arrays)
    assert len(batch.copies) == 1
    assert torch.equal(replaying.run(batch), eager.run(batch))
    assert recorder.replayed == 1


def test_triton_kernels_store_nothing_at_slot_minus_one() -> None:
    """As graphs are used with them: no spare block, and a token that only the device has."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("the test on the GPU does it")
    model = stacks.load(stacks.described(load_kernels("cuda"), num_layers=1, hidden_size=64, num_attention_heads=4))
    eager, replaying = (stacks.runner_of(model, 8) for _ in range(2))
    recorder = FakeRecorder()
    sizes = StepSizes([alone(4)], [StepSize(16, 5)])
    inputs = StaticInputs(sizes.largest, 8, BLOCK_SIZE, CPU, spare_slot=-1)
    replaying.graphs = StepGraphs(model, replaying.caches, inputs, sizes, recorder)
    sequences: list[tuple[list[int], int, list[int]]] = [([3, 4, 5], 0, [6]), ([7], 0, [2]), ([9, 8, 7, 6, 5], 0, [5, 3])]
    for runner in (eager, replaying):
        runner.run(stacks.step(*sequences))
    for count in (3, 2):
        known = following(sequences[:count], 11)
        replaying.drawn = torch.tensor([1, *known[-1][0]])
        asked = [*known[:-1], ([-2], *known[-1][1:])]
        want, got = eager.run(stacks.step(*known)), replaying.run(stacks.step(*asked))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)  # the table's width decides how contexts are cut
        for cache, other in zip(eager.caches, replaying.caches, strict=True):
            for mine, its in zip(cache, other, strict=True):
                assert torch.equal(mine, its)
    assert recorder.replayed == 3


@pytest.mark.parametrize("kwargs", [{}, {"num_blocks": 14}, {"max_num_seqs": 3, "max_num_batched_tokens": 6}])
def test_a_whole_engine_gives_the_same(easily: None, kwargs: dict[str, Any]) -> None:
    """With chunks, choices and records that share blocks, preemption, sizes recorded later and contexts that grow out of all of them."""
    config = {"max_num_seqs": 8, "max_num_batched_tokens": 32, **kwargs}
    num_blocks = config.pop("num_blocks", NUM_BLOCKS)

    def outputs(*, graphs: bool) -> tuple[dict[str, Any], FakeRecorder, int]:
        model = stacks.load(stacks.described(load_kernels("reference"), num_layers=2))
        runner = stacks.runner_of(model, NUM_BLOCKS + 1)
        recorder = recorded(runner, 6, tokens=24, launch=DecodeLaunch(6, joins=True)) if graphs else FakeRecorder()
        recorder.recorded = 0
        config["speculation"] = "off"  # as on GPUs, which graphs are for
        args = EngineArgs.from_kwargs(model="fake", device="cpu", dtype="float32", kernels="reference", block_size=BLOCK_SIZE, **config)
        resolved = args.resolve(read_spec({"model_type": "llama", "max_position_embeddings": LENGTH}))
        engine = Engine(resolved, runner, num_blocks, None, EndTokens(None, frozenset()), stacks.VOCABULARY)
        for index in range(9):
            prompt = [(7 * i + index * (i > 8)) % stacks.VOCABULARY for i in range(1 + index * 2)]
            params = SamplingParams(max_tokens=4 + index * 2, temperature=0.8 * (index % 2), n=1 + (index == 3), logprobs=1)
            engine.add(Request(str(index), prompt, params, index))
        found = {}
        while engine.num_unfinished:
            for output in engine.step():
                assert output.error is None
                found[output.request_id] = [(o.token_ids, o.logprobs) for o in output.outputs]
        return found, recorder, engine.stats.num_preemptions

    plain, _, preemptions = outputs(graphs=False)
    replayed, recorder, _ = outputs(graphs=True)
    assert replayed == plain
    assert recorder.replayed > 5
    assert bool(recorder.recorded) == (not kwargs), "sizes for later, where there is room for many sequences that go on together"
    assert bool(preemptions) == (num_blocks < NUM_BLOCKS)


#: The first three blocks of all, and nobody's own token in them.
ALIKE = [([5 + row], 12 + row % 4, [1, 2, 3, 10 + row]) for row in range(6)]
APART = [([9 + row], 12 + row % 4, [20 + 4 * row, 21 + 4 * row, 22 + 4 * row, 23 + 4 * row]) for row in range(6)]


def metas_of(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> list[AttentionMeta]:
    """Those that a runner's model is called with from now on."""
    seen: list[AttentionMeta] = []
    forward = runner.model.forward

    def watched(tokens: Tensor, positions: Tensor, caches: Any, meta: AttentionMeta, *rest: Any, **more: Any) -> Tensor:
        prefixes = None if meta.prefixes is None else type(meta.prefixes)(*(part.clone() for part in meta.prefixes))
        seen.append(replace(meta, prefixes=prefixes))
        return forward(tokens, positions, caches, meta, *rest, **more)

    monkeypatch.setattr(runner.model, "forward", watched)
    return seen


def test_steps_that_share_prefixes_get_a_recording_of_their_own(easily: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they are many; in it what they share is padded, and nothing of an earlier step is left. Others go on as before."""
    eager, replaying, recorder = pair(8, launch=DecodeLaunch(4, joins=True))
    seen = metas_of(replaying, monkeypatch)
    at_first = recorder.recorded

    def both(*sequences: tuple[list[int], int, list[int]]) -> AttentionMeta:
        """The last that the model was called with."""
        batch = stacks.step(*sequences)
        assert torch.equal(eager.run(batch), replaying.run(batch))
        assert torch.equal(content(replaying), content(eager))
        return seen[-1]

    for number in range(8):
        assert both(*APART[:5]).prefixes is None
        prefixes = both(*ALIKE).prefixes
        assert (prefixes is not None) == (number >= 2)
    assert recorder.recorded == at_first + 1
    mixed = both(*ALIKE[1:4], *APART[:2], *ALIKE[:1]).prefixes
    assert mixed is not None
    assert mixed.members.tolist() == [0, 1, 2, 5, 0, 0, 0, 0]
    assert mixed.starts.tolist() == [0, *[4] * MOST_GROUPS]
    assert mixed.lengths.tolist() == [12, *[0] * (MOST_GROUPS - 1)]
    assert mixed.shared.tolist() == [12, 12, 12, 0, 0, 12, 0, 0]
    other = [(tokens, before, [30, 31, *blocks[2:]]) for tokens, before, blocks in APART]
    prefixes = both(*ALIKE[:3], *other[3:]).prefixes
    assert prefixes is not None
    assert prefixes.members.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert prefixes.starts.tolist() == [0, 3, *[6] * (MOST_GROUPS - 1)]
    assert prefixes.shared.tolist() == [12, 12, 12, 8, 8, 8, 0, 0]
    assert both(*ALIKE[:2], *APART[2:]).prefixes is None, "a seventh of all keys is not worth it"
    assert recorder.recorded == at_first + 1


def test_few_long_decodes_beside_a_prompt_get_a_recording_of_their_own(easily: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In it no more sequences have room; other mixed steps go on as before."""
    eager, replaying, recorder = pair(16, tokens=32, launch=DecodeLaunch(8, joins=False))
    seen = metas_of(replaying, monkeypatch)
    at_first = recorder.recorded
    prompt, short = (list(range(1, 18)), 0, [90, 91, 92, 93, 94]), ([3], 2, [80])
    for number in range(5):
        for step, few in (((APART[0], prompt, APART[1]), number >= 2), ((short, prompt), False), ((prompt, *APART[:4]), False)):
            batch = stacks.step(*step)
            assert torch.equal(eager.run(batch), replaying.run(batch))
            assert torch.equal(content(replaying), content(eager))
            assert len(seen[-1].kv_lens) == (4 if few else 17)
    assert recorder.recorded == at_first + 1


def test_what_cannot_be_recorded_later_is_done_without(
    easily: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once; but where ranks share the model, others may have recorded it: then the run ends."""
    for is_alone in (True, False):
        model = stacks.load(stacks.described(load_kernels("reference"), num_layers=1))
        runner = stacks.runner_of(model, NUM_BLOCKS + 1)
        recorder = recorded(runner, 8, launch=DecodeLaunch(4, joins=True), alone=is_alone)
        before = [runner.run(stacks.step(*ALIKE)) for _ in range(2)]
        monkeypatch.setattr(recorder, "record", _out_of_memory)
        if not is_alone:
            with pytest.raises(EngineError, match="no GPU memory for CUDA graphs"):
                runner.run(stacks.step(*ALIKE))
            continue
        for _ in range(5):
            assert torch.equal(runner.run(stacks.step(*ALIKE)), before[0])
        assert caplog.text.count("no GPU memory for CUDA graphs") == 1


def _out_of_memory(compute: Callable[[], None]) -> Callable[[], None]:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_what_goes_wrong_names_the_flag() -> None:
    model = stacks.load(stacks.described(load_kernels("reference"), num_layers=1))
    runner = stacks.runner_of(model)

    class Full(FakeRecorder):
        def record(self, compute: Callable[[], None]) -> Callable[[], None]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    class Refusing(FakeRecorder):
        def record(self, compute: Callable[[], None]) -> Callable[[], None]:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    sizes = StepSizes([alone(1)], [])
    inputs = StaticInputs(sizes.largest, 8, BLOCK_SIZE, CPU, spare_slot=-1)
    with pytest.raises(EngineError, match="lower --gpu-memory-utilization, or try --enforce-eager"):
        StepGraphs(model, runner.caches, inputs, sizes, Full())
    with pytest.raises(EngineError, match="cannot be recorded: operation not permitted when stream is capturing; try --enforce-eager"):
        StepGraphs(model, runner.caches, inputs, sizes, Refusing())


def config_of(**settings: Any) -> EngineConfig:
    args = EngineArgs.from_kwargs(model="fake", device="cpu", dtype="float32", kernels="reference", block_size=BLOCK_SIZE, **settings)
    return args.resolve(read_spec({"model_type": "llama", "max_position_embeddings": LENGTH}))


def test_where_nothing_is_recorded() -> None:
    """A CPU has nothing to gain; of a GPU it is told."""
    model = stacks.load(stacks.described(load_kernels("reference"), num_layers=1))
    plain: Any = {"ops_are_plain": True}
    assert not is_recorded(config_of(), model, model.ops, ALONE, CPU, **plain)
    assert unrecordable(config_of(), model, model.ops, ALONE, **plain) == "the reference kernels read lengths from the device"
    ops = load_kernels("reference")
    ops.name = "cuda"
    assert unrecordable(config_of(), model, ops, ALONE, ops_are_plain=False) == "operations are timed one by one"
    assert unrecordable(config_of(cpu_offload_gb=1), model, ops, ALONE, **plain) == "cpu_offload_gb moves weights"
    assert unrecordable(config_of(), model, ops, ALONE, **plain) == ""
    gpu = torch.device("cuda")
    assert is_recorded(config_of(), model, ops, ALONE, gpu, **plain)
    assert not is_recorded(config_of(enforce_eager=True), model, ops, ALONE, gpu, **plain)


def test_their_memory_is_seen_before_there_is_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the largest steps, and of smaller ones, whose attention may need more room; as they are recorded."""
    model = stacks.load(stacks.described(load_kernels("reference"), num_layers=2))
    seen: list[tuple[int, int]] = []

    def watched(tokens: Tensor, positions: Tensor, caches: Any, meta: AttentionMeta, **more: Any) -> Tensor:
        seen.append((len(meta.slots), len(meta.kv_lens)))
        return torch.zeros(len(tokens), model.hidden_size)

    class Plan:
        def beside(self, run: Callable[[], None], noun: str) -> int:
            run()
            return 12345

    monkeypatch.setattr(model, "forward", watched)
    config = config_of(max_num_seqs=20, max_num_batched_tokens=100)
    shape, states, plan = KVShape(model.caches, torch.float32), StateShape((), torch.float32), cast("MemoryPlan", Plan())
    found = graph_bytes(config, model, model.ops, shape, states, CPU, plan)
    at_first = len(decode_sizes(20)) + len(mixed_sizes(100))
    assert found == 12345 + 2 * LAYER_BYTES * at_first
    sizes = [(112, 21), (64, 21), (32, 21), (24, 24), (16, 16), (16, 15), (8, 8), (4, 4), (2, 2), (1, 1)]
    assert seen == sizes
    seen.clear()
    monkeypatch.setattr(model.ops, "decode_launch", lambda config: DecodeLaunch(16, joins=True))
    found = graph_bytes(config, model, model.ops, shape, states, CPU, plan)
    assert found == 12345 + 2 * LAYER_BYTES * (at_first + min(MOST_LATER, 2 * len(mixed_sizes(100)[1:]) + 2))
    assert seen[: len(sizes)] == sizes
    assert sorted(seen[len(sizes) :]) == sorted([(16, 16), (24, 24), *((tokens, few) for tokens in (32, 64, 112) for few in (21, 8))])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_on_a_gpu(quantization: str | None) -> None:
    device, ops = torch.device("cuda"), load_kernels("cuda")
    ops.deterministic = True
    sizes = {"num_layers": 4, "hidden_size": 256, "intermediate_size": 512}
    model = stacks.load(stacks.described(ops, quantization=quantization, **sizes), torch.bfloat16, "cuda")
    eager, replaying = (stacks.runner_of(model, NUM_BLOCKS, torch.bfloat16, "cuda") for _ in range(2))
    chosen = StepSizes.choose(17, 256)
    inputs = StaticInputs(chosen.largest, MAX_CONTEXT, BLOCK_SIZE, device, spare_slot=-1)
    replaying.graphs = StepGraphs(model, replaying.caches, inputs, chosen, CudaRecorder(device))
    everyone = prompts(17)
    for runner in (eager, replaying):
        runner.run(stacks.step(*everyone))
    for number, count in enumerate([*range(17, 0, -1), 2, 9, 16]):
        batch = stacks.step(*following(everyone[:count], 3 + number))
        assert replaying.graphs.size_of(batch) is not None
        assert torch.equal(replaying.run(batch), eager.run(batch)), count
        for cache, other in zip(eager.caches, replaying.caches, strict=True):
            assert all(torch.equal(mine, its) for mine, its in zip(cache, other, strict=True)), count
