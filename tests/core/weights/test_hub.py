"""Hub models: the local cache first, the network only if need be and allowed, and every failure in one line."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from infer.core.errors import InferError, ModelError, OutputError
from infer.core.weights.hub import is_hub_id, snapshot

WHOLE = {"config.json": "{}", "model.safetensors": "", "tokenizer.json": "{}"}


class Hub:
    """Stands for huggingface_hub: a cache that may hold a folder, and a network that may raise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cached: dict[str, str] | None = None
        self.remote: dict[str, str] = WHOLE
        self.error: Exception | None = None
        self.asked: list[dict[str, Any]] = []

    def snapshot_download(self, repo: str, *, local_files_only: bool = False, **options: Any) -> str:
        files = self.cached if local_files_only else self.remote
        if files is None:
            raise errors.LocalEntryNotFoundError("not cached")
        if not local_files_only:
            self.asked.append(options)
        for name, content in files.items():
            (self.folder / name).write_text(content)
        return str(self.folder)

    def model_info(self, repo: str, *, timeout: float, **_: Any) -> None:
        assert timeout > 0
        if self.error is not None:
            raise self.error


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return fake


def test_a_whole_cached_model_needs_no_network(hub: Hub) -> None:
    hub.cached = WHOLE
    hub.error = AssertionError("asked the network")
    assert snapshot("org/name") == hub.folder
    assert hub.asked == []


def test_what_is_not_cached_is_fetched(hub: Hub) -> None:
    assert snapshot("org/name", revision="v1", cache_dir="/d", token="t") == hub.folder
    (options,) = hub.asked
    assert (options["revision"], options["cache_dir"], options["token"]) == ("v1", "/d", "t")
    assert {"*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"} == set(options["allow_patterns"])


def test_a_tokenizer_comes_without_weights(hub: Hub) -> None:
    hub.remote = {"tokenizer.json": ""}
    assert snapshot("org/name", tokenizer_only=True) == hub.folder
    assert "*.safetensors" not in hub.asked[0]["allow_patterns"]
    hub.cached = hub.remote
    snapshot("org/name", tokenizer_only=True)
    assert len(hub.asked) == 1
    with pytest.raises(ModelError, match=r"no config\.json on the hub"):
        snapshot("org/name")


def test_code_is_fetched_only_for_who_lets_it_run(hub: Hub) -> None:
    auto_map = {"auto_map": {"AutoModelForCausalLM": "modeling_x.X", "AutoModel": "other.X"}}
    hub.cached = {**WHOLE, "config.json": json.dumps(auto_map)}
    snapshot("org/name")
    assert hub.asked == []
    snapshot("org/name", with_code=True)
    assert "*.py" in hub.asked[0]["allow_patterns"]
    hub.cached["modeling_x.py"] = ""
    snapshot("org/name", with_code=True)
    assert len(hub.asked) == 1
    hub.cached["config.json"] = json.dumps({"auto_map": {"AutoModelForCausalLM": "org/other--modeling_y.Y"}})
    snapshot("org/name", with_code=True)
    assert len(hub.asked) == 1  # what lies elsewhere is not fetched


INDEX = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})


@pytest.mark.parametrize(
    "cached",
    [
        {"config.json": "{}"},
        {"model.safetensors": "", "tokenizer.json": ""},
        {"config.json": "{}", "model.safetensors": ""},
        {"config.json": "{}", "tokenizer.json": "", "model.safetensors.index.json": INDEX, "1.safetensors": ""},
        {"config.json": "{}", "tokenizer.json": "", "model.safetensors.index.json": "{"},
    ],
)
def test_a_download_that_was_interrupted_goes_on(hub: Hub, cached: dict[str, str]) -> None:
    hub.cached = cached
    snapshot("org/name")
    assert len(hub.asked) == 1


def test_cached_shards_are_enough(hub: Hub) -> None:
    hub.cached = {
        "config.json": "{}",
        "tokenizer.model": "",
        "model.safetensors.index.json": INDEX,
        "1.safetensors": "",
        "2.safetensors": "",
    }
    snapshot("org/name")
    assert hub.asked == []


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="org/name is not in the local cache, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids"):
        snapshot("org/name")
    hub.cached = {"config.json": "{}", "tokenizer.json": ""}
    with pytest.raises(ModelError, match=r"not whole in the local cache \(no model.safetensors\)"):
        snapshot("org/name")
    assert hub.asked == []


def http_error(kind: type[Exception]) -> Callable[[], Exception]:
    def make() -> Exception:
        error = kind.__new__(kind)
        Exception.__init__(error, "a long text\nwith hf_secret in it")
        error.response = SimpleNamespace(status_code=404)  # type: ignore[attr-defined]
        return error

    return make


class ConnectTimeout(Exception):
    """What the HTTP library under the hub raises; which one it is differs between versions."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (http_error(errors.GatedRepoError), "org/name is gated: ask for access"),
        (http_error(errors.RepositoryNotFoundError), "there is no org/name on the hub, nor a folder of that name here"),
        (http_error(errors.RevisionNotFoundError), "no such revision"),
        (http_error(errors.HfHubHTTPError), "cannot fetch org/name from the hub: HfHubHTTPError: a long text$"),
        (lambda: errors.LocalEntryNotFoundError("x"), "the hub cannot be reached"),
        (ConnectTimeout, "the hub cannot be reached"),
        (lambda: ValueError("bad header hf_secret"), r"ValueError: bad header \*\*\*$"),
        (ValueError, "cannot fetch org/name from the hub: ValueError: $"),
    ],
)
def test_failures_are_one_line_without_the_token(hub: Hub, make: Callable[[], Exception], message: str) -> None:
    hub.error = make()
    with pytest.raises(ModelError, match=message) as error:
        snapshot("org/name", token="hf_secret")
    assert "\n" not in str(error.value)
    assert "hf_secret" not in str(error.value)


def test_a_full_disk(hub: Hub) -> None:
    hub.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match="no space left while fetching org/name"):
        snapshot("org/name")


@pytest.mark.parametrize(("remote", "lacking"), [({}, "config.json"), ({"config.json": "{}"}, "model.safetensors")])
def test_a_repository_without_what_we_read(hub: Hub, remote: dict[str, str], lacking: str) -> None:
    hub.remote = remote
    with pytest.raises(ModelError, match=f"org/name has no {lacking} on the hub: only models with config.json and safetensors"):
        snapshot("org/name")


def test_a_bad_name_is_an_infer_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InferError):  # huggingface_hub's own check of names
        snapshot("org/na--me")


@pytest.mark.parametrize("name", ["org/name", "o.r-g/na_me.1", "1/2", "gpt2"])
def test_names_that_may_be_hub_ids(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["name", "a/b/c", "./x", "../x", "~/x", "/x", "a/", "a/b.gguf", "a b/c"])
def test_names_that_cannot_be_hub_ids(name: str) -> None:
    assert not is_hub_id(name)
