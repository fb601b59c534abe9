"""Kernels are launched on the device of their tensors, whichever is the current one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from infer.kernels.backend import OPERATIONS
from infer.kernels.cuda import Ops, configs
from infer.kernels.cuda.build import on_its_device

#: They launch nothing.
PLANS = {"new_kv_cache", "new_host_cache", "plan_attention", "plan_segments", "supports_int8"}
#: Those that look at `deterministic`.
PRODUCTS = {"linear", "linear_grouped", "linear_experts_grouped", "linear_fp8"}
#: Others that do.
LAUNCH_NOTHING = {"any_rows", "decode_launch", "fp8_refusal", "most_products", "pack_fp8", "whole_layer"}
#: Those that call others.
MADE_OF_OTHERS = {"linear_gated", "pack_halves"}


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The current devices, one within another."""
    devices = [0]

    @contextmanager
    def device(one: torch.device) -> Iterator[None]:
        assert one.index is not None
        devices.append(one.index)
        yield
        devices.pop()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: devices[-1])
    monkeypatch.setattr(torch.cuda, "device", device)
    return devices


def test_every_operation_is_launched_on_its_tensors_device(current: list[int]) -> None:
    """Two models on two devices take turns in one thread."""
    seen = []
    launch = on_its_device(lambda first: seen.append(list(current)))
    for device in ("cuda:0", "cuda:1", "cuda:0", "cpu"):
        tensor: Any = SimpleNamespace(device=torch.device(device))
        launch(tensor)
        launch((tensor, "scales"))
    assert seen == [[0]] * 2 + [[0, 1]] * 2 + [[0]] * 4
    assert current == [0]


def test_no_operation_is_left_out() -> None:
    names = set(OPERATIONS)
    assert {"linear", "sample", "attention"} < names
    bare = {name for name in names - PLANS - PRODUCTS - LAUNCH_NOTHING - MADE_OF_OTHERS if not hasattr(getattr(Ops, name), "__wrapped__")}
    assert bare == set()


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_products_are_some_of_them(current: list[int], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    seen = []

    def product(x: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(list(current))

    monkeypatch.setattr(f"infer.kernels.cuda._{name}", on_its_device(product))
    more = (None,) if "experts" in name else ()
    getattr(Ops(), name)(SimpleNamespace(device=torch.device("cuda:1")), None, None, *more)
    assert seen == [[0, 1]]


@pytest.mark.parametrize(
    ("capability", "kilobytes", "row"),
    [
        ((8, 0), 163, "sm_80"),
        ((8, 6), 99, "sm_86"),
        ((8, 7), 163, "sm_80"),
        ((8, 9), 99, "sm_86"),
        ((9, 0), 227, "sm_90"),
        ((10, 0), 227, "sm_90"),
        ((12, 0), 99, "sm_86"),
        ((12, 1), 99, "sm_86"),
    ],
)
def test_tables_go_by_the_shared_memory_there_is(capability: tuple[int, int], kilobytes: int, row: str) -> None:
    """A newer GPU may have less of it than its elders."""
    assert configs.row_of(capability, kilobytes * 1024) == row
    tables: list[dict[Any, Any]] = [configs.PRODUCTS, configs.LOGITS, configs.ELEMENTS]
    assert all(any(row in (key, key[0]) for key in table) for table in tables)
    for (name, size), tile in configs.PRODUCTS.items():
        assert tile.num_stages * (tile.rows + tile.outputs) * tile.depth * size <= configs.SHARED[name]
