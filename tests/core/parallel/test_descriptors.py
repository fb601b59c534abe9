"""File descriptors of children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
from infer.core.parallel import descriptors
missing = descriptors.open_missing()
first = os.open(os.devnull, os.O_RDONLY)
null = os.stat(os.devnull).st_ino
told = [sorted(missing), [os.fstat(fd).st_ino == null for fd in missing], first > 2, sorted(descriptors.open_missing())]
told.append([os.get_inheritable(fd) for fd in missing])
open(sys.argv[1], "w").write(repr(told))
"""


@pytest.mark.parametrize("closed", [(), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_what_is_closed_is_opened_on_nothing(tmp_path: Path, closed: tuple[int, ...]) -> None:
    told = tmp_path / "told"
    closing = " ".join(f"{fd}>&-" for fd in closed)
    subprocess.run(["bash", "-c", f'"$0" -c "$1" "$2" {closing}', sys.executable, CODE, str(told)], check=True, timeout=60)
    true = [True] * len(closed)
    assert told.read_text() == repr([list(closed), true, True, [], true])
