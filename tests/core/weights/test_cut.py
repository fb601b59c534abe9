"""Parts of checkpoint tensors: what a rank reads is what it would have cut from the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from infer.core.weights import folder
from infer.core.weights.cut import Cut
from infer.core.weights.folder import FolderSource
from infer.core.weights.loader import load, load_dummy
from infer.core.weights.parameter import Parameter

CUTS = [Cut(0, 0, 3), Cut(0, 3, 6), Cut(0, 6, 9), Cut(0, 8, 12), Cut(1, 0, 5), Cut(1, 5, 10), Cut(1, 2, 3)]


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "before": torch.randn(3, generator=generator),
        "w": torch.randn(10, 10, generator=generator).bfloat16(),
        "b": torch.randn(10, generator=generator),
        "after": torch.randn(2, 2, generator=generator),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return FolderSource("tiny", tmp_path)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("piece", [1, 64, 8 << 20])
def test_a_part_is_read_as_it_is_cut_from_the_whole(source: FolderSource, cut: Cut, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "PIECE_BYTES", piece)
    whole = dict(source.stream())["w"]
    part = dict(source.stream({"w": cut}))["w"]
    assert torch.equal(part, cut.of(whole))
    assert part.shape == cut.shape((10, 10))
    assert part.untyped_storage().nbytes() == part.nbytes  # nothing of the rest is kept alive


def test_what_lies_beyond_the_end_is_zero(source: FolderSource) -> None:
    part = dict(source.stream({"w": Cut(0, 8, 12)}))["w"]
    assert torch.equal(part[:2], dict(source.stream())["w"][8:])
    assert not part[2:].any()
    assert not Cut(0, 10, 12).of(part.new_ones(10, 2)).any()


def test_parameters_hold_their_cuts_whoever_else_uses_the_tensor(source: FolderSource) -> None:
    whole = dict(source.stream())
    fused = Parameter(("w", (10, 10)), ("w", (10, 10)), cuts=[Cut(0, 0, 4), Cut(0, 6, 9)])
    columns, plain = Parameter(("w", (10, 10)), cuts=[Cut(1, 4, 8)]), Parameter(("w", (10, 10)))
    bias, others = Parameter(("b", (10,)), cuts=[Cut(0, 5, 10)]), [Parameter(("before", (3,))), Parameter(("after", (2, 2)))]
    assert fused.shape == (7, 10)
    assert columns.shape == (10, 4)
    load([fused, columns, plain, bias, *others], source, torch.float32, torch.device("cpu"))
    w = whole["w"].float()
    assert torch.equal(fused.tensor, torch.cat([w[:4], w[6:9]]))
    assert torch.equal(columns.tensor, w[:, 4:8])
    assert torch.equal(plain.tensor, w)
    assert torch.equal(bias.tensor, whole["b"][5:])


def test_dummy_weights_are_shared_out_too() -> None:
    def made(cut: Cut | None) -> torch.Tensor:
        parameter = Parameter(("w", (8, 6)), cuts=[cut])
        load_dummy([parameter], torch.float32, torch.device("cpu"))
        return parameter.tensor

    assert torch.equal(made(Cut(0, 2, 6)), made(None)[2:6])
    assert torch.equal(made(Cut(1, 3, 6)), made(None)[:, 3:])
