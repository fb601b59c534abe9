"""Damaged model folders: whatever is wrong with a small file or a header is one error that a user can be told, and takes no memory."""

from __future__ import annotations

import copy
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infer.core.build.engines import build
from infer.core.build.plan import Plan, make_plan
from infer.core.errors import InferError
from infer.core.settings.args import EngineArgs

#: What takes the place of each value of a file, one at a time.
WRONG: list[Any] = [
    *("2", "", "\ud800", [2], [], ["x"], [[1]], {}, {"a": 1}, {"a": {"b": 2}}, None, True),
    *(2.5, -2, 0, 10**7, 2**60, 10**30, 1e308, float("nan"), float("inf")),
]
Place = tuple[Any, ...]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where every value of a JSON file stands; of a list or a large object the first few."""
    yield place
    inner = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, one in inner[:40]:
        yield from places(one, (*place, key))


def changed(value: Any, place: Place, new: Any) -> Any:
    if not place:
        return new
    value = copy.deepcopy(value)
    at = value
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = new
    return value


def plan_of(folder: Path) -> Plan:
    settings = {"device": "cpu", "dtype": "float32", "kernels": "reference", "num_gpu_blocks_override": 8}
    return make_plan(EngineArgs.from_kwargs(model=str(folder), **settings))


def started(folder: Path) -> None:
    plan = plan_of(folder)
    if plan.recipe is None:
        plan.sampling_defaults()
    build(plan)


def told_or_fine(start: Callable[[Path], Any], folder: Path, place: Place, wrong: Any) -> None:
    try:
        start(folder)
    except Exception as error:
        if not isinstance(error, InferError):
            raise AssertionError(f"{place} = {wrong!r}") from error
        str(error).encode()  # it can be written


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = shutil.copytree(request.getfixturevalue(request.param), tmp_path / "m")
    if request.param == "tiny_llama":
        generation = {"eos_token_id": [2], "temperature": 0.7, "top_p": 0.9, "top_k": 50, "do_sample": True, "max_new_tokens": 5}
        (folder / "generation_config.json").write_text(json.dumps(generation))
        rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": {**rope, "original_max_position_embeddings": 32}}))
    return folder


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("tiny_llama", "config.json"),
        ("tiny_llama", "generation_config.json"),
        ("tiny_llama", "tokenizer_config.json"),
        ("tiny_bert", "config.json"),
        ("tiny_bert", "modules.json"),
        ("tiny_bert", "1_Pooling/config.json"),
        ("tiny_bert", "sentence_bert_config.json"),
        ("tiny_bert", "config_sentence_transformers.json"),
        ("tiny_ranker", "config.json"),
    ],
    indirect=["model"],
)
def test_a_wrong_value_is_an_error_to_be_told_or_does_not_matter(model: Path, file: str) -> None:
    path = model / file
    whole = json.loads(path.read_text())
    for number, place in enumerate(places(whole)):
        for wrong in WRONG[number % 4 :: 4]:  # each place has some of them, and each of them many places
            path.write_text(json.dumps(changed(whole, place, wrong)))
            told_or_fine(started, model, place, wrong)


@pytest.mark.parametrize("model", ["tiny_llama"], indirect=True)
def test_a_tokenizer_that_is_damaged_is_told(model: Path) -> None:
    path = model / "tokenizer.json"
    whole = json.loads(path.read_text())
    for number, place in enumerate(places(whole)):
        for wrong in WRONG[number % 8 :: 8]:
            path.write_text(json.dumps(changed(whole, place, wrong)))
            told_or_fine(plan_of, model, place, wrong)


def with_header(file: Path, header: Any) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + data[8 + length :])


@pytest.mark.parametrize("model", ["tiny_llama"], indirect=True)
def test_a_header_of_weights_that_is_damaged_is_told(model: Path) -> None:
    file = model / "model.safetensors"
    before = file.read_bytes()
    header = json.loads(before[8 : 8 + struct.unpack("<Q", before[:8])[0]])
    name = list(header)[-1]
    parts = [("dtype",), ("shape",), ("shape", 0), ("data_offsets",), ("data_offsets", 0), ("data_offsets", 1)]
    wrong: list[Any] = [changed(header, (name, *part), new) for new in WRONG for part in parts]
    wrong += [changed(header, (name,), new) for new in WRONG]
    wrong += [{**header, "\ud800": header[name]}, {**header, "more": header[name]}, [], {}, b"{", b"\xff" * 40, b"[" * 100_000]
    wrong.append({key: value for key, value in header.items() if key != name})
    for one in wrong:
        with_header(file, one)
        try:
            with pytest.raises(InferError, match=r"model\.safetensors"):
                started(model)
        except BaseException as error:
            raise AssertionError(repr(one)[-300:]) from error
        file.write_bytes(before)
    for length in (2**63, 2**40, 10**8 + 1, len(before) - 7):
        file.write_bytes(struct.pack("<Q", length) + before[8:])
        with pytest.raises(InferError, match=r"model\.safetensors"):
            started(model)


@pytest.mark.parametrize("model", ["tiny_llama"], indirect=True)
def test_an_index_that_is_damaged_is_told(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = model / "model.safetensors.index.json"
    whole = {"metadata": {"total_size": 1}, "weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    for place in places(whole):
        for wrong in WRONG:
            index.write_text(json.dumps(changed(whole, place, wrong)))
            with pytest.raises(InferError):
                started(model)
