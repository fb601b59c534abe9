"""Multiplications of every backend: right, the same for every row in any company, and exact in int8."""

from __future__ import annotations

import importlib

import pytest
import torch

from infer.kernels import load, memory, set_threads, usable
from infer.kernels.cpu import gemm
from infer.kernels.cpu import int8 as cpu_int8
from infer.kernels.ops import INT8_ZERO, Ops, Rows, ScaledRows
from infer.kernels.reference import int8 as exact

cpu_linear = importlib.import_module("infer.kernels.cpu.linear")  # the package's own `linear` is the function

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
#: (out, in): of a small model, of none (no multiple of anything), long sums.
SHAPES = [(96, 64), (33, 17), (40, 4096)]
#: First row and number of rows.
PARTS = [(0, 16), (16, 32), (112, 64), (160, 16), (0, 112)]


@pytest.fixture(params=usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return load(request.param)


def made(out: int, size: int, dtype: torch.dtype, *, bias: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Rows [176, size], a weight [out, size] and its bias."""
    g = torch.Generator().manual_seed(out)
    x, w, b = torch.randn(176, size, generator=g), torch.randn(out, size, generator=g), torch.randn(out, generator=g)
    return x.to(dtype), w.to(dtype), b.to(dtype) if bias else None


def tensors(rows: Rows) -> tuple[torch.Tensor, ...]:
    return (rows,) if isinstance(rows, torch.Tensor) else tuple(rows)


def plain(rows: Rows) -> torch.Tensor:
    return rows if isinstance(rows, torch.Tensor) else rows.values.float() * rows.scale[:, None]


# -- in the model's dtype ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "size"), SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_linear(ops: Ops, out: int, size: int, dtype: torch.dtype, bias: bool) -> None:
    x, w, b = made(out, size, dtype, bias=bias)
    packed = ops.pack_weight(w.clone())
    whole = ops.linear(x, packed, b)
    expected = x.double() @ w.double().T + (b.double() if b is not None else 0)
    assert whole.dtype == dtype
    assert (whole - expected).norm() / expected.norm() < {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]

    def alike() -> bool:
        return all(torch.equal(ops.linear(x[i : i + n].clone(), packed, b), whole[i : i + n]) for i, n in PARTS)

    if not alike():  # a library's product that is not row-wise on this CPU: the engine's probe finds it out and takes fixed chunks
        ops.row_chunk = 64
        whole = ops.linear(x, packed, b)
        assert alike()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "size"), [(96, 64), (74, 18)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_gated_gives_the_bits_of_both_in_turn(ops: Ops, out: int, size: int, dtype: torch.dtype, bias: bool) -> None:
    x, w, b = made(out, size, dtype, bias=bias)
    packed, plain_one = ops.pack_halves(w.clone()), ops.pack_weight(w.clone())
    made_plain = ops.linear(x, plain_one, b)
    assert torch.equal(ops.linear(x, packed, b), made_plain)
    for kind in ("silu", "gelu", "gelu_tanh", "relu", "relu2", "clamped_swiglu", "sigmoid"):
        whole = ops.linear_gated(x, packed, b, kind)
        assert torch.equal(whole, ops.gated_activation(made_plain, kind)), kind
    if ops.any_rows(packed):
        for first, count in (*PARTS, (3, 1), (5, 13)):
            assert torch.equal(ops.linear_gated(x[first : first + count].clone(), packed, b, kind), whole[first : first + count])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("out", "size"), [(96, 64), (74, 17), (40, 1002)])
def test_float32_weights_kept_as_bfloat16_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, out: int, size: int, bias: bool) -> None:
    ops = load("cpu")
    x, w, b = made(out, size, torch.float32, bias=bias)
    w = w.bfloat16().float()
    narrow = [ops.pack_weight(w.clone()), ops.pack_halves(w.clone())]
    if not all(isinstance(one, gemm.Panels) and one.widened for one in narrow):
        pytest.skip("the kernel of this machine does not widen weights")
    unlike = w.clone()
    unlike[-1, -1] = 1 + 2**-20
    assert not ops.pack_weight(unlike).widened
    monkeypatch.setattr(gemm, "fits_bfloat16", lambda weight: False)
    wide = [ops.pack_weight(w.clone()), ops.pack_halves(w.clone())]
    assert all(2 * a.words.nbytes < b.words.nbytes + b.words.nbytes // size * 2 for a, b in zip(narrow, wide, strict=True))
    whole = ops.linear(x, wide[0], b)
    gated = ops.linear_gated(x, wide[1], b, "silu")
    for first, count in (*PARTS, (0, 176), *((5, n) for n in range(1, 15))):
        part = x[first : first + count].clone()
        assert torch.equal(ops.linear(part, narrow[0], b), whole[first : first + count])
        assert torch.equal(ops.linear_gated(part, narrow[1], b, "silu"), gated[first : first + count])


@pytest.mark.parametrize("weight", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("out", "size"), [(48, 320), (70, 324), (33, 963)])
def test_every_number_of_rows_gives_the_same_bits(weight: str, out: int, size: int) -> None:
    """Of blocks, chunks and stretches of words, whatever ends where; with more rows than any chunk has, and in two threads."""
    ops, g = load("cpu"), torch.Generator().manual_seed(size)
    x, w = torch.randn(600, size, generator=g), torch.randn(out, size, generator=g)
    if weight == "bfloat16":
        w = w.bfloat16().float()
    packed = ops.pack_int8(w) if weight == "int8" else ops.pack_weight(w)

    def product(rows: torch.Tensor) -> torch.Tensor:
        return (
            plain(ops.linear_int8(ops.quantize(rows), packed, None, torch.float32)) if weight == "int8" else ops.linear(rows, packed, None)
        )

    whole, before = product(x), torch.get_num_threads()
    try:
        for threads in (1, 2):
            set_threads(threads)
            for count in (*range(1, 20), 97, 255, 257):
                assert torch.equal(product(x[600 - count :]), whole[600 - count :]), count
    finally:
        set_threads(before)


def test_packed_weights_lie_in_large_pages_apart_from_each_other() -> None:
    sizes = [1, 100, memory.PIECE // 2, memory.PIECE // 2, memory.PIECE // 2 + 4, 3 * memory.PIECE]
    tensors = [memory.empty((size // 4 + 1,), torch.int32) for size in sizes]
    for number, tensor in enumerate(tensors):
        assert tensor.data_ptr() % 64 == 0
        tensor.fill_(number)
    assert [(int(t.min()), int(t.max())) for t in tensors] == [(number, number) for number in range(len(sizes))]
    assert all(t.data_ptr() % memory.PAGE == 0 for t in tensors if t.nbytes > memory.PIECE // 2)


def test_linear_of_no_rows(ops: Ops) -> None:
    for chunk in (0, 64):
        ops.row_chunk = chunk
        assert ops.linear(torch.empty(0, 64), ops.pack_weight(torch.randn(96, 64)), None).shape == (0, 96)


def test_linear_in_fixed_chunks_gives_the_same(ops: Ops) -> None:
    x, w, _ = made(96, 64, torch.float32, bias=False)
    packed = ops.pack_weight(w)
    whole = ops.linear(x, packed, None)
    ops.row_chunk = 64
    torch.testing.assert_close(ops.linear(x, packed, None), whole)


def test_without_oneDNN_weights_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(weight: torch.Tensor) -> torch.Tensor:
        raise AttributeError("_reorder_linear_weight")

    x, w, b = made(96, 64, torch.bfloat16, bias=True)
    monkeypatch.setattr(cpu_linear.gemm, "takes", lambda weight: False)
    monkeypatch.setattr(cpu_linear, "_pack", missing)
    cpu_linear._can_pack.cache_clear()
    try:
        packed = cpu_linear.pack_weight(w)
    finally:
        cpu_linear._can_pack.cache_clear()
    assert packed is w
    assert torch.equal(cpu_linear.linear(x, packed, b, 0), torch.nn.functional.linear(x, w, b))


# -- int8 -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "size"), SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_int8_is_exact_and_the_same_in_any_company(ops: Ops, out: int, size: int, dtype: torch.dtype, bias: bool) -> None:
    if not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    x, w, b = made(out, size, dtype, bias=bias)
    rows = ops.quantize(x)
    packed = ops.pack_int8(w.clone())
    whole = ops.linear_int8(rows, packed, b, dtype)
    expected = exact.linear_int8(rows, exact.pack_int8(w), b, dtype)
    assert type(whole) is type(expected)
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(expected), strict=True))
    assert isinstance(whole, ScaledRows) == (not bias and dtype != torch.float16)
    assert tensors(whole)[0].dtype == dtype
    true = x.double() @ w.double().T + (b.double() if b is not None else 0)
    assert (plain(whole) - true).norm() / true.norm() < 0.02
    for first, count in PARTS:
        part = ops.linear_int8(ScaledRows(*(t[first : first + count].clone() for t in rows)), packed, b, dtype)
        assert all(torch.equal(a, b[first : first + count]) for a, b in zip(tensors(part), tensors(whole), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "size"), [(96, 64), (34, 70), (200, 1300)])
@pytest.mark.parametrize("bias", [False, True])
def test_int8_gated_gives_the_bits_of_both_in_turn(ops: Ops, out: int, size: int, dtype: torch.dtype, bias: bool) -> None:
    if not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    x, w, b = made(out, size, dtype, bias=bias)
    rows, halves = ops.quantize(x), ops.pack_int8(w, halves=True)
    in_turn = ops.linear_int8(rows, ops.pack_int8(w), b, dtype)
    # Adapters add to what both halves are before they meet.
    assert all(torch.equal(a, b) for a, b in zip(tensors(ops.linear_int8(rows, halves, b, dtype)), tensors(in_turn), strict=True))
    for kind in ("silu", "gelu_tanh", "clamped_swiglu"):
        for quantize in (False, True):
            expected = ops.gated_activation(in_turn, kind, quantize=quantize)
            got = ops.linear_int8_gated(rows, halves, b, kind, dtype, quantize=quantize)
            assert type(got) is type(expected)
            assert all(torch.equal(a, b) for a, b in zip(tensors(got), tensors(expected), strict=True)), (kind, quantize)
            for first, count in PARTS:
                given = ScaledRows(*(t[first : first + count].clone() for t in rows))
                part = ops.linear_int8_gated(given, halves, b, kind, dtype, quantize=quantize)
                assert all(torch.equal(a, b[first : first + count]) for a, b in zip(tensors(part), tensors(got), strict=True))


def test_int8_sums_of_the_largest_values(ops: Ops) -> None:
    if not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    size = 8192
    weight = torch.full((16, size), 127.0)
    weight[1::2] = -127
    values = torch.full((16, size), INT8_ZERO + 127, dtype=torch.uint8)
    values[1] = INT8_ZERO - 127
    values[2] = INT8_ZERO
    values[3, ::2] = INT8_ZERO - 127
    got = ops.linear_int8(ScaledRows(values, torch.ones(16)), ops.pack_int8(weight), None, torch.float32)
    assert torch.equal(plain(got).double(), (values.double() - INT8_ZERO) @ weight.double().T)


@pytest.mark.parametrize("size", [7, 64, 1300])
def test_int8_sums_of_any_integers_are_exact(ops: Ops, size: int) -> None:
    """-128 among weights too, which checkpoints have, and every value that a row can have."""
    if not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    g = torch.Generator().manual_seed(size)
    # Rows of 8, as kernels take them, for which sums of several words just fit into 16 bits, or just do not.
    kinds = [torch.full((8, size), value) for value in (32, -32, 33, 42, -43, 64)]
    kinds.append((torch.randn(24, size, generator=g) * 30).round().clamp(-128, 127).long())
    kinds += [torch.full((1, size), value) for value in (-128, -127, 127)] + [torch.randint(-128, 128, (30, size), generator=g)]
    kinds.append(torch.randint(0, 2, (16, size), generator=g) * 255 - 128)
    weight = torch.cat(kinds).to(torch.int8)
    rows = torch.cat([torch.full((1, size), value) for value in (1, 128, 255)] + [torch.randint(1, 256, (29, size), generator=g)])
    exact_sums = (rows - INT8_ZERO).double() @ weight.double().T
    packed = ops.pack_int8_rows(weight, torch.ones(len(weight)))
    for count in (1, 3, 5, 32):
        values = rows[:count].to(torch.uint8)
        got = ops.linear_int8(ScaledRows(values, torch.ones(count)), packed, torch.zeros(len(weight)), torch.float32)
        assert torch.equal(plain(got).double(), exact_sums[:count])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packing_leaves_the_weight_as_it_was(ops: Ops, dtype: torch.dtype) -> None:
    """A tied embedding is packed for the head and looked up for the input."""
    _, w, _ = made(96, 64, dtype, bias=False)
    before = w.clone()
    ops.pack_weight(w)
    ops.pack_int8(w)
    assert torch.equal(w, before)


def test_int8_weights_keep_their_signs_and_sizes(ops: Ops) -> None:
    """Rows of zeros, tiny and huge weights: one scale a row, and no row sees another's."""
    if not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    weight = torch.stack([torch.zeros(32), torch.full((32,), 1e-30), torch.full((32,), -1e30), torch.linspace(-1, 1, 32)])
    x = torch.ones(16, 32)
    rows = ops.quantize(x)
    got = plain(ops.linear_int8(rows, ops.pack_int8(weight), None, torch.float32))
    assert torch.equal(got, plain(exact.linear_int8(rows, exact.pack_int8(weight), None, torch.float32)))
    torch.testing.assert_close(got[0], weight.sum(-1), rtol=1e-5, atol=0.02)


def test_a_bad_row_stays_alone(ops: Ops) -> None:
    if not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    x, w, _ = made(96, 64, torch.float32, bias=False)
    clean = plain(ops.linear_int8(ops.quantize(x), ops.pack_int8(w), None, torch.float32))
    x[3, 5], x[9, 0] = float("nan"), float("inf")
    got = plain(ops.linear_int8(ops.quantize(x), ops.pack_int8(w), None, torch.float32))
    assert not got[[3, 9]].isfinite().any()
    others = [i for i in range(len(x)) if i not in (3, 9)]
    assert torch.equal(got[others], clean[others])


def test_int8_without_oneDNN_sums_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu_int8.supports_int8():
        pytest.skip("no exact int8 dot products here")
    x, w, _ = made(96, 64, torch.bfloat16, bias=False)
    rows = load("cpu").quantize(x)
    packed = cpu_int8.pack_int8(w)
    unpacked = packed._replace(weight=exact.pack_int8(w).values, packed=False)
    for a, b in zip(
        tensors(cpu_int8.linear_int8(rows, packed, None, w.dtype)),
        tensors(cpu_int8.linear_int8(rows, unpacked, None, w.dtype)),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_int8_is_refused_where_sums_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = cpu_int8._multiply
    monkeypatch.setattr(cpu_int8, "_multiply", lambda *args: multiply(*args).clamp(-(2**15), 2**15))
    cpu_int8.supports_int8.cache_clear()
    try:
        assert not cpu_int8.supports_int8()
    finally:
        cpu_int8.supports_int8.cache_clear()
