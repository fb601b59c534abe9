"""Tokens and log-probabilities against the reference, token for token, on small blocks so that every path is taken by small rows."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.kernels.cuda import configs, sampling
from infer.kernels.ops import Ops, Penalties, SamplingRows, TokenMask

from ..test_sampling import Row, mask_of, mixed_logits, mixed_rows, penalties_of, plain_sample, sampling_rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
REFERENCE = kernels.load("reference")


@pytest.fixture
def ops() -> Ops:
    return kernels.load("cuda")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Rows of a few hundred logits take the ways of large vocabularies: many blocks, and more candidates than are kept."""
    monkeypatch.setitem(configs.LOGITS, configs.architecture(device), configs.Pass(128, 4))


def on(device: torch.device, value: Any) -> Any:
    """A copy there of a tensor or of an object with tensors; None stays."""
    if value is None or isinstance(value, Tensor):
        return None if value is None else value.to(device)
    return type(value)(*(getattr(value, field.name).to(device) for field in fields(value)))


def draw(
    ops: Ops,
    logits: Tensor,
    rows: list[Row] | None,
    device: torch.device,
    penalties: Penalties | None = None,
    mask: TokenMask | None = None,
) -> list[int]:
    settings = sampling_rows(rows) if rows is not None else None
    tokens, finite = ops.sample(on(device, logits), on(device, settings), on(device, penalties), on(device, mask))
    assert (tokens.dtype, finite.dtype) == (torch.int64, torch.bool)
    assert finite.all()
    return tokens.tolist()


def expected(logits: Tensor, rows: list[Row], penalties: Penalties | None = None, mask: TokenMask | None = None) -> list[int]:
    tokens, _ = REFERENCE.sample(logits.float(), sampling_rows(rows), penalties, mask)
    return tokens.tolist()


def test_tokens_are_completed(ops: Ops, device: torch.device) -> None:
    """Those of several programs, the last of which has fewer; of one row, and where nothing was asked for."""
    g = torch.Generator().manual_seed(3)
    for count, asked in ((600, 1000), (1, 1), (40, 0)):
        drawn = torch.randint(-1, 50_000, (max(asked, 1),), generator=g)
        tokens = torch.randint(-asked, 1 + 2 * asked, (count,), generator=g)
        expected = REFERENCE.complete_tokens(tokens.clone(), drawn)
        assert expected.tolist() == [t if t >= 0 else max(int(drawn[-1 - t]), 0) for t in tokens.tolist()]
        whole = on(device, torch.cat([tokens, torch.full((200,), -1)]))
        got = ops.complete_tokens(whole[:count], on(device, drawn))
        assert got.tolist() == expected.tolist()
        assert whole[count:].eq(-1).all(), "what lies behind stays"


@pytest.mark.parametrize(("vocabulary", "dtype"), [(1, torch.float32), (7, torch.bfloat16), (300, torch.float16), (1000, torch.float32)])
def test_mixed_rows(ops: Ops, device: torch.device, vocabulary: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(vocabulary)
    rows, logits = mixed_rows(14, g), mixed_logits(14, vocabulary, g).to(dtype)
    drawn = draw(ops, logits, rows, device)
    assert drawn == expected(logits, rows)
    assert draw(ops, logits[3:4], rows[3:4], device) == drawn[3:4]


@pytest.mark.usefixtures("small_blocks")
def test_mixed_rows_of_many_blocks(ops: Ops, device: torch.device) -> None:
    g = torch.Generator().manual_seed(11)
    rows, logits = mixed_rows(21, g), mixed_logits(21, 400, g).bfloat16()
    assert draw(ops, logits, rows, device) == expected(logits, rows)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    "row",
    [
        Row(),
        Row(temperature=5.0, top_p=0.99),
        Row(temperature=1e30, top_p=0.5),
        Row(top_k=200),
        Row(top_k=130, top_p=0.9),
        Row(temperature=3.0, min_p=0.001),
        Row(temperature=2.0, min_p=0.01, top_k=150, top_p=0.8),
        Row(top_k=300, top_p=0.3),
    ],
    ids=str,
)
def test_more_candidates_than_are_kept(ops: Ops, device: torch.device, row: Row) -> None:
    """Every uniform, from rows read whole: the tokens are those of the plain rules."""
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(2))
    rows = [replace(row, uniform=u) for u in (0.31, 1 - 2**-53)]
    drawn = draw(ops, logits.expand(2, 300), rows, device)
    assert drawn == expected(logits.expand(2, 300), rows)
    if row.temperature < 1e30:  # there, the plain rules' own sums decide
        assert drawn == [plain_sample(logits[0], r) for r in rows]


