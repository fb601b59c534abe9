"""Drawing and log-probabilities of every backend: against plain rules, against `reference`, and to the bit in any company."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.kernels.ops import Ops, Penalties, SamplingRows, TokenMask

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
#: Vocabularies of small models, around the sizes of blocks and vectors, and of real models.
SIZES = [1, 7, 16, 255, 256, 257, 1000, 49152, 151936]


@pytest.fixture(params=kernels.usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return kernels.load(request.param)


@dataclass
class Row:
    """The sampling parameters of one row."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    uniform: float = 0.5


def sampling_rows(rows: list[Row]) -> SamplingRows:
    types = {"top_k": torch.int64, "uniform": torch.float64}
    return SamplingRows(*(torch.tensor([getattr(r, f.name) for r in rows], dtype=types.get(f.name, torch.float32)) for f in fields(Row)))


def penalties_of(entries: list[dict[int, tuple[float, ...]]]) -> Penalties:
    """From token -> (repetition, subtract) or (repetition, subtract, bias) of each row."""
    flat = [(token, *changes, *[0.0][: 3 - len(changes)]) for row in entries for token, changes in row.items()]
    starts = torch.tensor([0, *(len(row) for row in entries)]).cumsum(0)
    token, repetition, subtract, bias = zip(*flat, strict=True)
    return Penalties(starts, torch.tensor(token), torch.tensor(bias), torch.tensor(repetition), torch.tensor(subtract))


