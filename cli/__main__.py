"""`python -m infer.cli`."""

import sys

if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the current folder: what lies there (a torch.py, a folder "kernels") is not ours to import

from .main import run

run()
