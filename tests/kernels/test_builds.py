"""The kernels as other x86 machines would compile them: their tests run in each build that this CPU can run.

By hand for all tests: `CXX="g++ -mno-avx512f" XDG_CACHE_HOME=/tmp/avx2 pytest tests/kernels`. For Arm see test_arm.py, for builds that are
only compiled test_build.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infer.kernels.cpu import build
from infer.kernels.features import features

#: What is taken from this CPU, which must have the feature; the instructions that are left for products of float32 and of int8.
BUILDS = [
    pytest.param(["-mno-avx512bf16"], "avx512_bf16", "AVX-512", "AVX-512 vpdpbusd", id="no avx512_bf16"),
    pytest.param(["-mno-avx512vnni", "-mno-avx512bf16"], "avx512_vnni", "AVX-512", "AVX-512 vpmaddubsw", id="no avx512_vnni"),
    pytest.param(["-mno-avx512f"], "avx_vnni", "AVX2 with FMA", "AVX-VNNI vpdpbusd", id="no avx512f"),
    pytest.param(["-mno-avx512f", "-mno-avxvnni"], "avx2", "AVX2 with FMA", "AVX2 vpmaddubsw", id="avx2"),
    pytest.param(["-mno-avx512f", "-mno-avxvnni", "-mno-avx2", "-mno-fma"], "sse4_2", "SSE2", "SSSE3 pmaddubsw", id="no avx2"),
    pytest.param(["-mno-avx512f", "-mno-avxvnni", "-mno-sse3"], "sse4_2", "SSE2", "SSE2 pmaddwd", id="plain x86-64"),
]
#: Products, row-wise operations and attention, each in company and to the bit.
TESTS = ("test_linear.py", "test_rows.py", "test_rope.py", "test_attention.py", "test_segments.py")
#: Of those, what takes long and does not differ between instruction sets.
LEFT_OUT = "reference or block_size or caps"

#: pytest without the current folder on the path, where a library would take ours for one of its own.
_RUN = "import sys; sys.path.remove(''); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
_ROOT = Path(__file__).parents[2]


@pytest.mark.grid
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="flags of x86")
@pytest.mark.parametrize(("flags", "needs", "float32", "int8"), BUILDS)
def test_kernels_built_for_other_cpus(flags: list[str], needs: str, float32: str, int8: str, tmp_path: Path) -> None:
    if needs not in features():
        pytest.skip(f"this CPU has no {needs}")
    compiler = build.compilers()[0]
    if not all(map(compiler.accepts, flags)):
        pytest.skip(f"{compiler.name} does not know {' '.join(flags)}")
    environment = {**os.environ, "CXX": f"{compiler.name} {' '.join(flags)}", "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    told = _call(["-m", "infer.cli", "doctor", "--json"], environment, tmp_path, 900)
    kernels = json.loads(told.stdout)["kernels"]
    assert kernels["backend"] == "cpu", kernels["error"]
    assert kernels["instructions"]["float32"] == float32
    if "amx_int8" not in features():
        assert kernels["instructions"]["int8"] == f"{int8}, exact"
    files = [str(Path(__file__).with_name(name)) for name in TESTS]
    result = _call(["-c", _RUN, "-q", "-p", "no:cacheprovider", "-k", f"not ({LEFT_OUT})", *files], environment, _ROOT, 1500)
    assert result.returncode == 0, result.stdout[-3000:]
    assert " passed" in result.stdout


def _call(words: list[str], environment: dict[str, str], folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False
    )
