"""Scans of Mamba and Mamba-2 against the reference: states and results, and no bits that depend on steps or company."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from infer import kernels
from infer.kernels.ops import Ops
from infer.kernels.state import States

from ..test_scans import BEFORE, LENGTHS, SCANS, SLOTS, TOLERANCE, pool, states

REFERENCE = kernels.load("reference")
pytestmark = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")


@pytest.fixture
def ops() -> Ops:
    return kernels.load("cuda")


@pytest.fixture(params=SCANS)
def scan(request: pytest.FixtureRequest) -> Any:
    return SCANS[request.param]()


def there(device: torch.device, scan: Any) -> Any:
    """A scan whose learned numbers are on a device."""
    scan.scan = scan.scan._replace(**{name: getattr(scan.scan, name).to(device) for name in ("rate", "skip", "bias")})
    return scan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_against_the_reference(ops: Ops, device: torch.device, scan: Any, dtype: torch.dtype) -> None:
    inputs, state, of_step = scan.inputs(sum(LENGTHS) + 8, dtype), pool(scan), states(LENGTHS, BEFORE, SLOTS)
    state[SLOTS[0]] = float("nan")
    want_state = state.clone()
    want = scan.apply(REFERENCE, inputs, want_state, of_step)
    here = there(device, scan)
    state = state.to(device)
    got = here.apply(ops, [one.to(device) for one in inputs], state, States(*(one.to(device) for one in of_step)))
    torch.testing.assert_close(got.cpu(), want, **TOLERANCE[dtype])
    torch.testing.assert_close(state.cpu(), want_state, rtol=2e-5, atol=5e-6)


def test_no_steps_and_no_company_change_a_bit(ops: Ops, device: torch.device, scan: Any) -> None:
    inputs, other = ([one.to(device) for one in scan.inputs(16, torch.bfloat16, seed)] for seed in (0, 5))
    scan = there(device, scan)
    whole_state = pool(scan).to(device)
    whole = scan.apply(ops, inputs, whole_state, States(*(one.to(device) for one in states([9], [0], [4]))))[:9]
    state, done = pool(scan).to(device), 0
    for piece in (1, 5, 3):
        mixed = [torch.cat([b[:2], a[done : done + piece], b[2:5]]) for a, b in zip(inputs, other, strict=True)]
        of_step = States(*(one.to(device) for one in states([2, piece, 3], [0, done, 9], [1, 6, 2])))
        got = scan.apply(ops, mixed, state, of_step)
        assert torch.equal(got[2 : 2 + piece], whole[done : done + piece])
        done += piece
    assert torch.equal(state[6], whole_state[4])
