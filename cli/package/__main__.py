"""`python -m infer`."""

import infer.cli.__main__  # noqa: F401  (it is what runs)