def mask_of(allowed: list[set[int] | None], vocabulary: int) -> TokenMask:
    """From the tokens that each row may draw; None: all. Rows with the same set share a mask."""
    different = list({frozenset(a) for a in allowed if a is not None})
    flags = np.zeros((len(different), -(-vocabulary // 32) * 32), dtype=bool)
    for place, tokens in enumerate(different):
        flags[place, list(tokens)] = True
    bits = np.packbits(flags, axis=1, bitorder="little").view("<i4")
    rows = torch.tensor([-1 if a is None else different.index(frozenset(a)) for a in allowed])
    return TokenMask(rows, torch.from_numpy(bits))


def draw(ops: Ops, logits: Tensor, rows: list[Row], penalties: Penalties | None = None, mask: TokenMask | None = None) -> list[int]:
    tokens, finite = ops.sample(logits, sampling_rows(rows), penalties, mask)
    assert finite.dtype == torch.bool
    assert finite.all()
    return tokens.tolist()


def plain_probabilities(logits: Tensor, row: Row) -> list[float]:
    """Of each token, by the rules on Python floats."""
    weights = torch.softmax(logits.double() / row.temperature, -1).tolist()
    least = row.min_p * max(weights) - 1e-15
    weights = [w if w >= least else 0.0 for w in weights]
    if row.top_k:
        kth = sorted(weights, reverse=True)[min(row.top_k, len(weights)) - 1]
        weights = [w if w >= kth else 0.0 for w in weights]
    if row.top_p < 1:
        total, kept = sum(weights), 0.0
        for w in sorted(weights, reverse=True):
            kept += w
            if kept >= row.top_p * total - 1e-12:
                weights = [x if x >= w else 0.0 for x in weights]
                break
    total = sum(weights)
    return [w / total for w in weights]


def plain_sample(logits: Tensor, row: Row) -> int:
    """The token that these probabilities and the row's uniform give."""
    values = logits.double().tolist()
    if row.temperature == 0:
        return values.index(max(values))
    weights = plain_probabilities(logits, row)
    running = 0.0
    for token, w in enumerate(weights):
        running += w
        if running > row.uniform * sum(weights):
            return token
    return max(i for i, w in enumerate(weights) if w)


def mixed_rows(count: int, generator: torch.Generator) -> list[Row]:
    uniform = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return [
        Row([0.0, 0.7, 1.0, 1.8][i % 4], [0, 1, 5, 400, 5000][i % 5], [1.0, 0.9, 0.3, 0.999][i // 3 % 4], [0.0, 0.05, 1.0][i // 7 % 3], u)
        for i, u in enumerate(uniform)
    ]


def mixed_logits(rows: int, vocabulary: int, generator: torch.Generator, spread: float = 6.0) -> Tensor:
    """From nearly uniform to peaked, every sixth row full of ties."""
    logits = torch.randn(rows, vocabulary, generator=generator) * torch.linspace(0.1, spread, rows)[:, None]
    logits[::6] = logits[::6].round()
    return logits


# -- which token ------------------------------------------------------------------------------------------------------
def test_plain_rules_in_any_company(ops: Ops) -> None:
    g = torch.Generator().manual_seed(0)
    rows, logits = mixed_rows(300, g), mixed_logits(300, 1000, g)
    drawn = draw(ops, logits, rows)
    assert drawn == [plain_sample(x, row) for x, row in zip(logits, rows, strict=True)]
    for i in range(0, 300, 17):
        assert draw(ops, logits[i : i + 1], rows[i : i + 1]) == drawn[i : i + 1]
        assert draw(ops, logits[i : i + 3], rows[i : i + 3]) == drawn[i : i + 3]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", SIZES)
def test_every_size_and_dtype(ops: Ops, dtype: torch.dtype, vocabulary: int) -> None:
    """Against the reference on float32 copies: large vocabularies take other paths than small ones."""
    g = torch.Generator().manual_seed(vocabulary)
    count = 60 if vocabulary < 10000 else 20
    rows = mixed_rows(count, g)
    logits = mixed_logits(count, vocabulary, g, spread=3.0).to(dtype)
    expected = draw(kernels.load("reference"), logits.float(), rows)
    assert draw(ops, logits, rows) == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_may_be_strided(ops: Ops, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(1)
    rows, logits = mixed_rows(40, g), mixed_logits(40, 999, g).to(dtype)
    wider = torch.full((40, 1024), math.nan, dtype=dtype)
    wider[:, :999] = logits
    assert draw(ops, wider[:, :999], rows) == draw(ops, logits, rows)
    assert draw(ops, logits.T.contiguous().T, rows) == draw(ops, logits, rows)
    assert draw(ops, logits.repeat_interleave(2, 0)[::2], rows) == draw(ops, logits, rows)


def test_threads_change_nothing(ops: Ops) -> None:
    g = torch.Generator().manual_seed(2)
    rows, logits = mixed_rows(60, g), mixed_logits(60, 5000, g).bfloat16()
    asked, tokens = torch.arange(60), torch.arange(60) * 80
    threads = torch.get_num_threads()
    seen = []
    try:
        for count in (1, 2, 3):
            kernels.set_threads(count)
            seen.append((draw(ops, logits, rows), *(t.tolist() for t in ops.top_logprobs(logits, asked, tokens, 5))))
    finally:
        kernels.set_threads(threads)
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", SIZES)
def test_greedy_takes_the_lowest_of_equals(ops: Ops, dtype: torch.dtype, vocabulary: int) -> None:
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(20, vocabulary, generator=g).clamp(max=1.5).to(dtype)
    expected = [row.index(max(row)) for row in logits.tolist()]
    tokens, finite = ops.sample(logits, None, None)
    assert tokens.tolist() == expected
    assert finite.all()
    assert draw(ops, logits, [Row(temperature=0)] * 20) == expected
    assert draw(ops, logits, [Row(top_k=1, uniform=0.0)] * 20) == expected  # the first of those that tie


@pytest.mark.parametrize("vocabulary", [5, 1000, 49152])
def test_extreme_settings(ops: Ops, vocabulary: int) -> None:
    g = torch.Generator().manual_seed(4)
    logits = torch.randn(1, vocabulary, generator=g) * 4
    best = int(logits.argmax())
    ordered = logits[0].sort(descending=True).indices.tolist()
    for row in (Row(temperature=0.01), Row(top_p=0.0), Row(top_p=1e-9), Row(min_p=1.0), Row(top_k=1), Row(top_p=1e-9, top_k=4)):
        logits[0, best] = logits[0].max() + 1  # so far ahead that a temperature of 0.01 leaves nothing to the others
        assert draw(ops, logits, [row]) == [best]
    # Hot enough, all weigh the same: the place in the vocabulary (or among those kept) is the uniform's.
    for u in (0.0, 0.25, 0.9, 1 - 2**-53):
        assert draw(ops, logits, [Row(temperature=1e30, uniform=u)]) == [int(u * vocabulary)]
        assert draw(ops, logits, [Row(temperature=1e30, uniform=u, top_k=5)]) == [sorted(ordered[:5])[int(u * 5)]]
        everything = draw(ops, logits, [Row(uniform=u)])
        for row in (Row(top_k=vocabulary), Row(top_k=vocabulary + 9), Row(top_p=1.0), Row(min_p=0.0)):
            assert draw(ops, logits, [replace(row, uniform=u)]) == everything


def test_top_k_and_top_p_keep_ties_at_the_border(ops: Ops) -> None:
    logits = torch.zeros(1, 600)
    logits[0, [3, 500]] = 5.0
    logits[0, [100, 200, 300, 400]] = 4.0
    both = {3, 100, 200, 300, 400, 500}
    for row, kept in [
        (Row(top_k=4), both),
        (Row(top_k=3), both),
        (Row(temperature=0.2, top_p=0.98), {3, 500}),
        (Row(temperature=0.2, top_p=0.999), both),
        (Row(temperature=0.2, top_k=4, top_p=0.98), {3, 500}),
        (Row(temperature=0.2, top_k=4, top_p=0.99), both),
    ]:
        uniform = [u / 4000 for u in range(4000)]
        assert {*draw(ops, logits.expand(4000, 600), [replace(row, uniform=u) for u in uniform])} == kept
    assert {draw(ops, logits, [Row(top_k=1, uniform=u / 10)])[0] for u in range(10)} == {3, 500}


@pytest.mark.parametrize("row", [Row(), Row(top_k=300), Row(top_p=0.9), Row(min_p=0.01), Row(top_k=40, top_p=0.8)], ids=str)
def test_ranges_that_float32_cannot_hold(ops: Ops, row: Row) -> None:
    logits = torch.linspace(-1, 1, 2000)[None] * 1e-40  # denormal steps: all but equal
    logits = torch.cat([logits, logits.new_full((1, 2000), -3e38)])
    logits[1, 1234], logits[1, 77] = 3e38, 2e38
    rows = [replace(row, uniform=u) for u in (0.1, 0.7)]
    assert draw(ops, logits, rows) == draw(kernels.load("reference"), logits, rows)
    assert draw(ops, logits, rows)[1] == 1234


@pytest.mark.parametrize("top_k", [1, 50, 192, 193, 2000, 3072, 3073, 40000])
def test_any_top_k_of_a_large_vocabulary(ops: Ops, top_k: int) -> None:
    """Exactly k distinct logits are kept: at either end of the uniform the draw is the first and the last of them."""
    logits = torch.randperm(49152, generator=torch.Generator().manual_seed(top_k)).float()[None] * 1e-3
    kept = (logits[0] >= 49152e-3 - top_k * 1e-3 - 1e-4).nonzero().flatten()
    assert len(kept) == top_k
    edges = [Row(temperature=100.0, top_k=top_k, uniform=u) for u in (0.0, 1 - 2**-53)]
    assert draw(ops, logits.expand(2, 49152), edges) == [int(kept[0]), int(kept[-1])]


@pytest.mark.parametrize(
    "row",
    [
        Row(),
        Row(temperature=0.5),
        Row(temperature=1.7, top_k=4),
        Row(temperature=0.8, top_k=3, top_p=0.95),
        Row(top_p=0.9),
        Row(min_p=0.1),
        Row(temperature=1.3, min_p=0.05, top_k=5, top_p=0.97),
        Row(temperature=2.5, top_p=0.8, min_p=0.3),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(ops: Ops, row: Row) -> None:
    """20,000 draws from known logits against their probabilities by the plain rules (fixed seeds; 1 in 100,000 by chance)."""
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, -3.0, 0.7, -0.4])
    uniform = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).tolist()
    counts = torch.bincount(torch.tensor(draw(ops, logits.expand(20000, 7), [replace(row, uniform=u) for u in uniform])), minlength=7)
    expected = 20000 * torch.tensor(plain_probabilities(logits, row))
    assert not counts[expected == 0].any()
    chi_square = ((counts - expected) ** 2 / expected)[expected > 0].sum()
    assert float(chi_square) < {1: 19.5, 2: 23.0, 3: 25.9, 4: 28.5, 5: 30.9, 6: 33.1}[int((expected > 0).sum()) - 1]


# -- penalties ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_penalties_change_what_is_drawn(ops: Ops, dtype: torch.dtype) -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0, 0.0]] * 4, dtype=dtype)
    before = logits.clone()
    penalties = penalties_of([{0: (4.0, 0.0)}, {}, {0: (1.0, 1.5), 3: (1.0, -3.0)}, {0: (2.0, 0.5), 1: (0.1, 0.0)}])
    assert draw(ops, logits, [Row(temperature=0)] * 4, penalties) == [2, 0, 3, 2]
    tokens, finite = ops.sample(logits, None, penalties)
    assert tokens.tolist() == [2, 0, 3, 2]
    assert finite.all()
    assert torch.equal(logits, before)
    changed = torch.tensor([[0.5, -2, 1, 0], [2, -2, 1, 0], [0.5, -2, 1, 3], [0.5, -0.2, 1, 0]])
    for u in torch.linspace(0, 0.999, 60).tolist():
        rows = [Row(uniform=u), Row(uniform=u, top_k=3), Row(uniform=u, top_p=0.7), Row(uniform=u, min_p=0.3)]
        assert draw(ops, logits, rows, penalties) == [plain_sample(x, row) for x, row in zip(changed, rows, strict=True)]


def test_penalties_on_a_large_vocabulary(ops: Ops) -> None:
    g = torch.Generator().manual_seed(5)
    rows, logits = mixed_rows(30, g), mixed_logits(30, 49152, g, spread=3.0).bfloat16()
    entries: list[dict[int, tuple[float, ...]]] = []
    changed = logits.float()
    for i in range(30):
        tokens = torch.cat([torch.randperm(49152, generator=g)[: 40 * i], changed[i].topk(20).indices]).unique().tolist()
        entries.append({t: (1.3, 0.25 * (t % 5), (t % 3 - 1) * 0.5) for t in tokens} if i % 3 else {})
        for t, (repetition, subtract, bias) in entries[i].items():
            value = changed[i, t] + bias
            changed[i, t] = (value / repetition if value > 0 else value * repetition) - subtract
    assert draw(ops, logits, rows, penalties_of(entries)) == draw(ops, changed, rows)


def test_forbidden_tokens_are_never_drawn(ops: Ops) -> None:
    forbidden: dict[int, tuple[float, ...]] = {t: (1.0, math.inf, 100.0) for t in range(20) if t != 4}
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    rows = [Row(uniform=0.0), Row(uniform=1 - 2**-53), Row(temperature=0.0)]
    assert draw(ops, logits, rows, penalties_of([forbidden] * 3)) == [4, 4, 4]
    for row in (Row(top_k=5), Row(top_p=0.999), Row(min_p=0.001), Row(top_k=400, top_p=0.5)):
        assert draw(ops, logits[:1], [replace(row, uniform=1 - 2**-53)], penalties_of([forbidden])) == [4]


def test_where_no_token_is_left(ops: Ops) -> None:
    nothing: dict[int, tuple[float, ...]] = dict.fromkeys(range(20), (1.0, math.inf))
    rows = [Row(), Row(temperature=0), Row(top_k=3, top_p=0.4), Row(min_p=0.5), Row()]
    kept = [-1, -1, -1, -1, 10]
    assert draw(ops, torch.ones(5, 20), rows, penalties_of([nothing] * 4 + [{}])) == kept
    assert draw(ops, torch.ones(5, 20), rows, None, mask_of([set()] * 4 + [None], 20)) == kept
    half = {t: nothing[t] for t in range(10)}
    assert draw(ops, torch.ones(5, 20), rows, penalties_of([half] * 4 + [{}]), mask_of([{*half}] * 4 + [None], 20)) == kept


def test_a_penalty_that_overflows_is_still_a_draw(ops: Ops) -> None:
    assert draw(ops, torch.tensor([[1.0, 2.0, 3.0]]), [Row(uniform=0.99)], penalties_of([{1: (1e-39, 0.0)}])) == [1]


def test_a_bias_comes_before_penalties(ops: Ops) -> None:
    """A logit that the bias makes positive is divided, one that it makes negative is multiplied."""
    logits = torch.tensor([[-1.0, 1.0, 0.4]] * 2)
    entries: list[dict[int, tuple[float, ...]]] = [{0: (4.0, 0.0, 3.0)}, {1: (2.0, 0.5, -1.1), 2: (0.5, 0.1, -0.6)}]
    changed = torch.tensor([[0.5, 1.0, 0.4], [-1.0, -0.7, -0.2]])
    everything = torch.arange(2)
    torch.testing.assert_close(ops.processed_logits(logits, everything, None, penalties_of(entries), None), changed)
    assert ops.sample(logits, None, penalties_of(entries))[0].tolist() == [1, 2]


# -- masks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [1, 15, 16, 31, 33, 257, 1000, 49152])
def test_masked_tokens_do_not_exist(ops: Ops, dtype: torch.dtype, vocabulary: int) -> None:
    """As if the vocabulary were the allowed tokens alone: neither penalties nor biases bring the others back."""
    g = torch.Generator().manual_seed(vocabulary)
    rows, logits = mixed_rows(40, g), mixed_logits(40, vocabulary, g, spread=3.0).to(dtype)
    allowed: list[set[int] | None] = []
    for i in range(40):
        kept = torch.rand(vocabulary, generator=g) < [0.5, 0.01, 1.1, 0.0][i % 4]
        kept[torch.randint(vocabulary, (1,), generator=g)] = True
        allowed.append(None if i % 5 == 0 else {*kept.nonzero().flatten().tolist()})
    entries: list[dict[int, tuple[float, ...]]] = []
    for i in range(40):
        tokens = torch.randint(vocabulary, (i % 7,), generator=g).unique().tolist()
        entries.append(dict.fromkeys(tokens, (1e-39 if i % 2 else 2.0, -1.0, 50.0)))
    for penalties, mask in ((None, mask_of(allowed, vocabulary)), (penalties_of(entries), mask_of(allowed, vocabulary))):
        drawn = draw(ops, logits, rows, penalties, mask)
        for i, (token, own) in enumerate(zip(drawn, allowed, strict=True)):
            places = torch.arange(vocabulary) if own is None else torch.tensor(sorted(own))
            place_of = {t: place for place, t in enumerate(places.tolist())}
            few = None
            if penalties is not None and (mine := {place_of[t]: what for t, what in entries[i].items() if t in place_of}):
                few = penalties_of([mine])
            alone = draw(kernels.load("reference"), logits[i : i + 1, places].float(), rows[i : i + 1], few)
            assert places[alone[0]] == token
            alone_mask = TokenMask(mask.rows[i : i + 1], mask.bits)
            one = None if penalties is None or not entries[i] else penalties_of([entries[i]])
            assert draw(ops, logits[i : i + 1], rows[i : i + 1], one, alone_mask) == [token]


# -- what a draw is made from -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [7, 256, 1000, 49152])
def test_processed_logits(ops: Ops, dtype: torch.dtype, vocabulary: int) -> None:
    """Every backend's are the reference's, and whole only where nothing narrows them; the drawn token is always among them."""
    g = torch.Generator().manual_seed(vocabulary)
    rows, logits = mixed_rows(60, g), mixed_logits(60, vocabulary, g, spread=3.0).to(dtype)
    entries: list[dict[int, tuple[float, ...]]] = [{i % vocabulary: (1.5, 0.5, -0.25)} if i % 3 else {} for i in range(60)]
    allowed = [None if i % 4 else {*range(i % 3, vocabulary, 3)} or {0} for i in range(60)]
    penalties, mask, settings = penalties_of(entries), mask_of(allowed, vocabulary), sampling_rows(rows)
    places = torch.randperm(60, generator=g)[:50]
    processed = ops.processed_logits(logits, places, settings, penalties, mask)
    assert (processed.dtype, processed.shape) == (torch.float32, (50, vocabulary))
    reference = kernels.load("reference").processed_logits(logits.float(), places, settings, penalties, mask)
    assert torch.equal(processed, reference)
    tokens, _ = ops.sample(logits, settings, penalties, mask)
    for i, place in enumerate(places.tolist()):
        row, own = rows[place], allowed[place]
        assert processed[i, tokens[place]] > -math.inf
        kept = int((processed[i] > -math.inf).sum())
        most = vocabulary if own is None else len(own)
        if row.temperature == 0 or (row.top_k == 0 and row.top_p == 1 and row.min_p == 0):
            assert kept == most
        elif row.top_k == 1:
            assert kept == int((processed[i] == processed[i].max()).sum())
        one = ops.processed_logits(logits[place : place + 1], torch.tensor([0]), sampling_rows([row]), None, None)
        if not entries[place] and own is None:
            assert torch.equal(one[0], processed[i])


def test_processed_logits_by_hand(ops: Ops) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -4.0, 3.0]] * 6)
    rows = [
        Row(temperature=0),
        Row(temperature=0.5),
        Row(top_k=2),
        Row(min_p=0.2),
        Row(top_p=0.7),
        Row(temperature=2.0, top_k=3, top_p=0.8),
    ]
    no = -math.inf
    expected = [
        [2.0, 1.0, 0.0, -4.0, no],
        [4.0, 2.0, 0.0, -8.0, no],
        [2.0, 1.0, no, no, no],
        [2.0, 1.0, no, no, no],  # weights 1, 0.37, 0.14, 0.002
        [2.0, 1.0, no, no, no],  # 0.665, 0.909
        [1.0, 0.5, no, no, no],  # 0.506, 0.814
    ]
    mask = mask_of([{0, 1, 2, 3}] * 6, 5)
    got = ops.processed_logits(logits, torch.arange(6), sampling_rows(rows), None, mask)
    assert got.tolist() == expected
    assert ops.processed_logits(logits, torch.arange(6), None, None, None).tolist() == logits.tolist()


@pytest.mark.parametrize("vocabulary", [7, 1000])
@pytest.mark.parametrize("count", [0, 3, 6, 7])
def test_top_logprobs_of_processed_logits(ops: Ops, vocabulary: int, count: int) -> None:
    """Where fewer tokens than asked for can be drawn, the others follow with a probability of 0, lower ids first."""
    logits = torch.full((2, vocabulary), -math.inf)
    logits[0, [3, 5, 6]] = torch.tensor([1.0, 1.0, 2.0])
    logits[1, 4] = -50.0
    top = ops.top_logprobs(logits, torch.tensor([0, 1]), torch.tensor([5, 4]), count)
    assert top.ids.tolist() == [[6, 3, 5, 0, 1, 2, 4][:count], [4, 0, 1, 2, 3, 5, 6][:count]]
    low = 1.0 - math.log(math.exp(2) + 2 * math.exp(1))
    expected = torch.tensor([[low + 1, low, low, *[-math.inf] * 4], [0.0, *[-math.inf] * 6]])[:, :count]
    torch.testing.assert_close(top.values, expected)
    torch.testing.assert_close(top.token_values, torch.tensor([low, 0.0]))
    assert top.token_ranks.tolist() == [2, 1]


# -- what is not finite -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_told_and_hurts_nobody(ops: Ops, dtype: torch.dtype, bad: float) -> None:
    g = torch.Generator().manual_seed(6)
    rows, logits = mixed_rows(300, g), mixed_logits(300, 300, g).to(dtype)
    alone = draw(ops, logits, rows)
    broken = logits.clone()
    places = torch.arange(300)
    broken[places, places] = torch.where(places % 3 > 0, broken[places, places], bad)
    penalties = penalties_of([{i: (1.0, 0.0), 299 - i: (1.0, 0.0)} for i in range(300)])
    mask = mask_of([None if i % 2 else {*range(300)} for i in range(300)], 300)
    for changes in ((None, None), (penalties, None), (None, mask), (penalties, mask)):
        tokens, finite = ops.sample(broken, sampling_rows(rows), *changes)
        assert finite.tolist() == [i % 3 > 0 for i in range(300)]
        assert tokens.tolist() == [token if i % 3 else 0 for i, token in enumerate(alone)]


def test_no_rows(ops: Ops) -> None:
    tokens, finite = ops.sample(torch.empty(0, 50), None, None)
    assert tokens.shape == finite.shape == (0,)


# -- log-probabilities ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", SIZES)
def test_top_logprobs(ops: Ops, dtype: torch.dtype, vocabulary: int) -> None:
    for count in (0, 1, 5, 20, 1000, None):
        are_the_likeliest(ops, dtype, vocabulary, count)


def are_the_likeliest(ops: Ops, dtype: torch.dtype, vocabulary: int, count: int | None) -> None:
    g = torch.Generator().manual_seed(vocabulary)
    count = min(vocabulary, vocabulary if count is None else count)
    logits = mixed_logits(8, vocabulary + 3, g).to(dtype)[:, :vocabulary]
    rows = torch.tensor([6, 0, 3])
    tokens = torch.randint(vocabulary, (3,), generator=g)
    tokens[0] = logits[6].argmax()
    top = ops.top_logprobs(logits, rows, tokens, count)
    raw = logits[rows].float()
    expected = torch.log_softmax(raw.double(), -1)
    ids = raw.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    assert torch.equal(top.ids, ids)
    torch.testing.assert_close(top.values.double(), expected.gather(-1, ids), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(top.token_values.double(), expected.gather(-1, tokens[:, None])[:, 0], rtol=1e-5, atol=1e-5)
    assert top.token_ranks.tolist() == [1 + int((x > x[t]).sum()) for x, t in zip(raw, tokens.tolist(), strict=True)]
    for i in range(3):
        one: Any = ops.top_logprobs(logits, rows[i : i + 1], tokens[i : i + 1], count)
        assert all(torch.equal(a, b[i : i + 1]) for a, b in zip(one, top, strict=True))
