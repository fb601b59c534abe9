"""Meanings of --model, their order, and the message when it means nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from infer.core.errors import ConfigError, ModelError
from infer.core.weights import find as find_module
from infer.core.weights.aliases import MANIFEST, aliases, cache_folder
from infer.core.weights.find import find
from infer.core.weights.folder import FolderSource
from infer.core.weights.gguf.source import GgufSource


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, an empty working folder, and no hub."""

    def refuse(repo: str, **_: object) -> Path:
        raise AssertionError(f"asked the hub for {repo}")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(find_module, "snapshot", refuse)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache"


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def fetched(name: str) -> Path:
    import json

    folder = model_folder(cache_folder() / name)
    (folder / MANIFEST).write_text(json.dumps(aliases()[name].manifest))
    return folder


def test_a_folder() -> None:
    model_folder(Path("m"))
    assert find("m") == FolderSource("m", Path("m"))
    assert find("./m").path == Path("m")


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model_folder(tmp_path / "m")
    assert find("~/m").path == tmp_path / "m"


def test_a_gguf_file() -> None:
    Path("m.gguf").write_bytes(b"GGUF")
    Path("blob").write_bytes(b"GGUF....")
    assert find("m.gguf") == GgufSource("m.gguf", Path("m.gguf"))
    assert isinstance(find("blob"), GgufSource)


def test_a_fetched_alias() -> None:
    folder = fetched("smollm2-135m")
    assert find("smollm2-135m") == FolderSource("smollm2-135m", folder)


def test_an_alias_that_is_not_fetched() -> None:
    with pytest.raises(ModelError, match="not fetched yet; run: infer models get smollm2-135m"):
        find("smollm2-135m")


@pytest.mark.parametrize("manifest", ["", "{}", '{"format": 0}'])
def test_an_alias_folder_of_another_make_is_not_fetched(manifest: str) -> None:
    (fetched("smollm2-135m") / MANIFEST).write_text(manifest)
    with pytest.raises(ModelError, match="not fetched yet"):
        find("smollm2-135m")


def test_an_alias_goes_before_a_folder_of_its_name() -> None:
    model_folder(Path("smollm2-135m"))
    with pytest.raises(ModelError, match="not fetched yet"):
        find("smollm2-135m")
    assert find("./smollm2-135m").path == Path("smollm2-135m")


def test_a_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(find_module, "snapshot", lambda repo, **options: asked.append((repo, options)) or Path("/snapshot"))
    assert find("org/name", revision="v1", download_dir="/d", hf_token="t") == FolderSource("org/name", Path("/snapshot"))
    find("org/name", with_code=True)
    assert asked == [
        ("org/name", {"revision": "v1", "cache_dir": "/d", "token": "t", "with_code": False, "tokenizer_only": False}),
        ("org/name", {"revision": None, "cache_dir": None, "token": None, "with_code": True, "tokenizer_only": False}),
    ]


def test_a_tokenizer_needs_no_model_around_it() -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model"):
        folder = Path(f"with-{name}")
        folder.mkdir()
        (folder / name).touch()
        assert find(str(folder), tokenizer_only=True).path == folder
        with pytest.raises(ModelError, match=r"it has no config\.json"):
            find(str(folder))
    Path("bare").mkdir()
    with pytest.raises(ModelError, match=r"bare is no tokenizer folder: it has neither tokenizer\.json nor"):
        find("bare", tokenizer_only=True)


def test_a_folder_goes_before_the_hub() -> None:
    model_folder(Path("org/name"))
    assert find("org/name").path == Path("org/name")


def test_a_revision_of_a_folder_has_no_effect_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model_folder(Path("m"))
    with caplog.at_level(logging.WARNING):
        find("m", revision="v1")
    assert "revision v1 has no effect" in caplog.text


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("smollm-135m", r"unknown model 'smollm-135m'; did you mean 'smollm2-135m'\? \(short names: smollm2-135m, all-minilm-l6-v2;"),
        ("zzz", r"unknown model 'zzz' \(short names"),
        ("./nothing", "there is no folder or .gguf file './nothing'"),
        ("a/b/c", "there is no folder or .gguf file 'a/b/c'"),
        ("org/model.gguf", "there is no folder or .gguf file"),
        ("x" * 5000, "cannot read|unknown model"),
        ("empty", "empty is not a model folder: it has no config.json"),
        ("ggufs", "GGUF files: give the one you mean, ggufs/a.gguf"),
        ("lora", "LoRA adapter"),
        ("m/model.safetensors", "give the folder it lies in, m"),
        ("m/pytorch_model.bin", "pickle file, which can run code when read, so it is refused"),
        ("m/notes", "is not a model"),
    ],
)
def test_what_is_not_found(model: str, message: str) -> None:
    for file in (
        "empty/x",
        "ggufs/b.gguf",
        "ggufs/a.gguf",
        "lora/adapter_config.json",
        "m/model.safetensors",
        "m/pytorch_model.bin",
        "m/notes",
    ):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    with pytest.raises(ModelError, match=message):
        find(model)


def test_no_model() -> None:
    with pytest.raises(ConfigError, match="no model is given"):
        find("")


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_the_cache_is_in_the_home_folder_by_default(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == Path.home() / ".cache" / "infer" / "models"
