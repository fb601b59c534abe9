"""`infer config`: every setting, its value and where it came from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from infer.core.settings.args import EngineArgs


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("INFER_")]:
        monkeypatch.delenv(name)


def shown(result: Any) -> dict[str, tuple[Any, str]]:
    assert result.exit_code == 0, result.stderr
    return {row["name"]: (row["value"], row["source"]) for row in json.loads(result.stdout)}


def test_each_level_wins_over_the_one_below(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("max_num_seqs: 1\nblock_size: 32\nseed: 5\n")
    monkeypatch.setenv("INFER_BLOCK_SIZE", "64")
    monkeypatch.setenv("INFER_SEED", "6")
    rows = shown(call("config", "show", "--json", "--config", config, "--seed", "7", "--no-enable-prefix-caching"))
    assert rows["max_num_seqs"] == (1, "mine.yaml")
    assert rows["block_size"] == (64, "env INFER_BLOCK_SIZE")
    assert rows["seed"] == (7, "flag --seed")
    assert rows["enable_prefix_caching"] == (False, "flag --enable-prefix-caching")
    assert rows["dtype"] == ("auto", "default")
    assert rows["max_model_len"] == (None, "default")


def test_which_rows(call: Any) -> None:
    settings = EngineArgs.settings()
    working = [name for name, one in settings.items() if not one.pending]
    assert list(shown(call("config", "show", "--json"))) == working
    assert list(shown(call("config", "show", "--json", "--all"))) == list(settings)
    assert shown(call("config", "show", "--json", "--given")) == {}
    given = shown(call("config", "show", "--json", "--given", "-m", "x", "--kv-cache-memory-bytes", "1MiB"))
    assert given == {"model": ("x", "flag --model"), "kv_cache_memory_bytes": (1 << 20, "flag --kv-cache-memory-bytes")}


def test_the_table(call: Any) -> None:
    result = call("config", "show", "--given", "--model", "x", "--hf-overrides", '{"a": 1}', "--no-enforce-eager")
    assert result.stdout == (
        "SETTING        VALUE     FROM\n"
        "model          x         flag --model\n"
        'hf_overrides   {"a": 1}  flag --hf-overrides\n'
        "enforce_eager  false     flag --enforce-eager\n"
    )
    assert result.stderr == ""
    assert re.search(r"^max_model_len +- +default$", call("config", "show").stdout, re.MULTILINE)


def test_secrets_are_not_shown(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFER_HF_TOKEN", "hf_secret")
    for form in ([], ["--json"]):
        result = call("config", "show", *form)
        assert "***" in result.stdout
        assert "hf_secret" not in result.output
    monkeypatch.delenv("INFER_HF_TOKEN")
    assert shown(call("config", "show", "--json"))["hf_token"] == (None, "default")


def test_variables_that_are_no_settings_are_told(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFER_MAX_NUM_SEQ", "3")
    result = call("config", "show", "--given")
    assert result.exit_code == 0
    assert "INFER_MAX_NUM_SEQ is not a setting of infer" in result.stderr
    assert "INFER_MAX_NUM_SEQ" not in result.stdout


@pytest.mark.parametrize("argv", [["--block-size", "7"], ["--config", "no-such"], ["--pipeline-parallel-size", "0"]])
def test_wrong_values_are_refused(call: Any, argv: list[str]) -> None:
    assert call("config", "show", *argv).exit_code == 2


def test_it_needs_no_torch(program: Any) -> None:
    assert b"max_num_seqs" in program("config", "show").stdout


def test_a_terminal_is_spared(program: Any, on_terminal: Any) -> None:
    code, text = on_terminal("config", "show", "--given", "--model", "\x1b]0;x\x07\x9b1m\x7f")
    assert code == 0
    assert b"\\x1b]0;x\\x07\\x9b1m\\x7f" in text
    assert b"\x1b" not in text