@pytest.mark.usefixtures("small_blocks")
def test_ties_at_every_border(ops: Ops, device: torch.device) -> None:
    logits = torch.zeros(1, 300)
    logits[0, [3, 290]] = 5.0
    logits[0, [100, 150, 200, 250]] = 4.0
    logits[0, [120, 130]] = -0.0
    both, everything = {3, 100, 150, 200, 250, 290}, set(range(300))
    for row, kept in [
        (Row(top_k=1), {3, 290}),
        (Row(top_k=3), both),
        (Row(top_k=7), everything),
        (Row(temperature=0.2, top_p=0.98), {3, 290}),
        (Row(temperature=0.2, top_p=0.999), both),
        (Row(top_p=0.0), {3, 290}),
        (Row(min_p=1.0), {3, 290}),
        (Row(min_p=0.3), both),
    ]:
        settings = on(device, sampling_rows([row]))
        processed = ops.processed_logits(on(device, logits), torch.zeros(1, dtype=torch.int64, device=device), settings, None, None)
        assert {*(processed[0] > -math.inf).nonzero().flatten().tolist()} == kept
        edges = [replace(row, uniform=0.0), replace(row, uniform=1 - 2**-53)]
        assert draw(ops, logits.expand(2, 300), edges, device) == [min(kept), max(kept)]
    assert draw(ops, logits, None, device) == [3]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_penalties_and_masks(ops: Ops, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out a few rows at a time; rows without entries beside rows with many; masks shared and none."""
    monkeypatch.setattr(sampling, "WORKSPACE", sampling.ALIGNED_ROWS * 333)
    g = torch.Generator().manual_seed(5)
    rows, logits = mixed_rows(20, g), mixed_logits(20, 333, g, spread=3.0).bfloat16()
    entries: list[dict[int, tuple[float, ...]]] = []
    for i in range(20):
        tokens = torch.randperm(333, generator=g)[: 17 * (i % 12)].tolist() if i % 3 else []
        entries.append({t: (0.2 + 0.1 * (t % 20), 0.25 * (t % 5), (t % 3 - 1) * 0.5) for t in tokens})
    entries[4][9] = (1e-38, 0.0, 50.0)  # overflows
    entries[5][logits[5].argmax().item()] = (1.0, math.inf, 0.0)  # type: ignore[index]
    allowed = [None if i % 4 == 0 else {*range(i % 2, 333, 2 + i % 2)} for i in range(20)]
    penalties, mask = penalties_of(entries), mask_of(allowed, 333)
    for changes in ((penalties, None), (None, mask), (penalties, mask)):
        assert draw(ops, logits, rows, device, *changes) == expected(logits, rows, *changes)
    greedy = [Row(temperature=0)] * 20
    assert draw(ops, logits, None, device, penalties, mask) == expected(logits, greedy, penalties, mask)


def test_where_no_token_is_left(ops: Ops, device: torch.device) -> None:
    nothing: dict[int, tuple[float, ...]] = dict.fromkeys(range(20), (1.0, math.inf))
    rows = [Row(), Row(temperature=0), Row(top_k=3, top_p=0.4), Row(min_p=0.5), Row()]
    assert draw(ops, torch.ones(5, 20), rows, device, penalties_of([nothing] * 4 + [{}])) == [-1, -1, -1, -1, 10]
    assert draw(ops, torch.ones(5, 20), rows, device, None, mask_of([set()] * 4 + [None], 20)) == [-1, -1, -1, -1, 10]
    assert draw(ops, torch.ones(5, 20), None, device, None, mask_of([set()] * 4 + [None], 20)) == [-1, -1, -1, -1, 0]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite(ops: Ops, device: torch.device, bad: float) -> None:
    g = torch.Generator().manual_seed(6)
    rows, logits = mixed_rows(12, g), mixed_logits(12, 300, g)
    alone = expected(logits, rows)
    for i in range(0, 12, 3):
        logits[i, 25 * i + 1] = bad
    penalties = penalties_of([{i: (1.0, 0.0)} for i in range(12)])
    for changes in (None, penalties):
        tokens, finite = ops.sample(on(device, logits), on(device, sampling_rows(rows)), on(device, changes), None)
        assert finite.tolist() == [i % 3 > 0 for i in range(12)]
        assert tokens.tolist() == [token if i % 3 else 0 for i, token in enumerate(alone)]


def test_rows_may_be_strided(ops: Ops, device: torch.device) -> None:
    g = torch.Generator().manual_seed(1)
    rows, logits = mixed_rows(6, g), mixed_logits(6, 99, g)
    wider = torch.full((6, 128), math.nan)
    wider[:, :99] = logits
    same = draw(ops, logits, rows, device)
    for strided in (wider.to(device)[:, :99], logits.to(device).T.contiguous().T):
        tokens, finite = ops.sample(strided, on(device, sampling_rows(rows)), None, None)
        assert tokens.tolist() == same
        assert finite.all()
    tokens, finite = ops.sample(torch.empty(0, 50, device=device), None, None, None)
    assert tokens.shape == finite.shape == (0,)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_ranges_that_float32_cannot_hold(ops: Ops, device: torch.device) -> None:
    logits = torch.linspace(-1, 1, 300)[None] * 1e-40  # denormal steps: all but equal
    logits = torch.cat([logits, logits.new_full((1, 300), -3e38)])
    logits[1, 234], logits[1, 77] = 3e38, 2e38
    for row in (Row(), Row(top_k=200), Row(top_p=0.9)):
        rows = [replace(row, uniform=u) for u in (0.1, 0.7)]
        assert draw(ops, logits, rows, device) == expected(logits, rows)


@pytest.mark.usefixtures("small_blocks")
def test_processed_logits(ops: Ops, device: torch.device) -> None:
    g = torch.Generator().manual_seed(8)
    rows, logits = mixed_rows(12, g), mixed_logits(12, 300, g, spread=3.0).half()
    penalties = penalties_of([{i: (1.5, 0.5, -0.25)} if i % 3 else {} for i in range(12)])
    mask = mask_of([None if i % 4 else {*range(i % 3, 300, 3)} for i in range(12)], 300)
    places = torch.randperm(12, generator=g)[:9]
    for settings in (sampling_rows(rows), None):
        got = ops.processed_logits(on(device, logits), on(device, places), on(device, settings), on(device, penalties), on(device, mask))
        assert torch.equal(got.cpu(), REFERENCE.processed_logits(logits.float(), places, settings, penalties, mask))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("vocabulary", "count"), [(1, 1), (7, 7), (300, 0), (300, 5), (300, 200), (300, 300)])
def test_top_logprobs(ops: Ops, device: torch.device, vocabulary: int, count: int) -> None:
    g = torch.Generator().manual_seed(vocabulary)
    logits = mixed_logits(8, vocabulary + 3, g).bfloat16()[:, :vocabulary]
    logits[3, ::2] = -math.inf  # as processed logits are
    logits[3, -1] = 0.0
    rows, tokens = torch.tensor([6, 0, 3]), torch.randint(vocabulary, (3,), generator=g)
    got = ops.top_logprobs(on(device, logits), on(device, rows), on(device, tokens), count)
    want = REFERENCE.top_logprobs(logits.double().float(), rows, tokens, count)
    assert torch.equal(got.ids.cpu(), want.ids)
    assert torch.equal(got.token_ranks.cpu(), want.token_ranks)
    torch.testing.assert_close(got.values.cpu(), want.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.token_values.cpu(), want.token_values, rtol=1e-5, atol=1e-5)


@pytest.mark.grid
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [257, 4096, 4097, 49152, 151936, 256000])
@pytest.mark.parametrize("seed", range(3))
def test_every_size_and_dtype(ops: Ops, device: torch.device, vocabulary: int, dtype: torch.dtype, seed: int) -> None:
    g = torch.Generator().manual_seed(vocabulary + seed)
    count = 100 if vocabulary < 10000 else 24
    rows, logits = mixed_rows(count, g), mixed_logits(count, vocabulary, g, spread=3.0).to(dtype)
    assert draw(ops, logits, rows, device) == expected(logits, rows)
    asked, tokens = torch.arange(0, count, 6), torch.randint(vocabulary, (-(-count // 6),), generator=g)
    got = ops.top_logprobs(on(device, logits), on(device, asked), on(device, tokens), 20)
    want = REFERENCE.top_logprobs(logits, asked, tokens, 20)
    assert torch.equal(got.ids.cpu(), want.ids)
    assert torch.equal(got.token_ranks.cpu(), want.token_ranks)
    true = torch.log_softmax(logits[asked].double(), -1)
    torch.testing.assert_close(got.values.cpu().double(), true.gather(-1, want.ids), rtol=1e-5, atol=1e-5)
    settings: SamplingRows = sampling_rows(rows)
    processed = ops.processed_logits(on(device, logits), on(device, asked), on(device, settings), None, None)
    assert torch.equal(processed.cpu(), REFERENCE.processed_logits(logits.float(), asked, settings, None, None))
