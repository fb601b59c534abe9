"""Safetensors folders: what is read, and that damage of every kind is one clear ModelError."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from infer.core.errors import ModelError
from infer.core.weights.folder import INDEX, SINGLE, FolderSource
from infer.core.weights.header import read_header

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.weight": torch.arange(10, dtype=torch.bfloat16).reshape(5, 2),
    "c.bias": torch.tensor([1, 2, 3], dtype=torch.int64),
    "d.scale": torch.tensor(2.5, dtype=torch.float16),
    "e.empty": torch.zeros(0, 3),
    "f.mask": torch.tensor([True, False]),
    "g.small": torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    save_file(TENSORS, tmp_path / SINGLE)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    names = list(TENSORS)
    shards = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, members in shards.items():
        save_file({name: TENSORS[name] for name in members}, tmp_path / file)
    write_index(tmp_path, {name: file for file, members in shards.items() for name in members})
    return tmp_path


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def source(folder: Path) -> FolderSource:
    return FolderSource("model", folder)


def check_streams(folder: Path) -> None:
    found = dict(source(folder).stream())
    assert found.keys() == TENSORS.keys()
    for name, tensor in found.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert tensor.shape == TENSORS[name].shape
        assert torch.equal(tensor.float(), TENSORS[name].float())


def test_reads_a_single_file(folder: Path) -> None:
    infos = source(folder).tensors()
    assert {name: (info.shape, info.dtype, info.file) for name, info in infos.items()} == {
        "a.weight": ((3, 4), "F32", SINGLE),
        "b.weight": ((5, 2), "BF16", SINGLE),
        "c.bias": ((3,), "I64", SINGLE),
        "d.scale": ((), "F16", SINGLE),
        "e.empty": ((0, 3), "F32", SINGLE),
        "f.mask": ((2,), "BOOL", SINGLE),
        "g.small": ((2,), "F8_E4M3", SINGLE),
    }
    check_streams(folder)


def test_reads_shards(sharded: Path) -> None:
    assert source(sharded).tensors()["d.scale"].file == "model-00002-of-00002.safetensors"
    check_streams(sharded)


def test_a_tensor_the_index_does_not_name_is_not_part_of_the_model(sharded: Path) -> None:
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    del weight_map["a.weight"]
    write_index(sharded, weight_map)
    assert "a.weight" not in source(sharded).tensors()
    assert "a.weight" not in dict(source(sharded).stream())


def test_each_streamed_tensor_owns_its_memory(folder: Path) -> None:
    for _, tensor in source(folder).stream():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        tensor.zero_()
    check_streams(folder)


def test_reads_small_files(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    model = source(folder)
    assert model.read("config.json") == b'{"model_type": "llama"}'
    assert model.read_json("config.json") == {"model_type": "llama"}
    assert model.read_json("1_Pooling/config.json") == {}
    assert model.read("tokenizer.json") is None
    assert model.read_json("tokenizer.json") is None
    assert model.read("config.json/x") is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe", b"[" * 100_000])
def test_a_cut_json_file_is_named(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=rf"config\.json is not valid JSON \({len(content)} bytes"):
        source(folder).read_json("config.json")


def test_json_that_is_no_object_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ModelError, match=r"config\.json holds a JSON list, not an object"):
        source(folder).read_json("config.json")


def read_all(folder: Path) -> None:
    model = source(folder)
    model.tensors()
    for _ in model.stream():
        pass


def cuts(size: int) -> list[int]:
    return sorted({0, 1, 7, 8, 9, size - 1, *(size * i // 20 for i in range(20))})


def test_a_cut_weight_file_is_named_with_expected_and_actual_bytes(folder: Path) -> None:
    whole = (folder / SINGLE).read_bytes()
    for size in cuts(len(whole)):
        (folder / SINGLE).write_bytes(whole[:size])
        with pytest.raises(ModelError) as error:
            read_all(folder)
        assert SINGLE in str(error.value)
        assert f"it has {size};" in str(error.value)
        if size > 1000:
            assert f"expected {len(whole)} bytes" in str(error.value)


def test_a_cut_shard_is_named(sharded: Path) -> None:
    shard = sharded / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    for size in cuts(len(whole)):
        shard.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=f"{shard.name} is cut short.*it has {size};"):
            read_all(sharded)


def test_a_cut_index_is_named(sharded: Path) -> None:
    whole = (sharded / INDEX).read_bytes()
    for size in cuts(len(whole)):
        (sharded / INDEX).write_bytes(whole[:size])
        with pytest.raises(ModelError, match=INDEX):
            read_all(sharded)


def test_no_damage_of_the_header_is_a_raw_exception(folder: Path) -> None:
    whole = (folder / SINGLE).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.randrange(header)] = rng.randrange(256)
        (folder / SINGLE).write_bytes(damaged)
        with contextlib.suppress(ModelError):
            read_all(folder)


def set_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    change(header)
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + whole[end:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["a.weight"].update(shape=[3, 5]), "'a.weight' of shape .3, 5. and dtype F32 needs 60 bytes, but has 48"),
        (lambda h: h["a.weight"].update(shape=[10**4000, 10**4000]), "needs far more bytes, but has 48"),
        (lambda h: h["a.weight"].update(dtype="F64"), "needs 96 bytes, but has 48"),
        (lambda h: h["a.weight"].update(dtype="Q7"), "dtype 'Q7', which is not known"),
        (lambda h: h["a.weight"].update(shape=[-3, -4]), "not whole numbers"),
        (lambda h: h["a.weight"].update(shape=[True, 12]), "not whole numbers"),
        (lambda h: h["a.weight"].update(shape="34"), "not whole numbers"),
        (lambda h: h["a.weight"].pop("shape"), "entry for tensor 'a.weight' is incomplete"),
        (lambda h: h["a.weight"].update(data_offsets=[0]), "incomplete"),
        (lambda h: h.update({"a.weight": 3}), "incomplete"),
        (lambda h: h["a.weight"].update(data_offsets=h["b.weight"]["data_offsets"]), "needs 48 bytes, but has 20"),
        (lambda h: h.pop("a.weight"), "but the one before it ends at|but its header describes"),
        (lambda h: h.update({"z": dict(h["a.weight"])}), "starts at byte"),
    ],
)
def test_a_header_that_contradicts_itself(folder: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    set_header(folder / SINGLE, change)
    with pytest.raises(ModelError, match=message) as error:
        source(folder).tensors()
    assert SINGLE in str(error.value)


def test_bytes_no_tensor_owns(folder: Path) -> None:
    with (folder / SINGLE).open("ab") as f:
        f.write(b"x")
    with pytest.raises(ModelError, match="but its header describes"):
        source(folder).tensors()


def test_a_file_that_is_no_safetensors(folder: Path) -> None:
    (folder / SINGLE).write_bytes(b"PK\x03\x04 not at all what you think" * 10)
    with pytest.raises(ModelError, match="not a safetensors file"):
        source(folder).tensors()


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read"):
        read_header(tmp_path)


def test_a_dtype_torch_cannot_hold_is_named(folder: Path) -> None:
    raw = json.dumps({"x": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    (folder / SINGLE).write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0\0")
    assert source(folder).tensors()["x"].shape == (4,)
    with pytest.raises(ModelError, match="dtype F4"):
        list(source(folder).stream())


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00001-of-00002"):
        source(sharded).tensors()


def test_a_tensor_missing_from_its_shard_is_named(sharded: Path) -> None:
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    write_index(sharded, {**weight_map, "a.weight": weight_map["g.small"]})
    with pytest.raises(ModelError, match=r"lacks 1 tensor.*a\.weight"):
        source(sharded).tensors()


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 1}, "x"])
def test_an_index_without_a_map(sharded: Path, weight_map: Any) -> None:
    write_index(sharded, weight_map)
    with pytest.raises(ModelError, match="weight_map"):
        source(sharded).tensors()


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "a\\b", "x\0y"])
def test_an_index_cannot_name_files_elsewhere(sharded: Path, file: str) -> None:
    write_index(sharded, {"a.weight": file})
    with pytest.raises(ModelError, match="outside the model's folder"):
        source(sharded).tensors()


def test_an_index_cannot_name_a_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    save_file({"a": torch.zeros(2)}, tmp_path / "other" / "s.safetensors")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "s.safetensors").symlink_to(tmp_path / "other" / "s.safetensors")
    write_index(tmp_path / "model", {"a": "s.safetensors"})
    with pytest.raises(ModelError, match=r"a link to .*outside"):
        source(tmp_path / "model").tensors()


def test_a_hub_snapshot_of_links_is_read(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file({"a": torch.zeros(2)}, blobs / "1")
    (blobs / "2").write_text(json.dumps({"weight_map": {"a": "s.safetensors"}}))
    (snapshot / "s.safetensors").symlink_to("../../blobs/1")
    (snapshot / INDEX).symlink_to("../../blobs/2")
    assert list(source(snapshot).tensors()) == ["a"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no model.safetensors and no model.safetensors.index.json"),
        (["pytorch_model.bin"], "pickle files can run code when read, so they are refused; convert"),
        (["weights.pt", "config.json"], "only weights.pt"),
        (["model-00001-of-00002.safetensors"], "not the model.safetensors.index.json"),
        (["training_args.bin"], "fetch the model again"),
    ],
)
def test_a_folder_without_weights(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=message):
        source(tmp_path).tensors()


def test_a_file_that_shrinks_while_it_is_read(folder: Path) -> None:
    model = source(folder)
    model.tensors()
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-3])
    with pytest.raises(ModelError, match="became shorter"):
        list(model.stream())
