"""Triton kernels run in its interpreter where there is no GPU, on CPU tensors: the same tests, the same tolerances."""

from __future__ import annotations

import os

import pytest
import torch

#: tests/conftest.py decides.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.get_closest_marker("grid"):
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `grid` run where they are asked for, as that or as slow ones."""
    if not {"grid", "slow"} & set(config.option.markexpr.split()):
        left_out = {item for item in items if item.get_closest_marker("grid")}
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def mended_interpreter() -> None:
    if INTERPRETED:
        from .interpreter import mend

        mend()


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, and TRITON_INTERPRET is not 1")


@pytest.fixture(params=["cpu"] if INTERPRETED else [pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of this test's tensors: the CPU means the interpreter."""
    return torch.device(request.param)
