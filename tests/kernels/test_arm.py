"""Matrix multiplication on Arm: cross-compiled (g++-aarch64-linux-gnu) and run by qemu-aarch64 (qemu-user) on what the reference computes.

The same tests on other x86 machines: `CXX="g++ -mno-avx512f" XDG_CACHE_HOME=/tmp/avx2 pytest tests/kernels`; in place of that flag
`-mno-avx512vnni -mno-avx512bf16` stands for the first CPUs with AVX-512, `-mno-avx2 -mno-fma -mno-avx512f` for those before AVX2.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from infer.kernels import load
from infer.kernels.cpu import build
from infer.kernels.ops import INT8_ZERO

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def write_vectors(folder: Path) -> None:
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
    vectors = {
        "shape": torch.tensor([rows, n, k]),
        "x": x,
        "weight": w,
        "bias": b,
        "out": (x.double() @ w.double().T + b.double()).float(),
        "x_int8": quantized.values,
        "row_scale_int8": quantized.scale,
        "weight_int8": packed.values,
        "scale_int8": packed.scale,
        "sums_int8": packed.values.sum(-1, dtype=torch.int32) * INT8_ZERO,
        "out_int8": product,
        "x_bf16": half_x,
        "weight_bf16": half_w,
        "out_bf16": (half_x.double() @ half_w.double().T).float(),
    }
    for name, values in vectors.items():
        (folder / name).write_bytes(values.contiguous().view(torch.uint8).numpy().tobytes())


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"needs {COMPILER} and {EMULATOR}")
@pytest.mark.parametrize(
    ("machine", "cpu", "bf16"), [("armv8-a", "cortex-a72", False), ("armv8.2-a+dotprod", "max", False), ("armv8.6-a", "max", True)]
)
def test_products_on_arm(machine: str, cpu: str, bf16: bool, tmp_path: Path) -> None:
    write_vectors(tmp_path)
    flags = [flag for flag in build.FLAGS if flag not in ("-I.", "-O3", "-fPIC")]
    sources = [str(build.SOURCES / name) for name in ("gemm.cpp", "activation.cpp", "pool.cpp")]
    program = str(tmp_path / "products")
    driver = str(Path(__file__).with_name("products.cpp"))
    call = [COMPILER, *flags, "-O1", "-static", "-pthread", f"-march={machine}", f"-I{build.SOURCES}", driver, *sources, "-o", program]
    subprocess.run(call, check=True, timeout=500)
    result = subprocess.run([EMULATOR, "-cpu", cpu, program, str(tmp_path)], capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "int8: the reference's bits" in result.stdout
    assert ("bf16:" in result.stdout) == bf16
