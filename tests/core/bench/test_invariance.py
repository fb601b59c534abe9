"""The invariance check: it finds nothing here, and finds what was planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result

from infer.cli.commands import infer
from infer.core.bench import invariance
from infer.core.build.engines import build_engine
from infer.core.build.plan import Plan
from infer.core.engine.engine import Engine
from infer.core.settings.args import EngineArgs
from infer.kernels.ops import Ops


class Leaky:
    """Operations whose rows feel a full batch: more than 16 rows at a time come out slightly larger."""

    def __init__(self, plain: Ops) -> None:
        self.__dict__["plain"] = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.plain, name, value)

    def linear(self, x: Any, *others: Any, **more: Any) -> Any:
        made = self.plain.linear(x, *others, **more)
        return made * 1.0001 if x.shape[0] > 16 else made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, compiled_kernels: None) -> Callable[..., dict[str, Any]]:
    """The check of the small model in one form, with a few of its ways."""
    monkeypatch.setattr(invariance, "CHUNKS", (5, 64))

    def measure(folder: Path, **settings: Any) -> dict[str, Any]:
        args = EngineArgs(**invariance.toy_model(folder), device="cpu")
        told = invariance.measure_invariance(args, [invariance.Form("one", settings)], records=24, batches=(3, 40))
        assert told["forms"][0]["error"] is None
        return told

    return measure


def test_nothing_differs_and_all_was_reached(quick: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    told = quick(tmp_path, dtype="float32")
    found = {check["name"]: check for check in told["forms"][0]["checks"]}
    assert told["checks_that_differ"] == 0
    assert all(check["equal"] and check["reached"] and check["compared"] >= 24 for check in found.values())
    for name in (
        "linear layers: rows in batches",
        "40 sequences at a time",
        "chunks of 5 tokens",
        "prefixes cached",
        "preempted",
        "2 threads",
    ):
        assert name in found


def test_a_planted_difference_is_found(quick: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(plan: Plan) -> Engine:
        return build_engine(plan, lambda ops: cast(Ops, Leaky(ops)))

    monkeypatch.setattr(invariance, "build_engine", leaky)
    told = quick(tmp_path, dtype="float32")
    found = {check["name"]: check for check in told["forms"][0]["checks"]}
    assert not found["linear layers: rows in batches"]["equal"]
    assert not found["40 sequences at a time"]["equal"]
    assert 0 < found["40 sequences at a time"]["differ"] <= 24
    assert 0 < found["40 sequences at a time"]["largest"] < 1
    assert told["checks_that_differ"] >= 2

    def call(*argv: str) -> Result:
        return CliRunner().invoke(infer, ["doctor", "--invariance", "--device", "cpu", *argv])

    monkeypatch.setattr(invariance, "forms_of_toy", lambda device: [invariance.Form("float32", {"dtype": "float32"})])
    monkeypatch.setattr(invariance, "BATCHES", (40,))
    result = call()
    assert result.exit_code == 1
    assert "differ, by " in result.stdout
    monkeypatch.setattr(invariance, "build_engine", build_engine)
    result = call("--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["checks_that_differ"] == 0
