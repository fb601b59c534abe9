"""The fingerprint of a job: everything that can change a row, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from infer.core.jobs import fingerprint as module
from infer.core.jobs.fingerprint import SETTINGS, VERIFIED, fingerprint
from infer.core.settings.args import EngineArgs
from infer.core.spec.read import read_spec
from infer.core.types.params import RequestOutputKind
from infer.core.weights.find import find


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    """A model of our own to change."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_llama.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def made(model: Path, job: dict[str, Any] | None = None, *, verify: bool = False, **settings: Any) -> dict[str, Any]:
    args = EngineArgs(str(model), dtype="float32", device="cpu")
    source = find(str(model))
    config = dataclasses.replace(args.resolve(read_spec(source.read_json("config.json") or {})), **settings)
    return fingerprint(config, source, source, job or {}, verify=verify)


def differing(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    return {name for name in {**before, **now} if before.get(name) != now.get(name)}


def test_the_same_model_has_the_same(model: Path) -> None:
    assert made(model) == made(model)
    assert json.loads(json.dumps(made(model))) == made(model)  # as a journal gives it back
    assert made(model, {"temperature": 0.1})["temperature"] == 0.1


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_changed_file_of_the_model_is_named(model: Path, name: str) -> None:
    before = made(model)
    path = model / name
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value, indent=7))
    assert [n for n in differing(before, made(model)) if name in n]


