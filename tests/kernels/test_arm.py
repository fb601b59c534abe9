"""The kernels on Arm: cross-compiled (g++-aarch64-linux-gnu) and run by qemu-aarch64 (qemu-user) on what the reference computes.

The same tests on other x86 machines: `CXX="g++ -mno-avx512f" XDG_CACHE_HOME=/tmp/avx2 pytest tests/kernels`; in place of that flag
`-mno-avx512vnni -mno-avx512bf16` stands for the first CPUs with AVX-512, `-mno-avx2 -mno-fma -mno-avx512f` for those before AVX2.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from infer.kernels import load
from infer.kernels.cpu import build
from infer.kernels.ops import INT8_ZERO, AttentionConfig, AttentionMeta, HeadNorm, Rotation, Segments

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def write(folder: Path, vectors: dict[str, Tensor]) -> None:
    for name, values in vectors.items():
        (folder / name).write_bytes(values.contiguous().view(torch.uint8).numpy().tobytes())


def write_products(folder: Path) -> None:
    """Rows, weights and products in float32, int8 and bf16, of the largest values too."""
    reference, g = load("reference"), torch.Generator().manual_seed(0)
    rows, n, k = 19, 70, 1028
    x, w, b = torch.randn(rows, k, generator=g), torch.randn(n, k, generator=g), torch.randn(n, generator=g)
    quantized, packed = reference.quantize(x), reference.pack_int8(w)
    packed.values[3], packed.values[4], packed.values[5] = 127, -127, -128
    quantized.values[2], quantized.values[3] = INT8_ZERO + 127, INT8_ZERO - 127
    product = reference.linear_int8(quantized, packed, b, torch.float32)
    assert isinstance(product, torch.Tensor)
    half_x, half_w = x.bfloat16(), w.bfloat16()
    write(
        folder,
        {
            "shape": torch.tensor([rows, n, k]),
            "x": x,
            "weight": w,
            "bias": b,
            "out": (x.double() @ w.double().T + b.double()).float(),
            "x_int8": quantized.values,
            "row_scale_int8": quantized.scale,
            "weight_int8": packed.values,
            "scale_int8": packed.scale,
            "out_int8": product,
            "x_bf16": half_x,
            "weight_bf16": half_w,
            "out_bf16": (half_x.double() @ half_w.double().T).float(),
        },
    )


def write_steps(folder: Path) -> None:
    """Rows normed, activated and quantized; two prompts rotated, stored and attended to, from the cache and straight from their rows."""
    reference, g = load("reference"), torch.Generator().manual_seed(0)
    rows, size, heads, kv_heads, dim, block_size, lens = 5, 150, 6, 2, 40, 16, [150, 70]
    config, tokens, per = AttentionConfig(heads, kv_heads, dim, 0.2), sum(lens), -(-max(lens) // block_size)
    tables = (1 + torch.randperm(len(lens) * per, generator=g)).view(len(lens), per).int()
    positions = torch.cat([torch.arange(n) for n in lens])
    slots = torch.cat([tables[i, at // block_size] * block_size + at % block_size for i, at in enumerate(map(torch.arange, lens))])
    starts = torch.tensor([0, *lens]).cumsum(0).int()
    meta = AttentionMeta(starts, torch.tensor(lens, dtype=torch.int32), tables, slots, block_size)
    angles = torch.outer(torch.arange(max(lens) * 1.0), torch.rand(dim // 2, generator=g))
    rotation, segments = Rotation(positions, angles.cos(), angles.sin()), Segments(starts)
    meta.plan, segments.plan = reference.plan_attention(meta, heads, kv_heads), reference.plan_segments(segments, heads, kv_heads)
    vectors = {"kv_lens": meta.kv_lens, "tables": tables, "query_start": starts, "positions": positions, "slots": slots}
    vectors |= {"cos": rotation.cos, "sin": rotation.sin}
    vectors["sizes"] = torch.tensor([rows, size, heads, kv_heads, dim, block_size, tables.numel() + 1, len(lens), per])
    plain = [
        torch.randn(shape, generator=g) for shape in ((rows, size), (rows, size), (size,), (tokens, (heads + 2 * kv_heads) * dim), (dim,))
    ]
    for name, dtype in (("", torch.float32), ("_bf16", torch.bfloat16)):
        x, residual, weight, qkv, head_norm = (values.to(dtype) for values in plain)
        normed, total = reference.add_rms_norm(x, residual.clone(), weight, 1e-5)
        codes = reference.quantize(x)
        found = {"x": x, "residual": residual, "norm": weight, "qkv": qkv, "head_norm": head_norm, "normed": normed, "sum": total}
        found |= {kind: reference.gated_activation(x, kind) for kind in ("silu", "gelu", "gelu_tanh")}
        found |= {"codes": codes.values, "code_scale": codes.scale}
        for suffix, kept in (("", dtype), ("_int8", torch.int8)):
            cache = reference.new_kv_cache(tables.numel() + 1, block_size, kv_heads, dim, kept, torch.device("cpu"))
            found["query"] = reference.rope_and_store(qkv, rotation, HeadNorm(head_norm, head_norm, 1e-5), cache, meta, config)
            found[f"attention{suffix}"] = reference.attention(found["query"], cache, meta, config)
        found["segments"] = reference.segment_attention(qkv, rotation, segments, config)
        vectors |= {f"{key}{name}": values for key, values in found.items() if isinstance(values, Tensor)}
    write(folder, vectors)


def run(driver: str, sources: tuple[str, ...], machine: str, cpu: str, folder: Path) -> str:
    """What the program says of the vectors in `folder`, of which it finds all right."""
    flags = [flag for flag in build.FLAGS if flag not in ("-I.", "-O3", "-fPIC")]
    program = str(folder / "program")
    files = [str(Path(__file__).with_name(driver)), *(str(build.SOURCES / name) for name in (*sources, "activation.cpp", "pool.cpp"))]
    call = [COMPILER, *flags, "-O1", "-static", "-pthread", f"-march={machine}", f"-I{build.SOURCES}", *files, "-o", program]
    subprocess.run(call, check=True, timeout=500)
    result = subprocess.run([EMULATOR, "-cpu", cpu, program, str(folder)], capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"needs {COMPILER} and {EMULATOR}"),
]


@pytest.mark.parametrize(
    ("machine", "cpu", "bf16"), [("armv8-a", "cortex-a72", False), ("armv8.2-a+dotprod", "max", False), ("armv8.6-a", "max", True)]
)
def test_products_on_arm(machine: str, cpu: str, bf16: bool, tmp_path: Path) -> None:
    write_products(tmp_path)
    told = run("products.cpp", ("gemm.cpp", "pack.cpp"), machine, cpu, tmp_path)
    assert "int8: the reference's bits" in told
    assert ("bf16:" in told) == bf16


@pytest.mark.parametrize(("machine", "cpu"), [("armv8-a", "cortex-a72"), ("armv8.6-a", "max")])
def test_steps_on_arm(machine: str, cpu: str, tmp_path: Path) -> None:
    write_steps(tmp_path)
    sources = ("norm.cpp", "quantize.cpp", "rope.cpp", "attention.cpp", "attention_int8.cpp", "attention_plan.cpp", "segments.cpp")
    told = run("steps.cpp", sources, machine, cpu, tmp_path)
    assert told.count("the reference's bits") == 2
    assert told.count("segments") == 2
