"""Backends are assembled from their modules: each has every operation of the contract, with the contract's arguments."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from infer.kernels import available, load
from infer.kernels.backend import OPERATIONS, Backend
from infer.kernels.ops import Ops


def loaded(name: str) -> Ops:
    if name == "cuda":
        pytest.importorskip("triton")
    return load(name)


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_takes_what_the_contract_says(name: str, operation: str) -> None:
    def parameters(function: Any) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values() if p.name != "self"]

    backend = loaded(name)
    assert getattr(type(backend), operation) is not getattr(Ops, operation)
    assert parameters(getattr(backend, operation)) == parameters(getattr(Ops, operation))


def test_a_backend_that_lacks_an_operation_is_refused() -> None:
    with pytest.raises(TypeError, match="backend bare: 0 functions named new_kv_cache; one is needed"):

        class Bare(Backend, modules=()):
            name = "bare"
