"""No step waits for a compiler because it is larger, smaller, or begins elsewhere than those before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_kernels_are_compiled_for_steps_of_any_size(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(Path(__file__).with_name("mixed_calls.py"))]
    told = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert told["late"] == {}
    assert len(told["first"]) > 12
    assert not list(tmp_path.rglob("*.ptx"))
