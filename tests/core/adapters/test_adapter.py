"""Adapters' files: what is read of them, and what is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core.adapters.adapter import adapter_hash, read_config
from infer.core.adapters.books import stamped
from infer.core.adapters.values import check_file
from infer.core.adapters.weights import AdapterWeights
from infer.core.errors import AdapterError, ConfigError
from infer.core.types.adapters import LoRARequest

from .making import Matrices, write_adapter

LAYER = "model.layers.0.self_attn.q_proj"


def pair(rank: int = 4, ins: int = 8, out: int = 6) -> Matrices:
    return torch.ones(rank, ins), torch.ones(out, rank)


def test_ranks_and_scales_are_of_each_layer(tmp_path: Path) -> None:
    up, down = "model.layers.0.mlp.up_proj", "model.layers.11.mlp.down_proj"
    made = write_adapter(
        tmp_path,
        {LAYER: pair(), up: pair(2), down: pair(3)},
        r=4,
        lora_alpha=8,
        rank_pattern={"up_proj": 2, "layers.11.mlp.down_proj": 3},
        alpha_pattern={r"layers\.\d+\.mlp\.(up|down)_proj": 5},
        use_rslora=True,
    )
    found = read_config(made, max_rank=4)
    assert {name: (one.rank, one.features) for name, one in found.pairs.items()} == {LAYER: (4, (6, 8)), up: (2, (6, 8)), down: (3, (6, 8))}
    assert [found.pairs[name].scale for name in (LAYER, up, down)] == pytest.approx([8 / 2, 5 / 2**0.5, 5 / 3**0.5])
    assert found.rank == 4
    assert read_config(write_adapter(tmp_path / "plain", {LAYER: pair()}, lora_alpha=6)).pairs[LAYER].scale == 1.5


def test_embeddings_have_pairs_too(tmp_path: Path) -> None:
    made = write_adapter(tmp_path, {}, embeddings={"model.embed_tokens": (torch.ones(4, 100), torch.ones(16, 4))})
    one = read_config(made).pairs["model.embed_tokens"]
    assert (one.of_embedding, one.features, one.rank) == (True, (16, 100), 4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_dora": True}, "use_dora is set: DoRA is not supported"),
        ({"bias": "all"}, "bias is set: biases that were trained"),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, r"modules_to_save is set \(lm_head, embed_tokens\)"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"peft_type": "IA3"}, "of the kind 'IA3', not LORA"),
        ({"init_lora_weights": "pissa_niter_4"}, "begun with pissa_niter_4, which changes the model's own weights"),
        ({"lora_alpha": "x"}, "lora_alpha of .* must be a number that float32 can hold, not 'x'"),
        ({"lora_alpha": 10**400}, "must be a number that float32 can hold"),
        ({"lora_alpha": float("nan")}, "must be a number that float32 can hold"),
        ({"alpha_pattern": {"q_proj": 10**400}}, "must be a number that float32 can hold"),
        ({"r": 3}, "has rank 4, and adapter_config.json says 3"),
        ({"use_rslora": "no"}, "use_rslora must be true or false, not 'no'"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern must be an object"),
        ({"rank_pattern": {"((.*)*)*x": 9}}, "repeats too much to be matched"),
        ({"alpha_pattern": {r".*a?.*a?.*a?x": 9}}, "repeats too much to be matched"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(AdapterError, match=said) as caught:
        read_config(write_adapter(tmp_path, {LAYER: pair()}, **changes))
    assert caught.value.of_record().code == "adapter_invalid"


@pytest.mark.parametrize("pattern", ["(", "(" * 5000, "a{99999999999}"])
def test_a_pattern_that_is_none_fits_nothing(tmp_path: Path, pattern: str) -> None:
    assert read_config(write_adapter(tmp_path, {LAYER: pair()}, rank_pattern={pattern: 3})).rank == 4


def test_no_message_is_as_long_as_a_value_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(AdapterError) as caught:
        read_config(write_adapter(tmp_path, {LAYER: pair()}, modules_to_save=["a" * 10_000]))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("a", "b"), [((4, 0), (6, 4)), ((10**12, 0), (0, 10**12)), ((0, 8), (6, 0))])
def test_matrices_without_values(tmp_path: Path, a: tuple[int, int], b: tuple[int, int]) -> None:
    """No rank is taken from one: room for it would be kept."""
    with pytest.raises(AdapterError, match="not a matrix of floats"):
        read_config(write_adapter(tmp_path, {LAYER: (torch.ones(a), torch.ones(b))}, r=a[0]))


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize(
    ("dtype", "value", "alpha", "said"),
    [
        (torch.float32, torch.nan, 8, "NaN"),
        (torch.bfloat16, torch.inf, 8, "infinity"),
        (torch.float16, -torch.inf, 8, "infinity"),
        (torch.float64, 1e300, 8, "float32 cannot hold"),
        (torch.float32, -1e30, 1e30, "times its scale"),
    ],
)
def test_values_that_are_no_numbers(tmp_path: Path, half: int, dtype: torch.dtype, value: float, alpha: float, said: str) -> None:
    matrices = [one.to(dtype) for one in pair()]
    matrices[half][1, 2] = value
    config = read_config(write_adapter(tmp_path, {LAYER: (matrices[0], matrices[1])}, lora_alpha=alpha))
    if alpha != 8 and half == 0:  # the scale is B's
        check_file(config)
    else:
        for check in (lambda: check_file(config), lambda: AdapterWeights.read(stamped(str(tmp_path)), None)):
            with pytest.raises(AdapterError, match=said):
                check()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str, kind: str) -> None:
    file = write_adapter(tmp_path / "a", {LAYER: pair()}) / name
    file.unlink()
    make: dict[str, Any] = {
        "pipe": lambda: os.mkfifo(file),
        "device": lambda: file.symlink_to("/dev/zero"),
        "folder": file.mkdir,
        "loop": lambda: file.symlink_to(file.name),
    }
    make[kind]()
    for read in (read_config, adapter_hash):
        with pytest.raises(AdapterError) as caught:
            read(tmp_path / "a")
        assert caught.value.code == "adapter_invalid"


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    for path in ("~nobody-has-this-name/a", tmp_path / ("x" * 5000)):
        with pytest.raises(AdapterError):
            read_config(path)


def test_a_larger_rank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="rank 4, above max_lora_rank 3; raise --max-lora-rank to 4"):
        read_config(write_adapter(tmp_path, {LAYER: pair()}), max_rank=3)


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="there is no adapter") as caught:
        read_config(tmp_path / "none")
    assert caught.value.code == "adapter_not_found"
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match="is no adapter: it has no adapter_config"):
        read_config(tmp_path / "empty")

    def broken(name: str) -> Path:
        return write_adapter(tmp_path / name, {LAYER: pair()})

    (broken("json") / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match="is not valid JSON"):
        read_config(tmp_path / "json")
    (broken("list") / "adapter_config.json").write_text("[]")
    with pytest.raises(AdapterError, match="a JSON list, not an object"):
        read_config(tmp_path / "list")
    weights = broken("cut") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(AdapterError, match=r"cut short.*fetch the adapter again"):
        read_config(tmp_path / "cut")
    broken("pickle").joinpath("adapter_model.safetensors").rename(tmp_path / "pickle" / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"only adapter_model.bin: pickle files can run code"):
        read_config(tmp_path / "pickle")
    a, b = pair()
    for name, both, said in (
        ("half", {f"{LAYER}.lora_A.weight": a}, "has lora_A and not the other half"),
        ("ranks", {f"{LAYER}.lora_A.weight": a, f"{LAYER}.lora_B.weight": b[:, :3].contiguous()}, "whose ranks differ"),
        ("dora", {f"{LAYER}.lora_magnitude_vector": a}, "is not one that PEFT saves of LoRA"),
        ("ints", {f"{LAYER}.lora_A.weight": a.int()}, "not a matrix of floats"),
        ("none", {}, "has no tensors"),
    ):
        from safetensors.torch import save_file

        save_file({f"base_model.model.{key}": value for key, value in both.items()}, broken(name) / "adapter_model.safetensors")
        with pytest.raises(AdapterError, match=said):
            read_config(tmp_path / name)


def test_the_hash_is_of_both_files(tmp_path: Path) -> None:
    made = write_adapter(tmp_path / "a", {LAYER: pair()})
    before = adapter_hash(made)
    assert adapter_hash(write_adapter(tmp_path / "b", {LAYER: pair()})) == before
    values = json.loads((made / "adapter_config.json").read_text())
    (made / "adapter_config.json").write_text(json.dumps({**values, "lora_alpha": 1}))
    assert adapter_hash(made) != before
    assert adapter_hash(write_adapter(made, {LAYER: (pair()[0] * 2, pair()[1])})) != before
    with pytest.raises(AdapterError, match="cannot read"):
        adapter_hash(tmp_path)


def test_a_request_has_vllm_s_names(tmp_path: Path) -> None:
    from infer.lora.request import LoRARequest as Theirs

    assert Theirs is LoRARequest
    one = LoRARequest("sql", 1, tmp_path)  # type: ignore[arg-type]
    assert (one.name, one.adapter_id, one.path) == ("sql", 1, str(tmp_path))
    for wrong in (("", 1, "x"), ("a", 0, "x"), ("a", True, "x"), ("a", 1, "")):
        with pytest.raises(ConfigError):
            LoRARequest(*wrong)
