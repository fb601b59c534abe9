"""Small tensors between the host and a GPU; on a CPU they are where they are wanted."""

from __future__ import annotations

import pytest
import torch

from infer.core.sampling.transfers import ToHost, to_device

CPU = torch.device("cpu")


def test_on_a_cpu_nothing_is_copied() -> None:
    tensor = torch.arange(6)
    assert to_device(tensor, CPU) is tensor
    (same,) = ToHost([tensor]).wait()
    assert same is tensor
    assert ToHost([]).wait() == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    device = torch.device("cuda")
    for tensor in (torch.arange(6), torch.arange(24).view(4, 6)[:, 1:3], torch.empty(0, 3), torch.tensor([True, False])):
        assert torch.equal(to_device(tensor, device).cpu(), tensor)
    work = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        total = work.sum()
        arriving = ToHost([total, total + 1])
        total.fill_(0)  # what is done later is not seen
        for _ in range(50):
            work = work @ work
            work = work / work.norm()
        done = torch.cuda.Event()
        done.record()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    first, second = arriving.wait()
    assert not done.query(), "it waited for all"
    assert first != 0
    assert torch.isclose(second, first + 1)
