"""A short convolution of several sequences, cut into steps in one way or another, for the tests of every backend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, Ops
from infer.kernels.state import States

#: Tokens of each sequence, and its slot: in no order, and with room between them.
LENGTHS, SLOTS = (1, 7, 2, 23, 5), (4, 1, 7, 3, 6)
NUM_SLOTS = 9


@dataclass(frozen=True)
class Convolution:
    """Its numbers and the inputs of all sequences; NaN lies in slots that nobody has written to."""

    inputs: list[Tensor]
    weight: Tensor
    bias: Tensor | None
    activation: str | None

    @classmethod
    def of(cls, size: int, width: int, dtype: torch.dtype, *, bias: bool, activation: str | None) -> Convolution:
        g = torch.Generator().manual_seed(size + width)
        inputs = [(torch.randn(length, size, generator=g) * 2).to(dtype) for length in LENGTHS]
        return cls(inputs, torch.randn(width, size, generator=g), torch.randn(size, generator=g) if bias else None, activation)

    def formula(self) -> list[Tensor]:
        """float64: of each sequence by itself."""
        found = []
        for x in self.inputs:
            padded = F.pad(x.double().T, (len(self.weight) - 1, 0))[None]
            bias = None if self.bias is None else self.bias.double()
            y = F.conv1d(padded, self.weight.double().T[:, None], bias, groups=x.shape[1])[0].T
            found.append(F.silu(y) if self.activation else y)
        return found

    def run(self, ops: Ops, device: torch.device, piece: int, *, only: list[int] | None = None, strided: bool = False) -> list[Tensor]:
        """Results of the sequences (or of `only` some), each going on by `piece` tokens a step; the states hold their last inputs."""
        members = [*range(len(LENGTHS))] if only is None else only
        size, kept = self.weight.shape[1], len(self.weight) - 1
        state = torch.full((NUM_SLOTS, kept, size), float("nan"), dtype=self.inputs[0].dtype, device=device)
        done: list[list[Tensor]] = [[] for _ in LENGTHS]
        weight, bias = self.weight.to(device), None if self.bias is None else self.bias.to(device)
        for start in range(0, max(LENGTHS), piece):
            # Those that are done stay in the step without a row.
            parts = {s: self.inputs[s][start : start + piece] for s in members}
            x = torch.cat([*parts.values()]).to(device)
            total = len(x)
            x = F.pad(x, (0, 0, 0, -total % ROW_MULTIPLE), value=float("nan"))
            if strided:
                x = torch.cat([x, torch.full_like(x, float("nan"))], 1)[:, :size]
            counts = torch.tensor([0, *(len(part) for part in parts.values())])
            lens = torch.tensor([min(start + piece, LENGTHS[s]) for s in members])
            slots = torch.tensor([SLOTS[s] for s in members], dtype=torch.int32)
            states = States(counts.cumsum(0).int().to(device), lens.int().to(device), slots.to(device))
            y = ops.short_convolution(x, weight, bias, state, states, self.activation)
            assert y.shape == (len(x), size)
            assert y[total:].eq(0).all()
            for s, rows in zip(members, y[:total].cpu().split(counts[1:].tolist()), strict=True):
                done[s].append(rows)
        for s in members:
            assert torch.equal(state[SLOTS[s]].cpu(), F.pad(self.inputs[s], (0, 0, kept, 0))[LENGTHS[s] :])
        untouched = sorted({*range(NUM_SLOTS)} - {SLOTS[s] for s in members})
        assert state[untouched].isnan().all()
        return [torch.cat(done[s]) for s in members]