def test_other_weights_are_seen(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they differ all over, at once; a single byte of a large file with --verify, which is only a closer look."""
    monkeypatch.setattr(module, "_SAMPLES", 4)
    monkeypatch.setattr(module, "_SAMPLE_BYTES", 16)
    before, verified = made(model), made(model, verify=True)
    assert differing(before, verified) == {VERIFIED}
    path = next(model.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-17] ^= 1
    path.write_bytes(data)
    assert differing(before, made(model)) == set()
    assert differing(verified, made(model, verify=True)) == {VERIFIED}
    header = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[:header] + bytes(byte ^ 1 for byte in data[header:]))
    assert differing(before, made(model)) == {"model's weights"}


def test_settings_that_cannot_change_a_byte_do_not_count(model: Path) -> None:
    plain = made(model)
    for name, value in {"max_num_seqs": 3, "max_num_batched_tokens": 100, "enable_prefix_caching": False}.items():
        assert hasattr(EngineArgs(""), name)
        assert differing(plain, made(model, **{name: value})) == set()
    assert differing(plain, made(model, threads=7)) == set()
    assert differing(plain, made(model, seed=7)) == {"seed"}
    assert differing(plain, made(model, kernel_build="another")) == {"kernel_build"}  # it may round differently
    assert set(SETTINGS) <= set(plain)


class TestPooling:
    @pytest.fixture
    def pools(self, bert_folder: Path, tmp_path: Path) -> Path:
        return shutil.copytree(bert_folder, tmp_path / "model")

    @pytest.mark.parametrize(
        "name", ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"]
    )
    def test_a_changed_recipe_is_named(self, pools: Path, name: str) -> None:
        before = made(pools)
        assert made(pools) == before
        path = pools / name
        path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
        assert differing(before, made(pools)) == {f"model's {name}"}

    def test_weights_of_a_dense_module_are_seen(self, pools: Path) -> None:
        listed = json.loads((pools / "modules.json").read_text())
        listed.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
        (pools / "modules.json").write_text(json.dumps(listed))
        (pools / "2_Dense").mkdir()
        (pools / "2_Dense/model.safetensors").write_bytes(b"a")
        before = made(pools)
        (pools / "2_Dense/model.safetensors").write_bytes(b"b")
        assert differing(before, made(pools)) == {"model's 2_Dense/model.safetensors"}

    @pytest.mark.parametrize("changed", [{"task": "classify"}, {"pooler_config": {"normalize": False}}])
    def test_settings(self, pools: Path, changed: dict[str, Any]) -> None:
        assert differing(made(pools), made(pools, **changed)) == set(changed)

    def test_a_model_that_generates_has_none_of_it(self, model: Path) -> None:
        assert not {"task", "pooler_config", "model's modules.json"} & made(model).keys()


@pytest.fixture
def slow_tokenizer(model: Path) -> Path:
    """The model with a tokenizer that transformers puts together from its files."""
    (model / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "added_tokens.json", "cl100k.tiktoken"):
        (model / name).write_bytes(b"{}")
    (model / "model.safetensors.index.json").write_bytes(b"{}")
    return model


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "added_tokens.json", "cl100k.tiktoken"])
def test_a_tokenizer_of_several_files(slow_tokenizer: Path, name: str) -> None:
    before = made(slow_tokenizer)
    assert before["version of transformers"] is not None
    (slow_tokenizer / name).write_bytes(b'{"a": 1}')
    assert differing(before, made(slow_tokenizer)) == {f"tokenizer's {name}"}


def test_files_that_nobody_reads_do_not_count(slow_tokenizer: Path, model: Path) -> None:
    before = made(slow_tokenizer)
    for name in ("README.md", "model.safetensors.index.json", "trainer_state.json"):
        (slow_tokenizer / name).write_bytes(b"other")
    assert made(slow_tokenizer) == before
    (model / "tokenizer.json").write_bytes(b"{}")
    quick = made(model)
    (model / "vocab.txt").write_bytes(b"other")
    assert made(model) == quick
    assert made(model, skip_tokenizer_init=True).keys().isdisjoint({"tokenizer's tokenizer.json", "version of tokenizers"})


def test_code_that_comes_with_the_model(model: Path) -> None:
    """Only where it may run; whether it may is no difference by itself."""
    plain = made(model)
    assert made(model, trust_remote_code=True) == plain
    (model / "parts").mkdir()
    (model / "parts/layers.py").write_text("a = 1")
    assert made(model) == plain
    before = made(model, trust_remote_code=True)
    (model / "parts/layers.py").write_text("a = 2")
    assert differing(before, made(model, trust_remote_code=True)) == {"model's parts/layers.py", "tokenizer's parts/layers.py"}


def test_the_folder_of_generation_config(model: Path, tmp_path: Path) -> None:
    """End tokens come from it."""
    folder = tmp_path / "generation"
    folder.mkdir()
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    before = made(model, generation_config=str(folder))
    assert made(model, generation_config=f"{folder}/") == before
    (folder / "generation_config.json").write_text('{"eos_token_id": 8}')
    assert differing(before, made(model, generation_config=str(folder))) == {"generation_config.json of --generation-config"}
    assert made(model, generation_config="none") == made(model)  # what it leaves out are defaults, which the job has


def test_versions_are_those_of_what_is_used(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = {"command": "generate"}
    plain = made(model, used)
    assert "version of transformers" not in plain
    assert "version of jinja2" not in plain
    assert made(model, {"command": "chat"})["version of jinja2"]
    assert made(model, {**used, "template": "{{ x }}"})["version of jinja2"]
    assert made(model, used, model_impl="transformers")["version of transformers"]
    for library in ("torch", "tokenizers", "orjson"):
        with monkeypatch.context() as patch:
            patch.setattr(module, "library_version", lambda name, library=library: "0" if name == library else "1")
            others = made(model, used)
            patch.setattr(module, "library_version", lambda name: "1")
            assert differing(others, made(model, used)) == {f"version of {library}"}


def test_the_spelling_of_the_model_does_not_count(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    (model.parent / "link").symlink_to(model)
    plain = made(model)
    assert plain["model's name"] == "model"
    for spelling in ("./model", f"{model}/", f"{model}/../model", "link"):
        args = EngineArgs(spelling, dtype="float32", device="cpu")
        source = find(spelling)
        config = args.resolve(read_spec(source.read_json("config.json") or {}))
        assert differing(plain, fingerprint(config, source, source, {})) == set(), spelling


def test_integers_over_64_bits_are_told_apart(model: Path) -> None:
    job = {"output_kind": RequestOutputKind.CUMULATIVE}
    one, same, other = (made(model, job, hf_overrides={"nobody_reads_it": 10**30 + more}) for more in (0, 0, 1))
    assert differing(one, same) == set()
    assert differing(one, other) == {"hf_overrides"}


def test_on_a_cpu_everything_is_deterministic(model: Path) -> None:
    assert made(model, deterministic=True) == made(model)
