"""Ranks that exchange through shared memory get the bytes that others get, whatever the order in which they come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from infer.core.errors import EngineError
from infer.core.parallel.group import Lost
from infer.core.parallel.shared_memory import Patience, SharedGroup, group_bytes, mapped, new_memory
from infer.kernels import usable

if "cpu" not in usable("cpu"):
    pytest.skip("there is no compiler", allow_module_level=True)

#: So small that tensors go in many pieces, which end anywhere.
SLOT = 256


@pytest.fixture(params=[2, 3])
def ranks(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable[[SharedGroup], Tensor]], list[Tensor]]]:
    """ranks(call): what `call` gives each of them, which run at a time."""
    size = request.param
    memory = mapped(new_memory(group_bytes(size, SLOT)))
    groups = [SharedGroup(memory, rank, size, Patience(lambda: "", 60), slot=SLOT) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        yield lambda call: list(pool.map(call, groups))


def part_of(group: SharedGroup, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(group.rank)).mul_(10.0 ** (group.rank % 2)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_are_made_in_the_order_of_ranks(ranks: Callable[..., list[Tensor]], dtype: torch.dtype) -> None:
    for shape in ((1,), (3, 37), (16, 64), (0, 8), (41, 101)):
        found = ranks(lambda group, shape=shape: (time.sleep(0.002 * group.rank), group.all_reduce(part_of(group, shape, dtype)))[1])
        first, *others = (torch.randn(shape, generator=torch.Generator().manual_seed(r)).mul_(10.0 ** (r % 2)) for r in range(len(found)))
        wanted = first.to(dtype).float()
        for one in others:
            wanted += one.to(dtype)
        assert all(torch.equal(one, wanted.to(dtype)) for one in found)


def test_columns_come_side_by_side_and_nobody_is_overtaken(ranks: Callable[..., list[Tensor]]) -> None:
    """Those that give columns do not wait for the one that reads them: it is slow here, and what follows must not be written over it."""

    def three(group: SharedGroup) -> Tensor:
        columns = []
        for turn in range(3):
            time.sleep(0.01 * (group.rank == 0))
            columns.append(group.gather(part_of(group, (7, 50), torch.float32) + turn))
        group.all_reduce(torch.ones(500))
        return torch.stack(columns) if group.rank == 0 else columns[0]

    whole, *_ = found = ranks(three)
    parts = [torch.randn(7, 50, generator=torch.Generator().manual_seed(r)).mul_(10.0 ** (r % 2)) for r in range(len(found))]
    for turn in range(3):
        assert torch.equal(whole[turn], torch.cat([part + turn for part in parts], dim=1))


def test_who_waits_for_one_that_is_gone_is_told() -> None:
    gone = [""]
    memory = mapped(new_memory(group_bytes(2)))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(SharedGroup(memory, 0, 2, Patience(lambda: gone[0], 60)).all_reduce, torch.ones(3))
        gone[0] = "a rank is gone"
        with pytest.raises(Lost, match="a rank is gone"):
            waiting.result(timeout=60)
    with pytest.raises(EngineError, match="the 2 ranks cannot meet: time is up"):
        SharedGroup(mapped(new_memory(group_bytes(2))), 0, 2, Patience(lambda: "", 0.01)).greet(torch.device("cpu"))


def test_the_memory_has_no_name_and_its_descriptor_is_closed() -> None:
    descriptor = new_memory(4096)
    assert os.fstat(descriptor).st_nlink == 0
    assert not mapped(descriptor).any()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
