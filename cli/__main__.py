"""`python -m infer.cli`."""

from .main import run

run()
