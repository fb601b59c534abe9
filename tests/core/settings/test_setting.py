"""One setting: its text, its type, its range; sizes; YAML files."""

# ruff: noqa: RUF009 (the defaults are fields, made by `setting`)

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import ConfigError
from infer.core.settings.setting import parse_bytes, presets, setting, settings_of
from infer.core.settings.yamlfile import MAX_BYTES, find_config, read_yaml


@dataclass
class Toy:
    flag: bool = setting(False, "", group="g")
    count: int = setting(4, "", group="g", low=1, high=8)
    room: int | None = setting(None, "", group="g", low=1, size=True)
    share: float = setting(0.5, "", group="g", low=0, high=1, open_low=True)
    kind: str = setting("auto", "", group="g", choices=("auto", "a"), later=("b",))
    name: str | None = setting(None, "", group="g")
    table: dict[str, Any] | None = setting(None, "", group="g")
    words: list[str] | None = setting(None, "", group="g", pending=True)
    even: int = setting(2, "", group="g", rule=lambda v: "must be even" if v % 2 else "")


TOY = settings_of(Toy)


def test_names() -> None:
    one = settings_of(dataclass(type("T", (), {"__annotations__": {"a_b": "int"}, "a_b": setting(1, "", group="g")})))["a_b"]
    assert (one.flag, one.env, one.kind) == ("--a-b", "INFER_A_B", "int")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *(("flag", text, True) for text in ("1", "true", "YES", "on")),
        *(("flag", text, False) for text in ("0", "False", "no", "off")),
        ("count", " 8 ", 8),
        ("room", "4GiB", 4 << 30),
        ("room", "100", 100),
        ("share", "1", 1.0),
        ("share", "1e-3", 0.001),
        ("kind", "a", "a"),
        ("name", "007", "007"),
        ("table", '{"a": {"b": 1}}', {"a": {"b": 1}}),
    ],
)
def test_text(name: str, text: str, value: Any) -> None:
    parsed = TOY[name].parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("flag", "maybe", "flag must be true or false, not 'maybe'"),
        ("count", "4.0", "count must be an integer, not '4.0'"),
        ("count", "9", "count must be at least 1 and at most 8, not 9"),
        ("room", "4 parsecs", "room: '4 parsecs' is not a size; write bytes, or a number with a unit such as 4GiB or 512MB"),
        ("room", "0", "room must be at least 1, not 0"),
        ("share", "0", "share must be above 0 and at most 1, not 0.0"),
        ("share", "nan", "share must be above 0 and at most 1, not nan"),
        ("kind", "c", "kind must be one of auto, a, not 'c'"),
        ("kind", "b", "kind=b is not supported yet; for now: auto, a"),
        ("table", "{", "table must be a mapping written as JSON, not '{'"),
        ("table", "[1]", "table must be a mapping, not list [1]"),
        ("words", '["a"]', "words=['a'] is not supported yet"),
        ("even", "3", "even must be even"),
    ],
)
def test_text_that_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TOY[name].parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("flag", 1, "flag must be true or false, not int 1"),
        ("count", True, "count must be an integer, not bool True"),
        ("count", "5", "count must be an integer, not str '5'"),
        ("share", "0.5", "share must be a number, not str '0.5'"),
        ("name", 7, "name must be a string, not int 7"),
        ("name", "x" * 99, None),
        ("table", "x" * 99, f"table must be a mapping, not str '{'x' * 56}..."),
    ],
)
def test_values_have_their_own_type(name: str, value: Any, message: str | None) -> None:
    if message is None:
        assert TOY[name].check(value) == value
        return
    with pytest.raises(ConfigError) as caught:
        TOY[name].check(value)
    assert str(caught.value) == message


def test_none_is_the_default_and_paths_are_text() -> None:
    assert TOY["count"].check(None) == 4
    assert TOY["name"].check(Path("a/b")) == str(Path("a/b"))
    assert TOY["share"].check(1) == 1.0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("4GiB", 4 << 30),
        ("1.5G", 3 << 29),
        ("512MB", 512_000_000),
        ("3 k", 3072),
        ("10b", 10),
        ("1tib", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e9", "4 GiB extra", "1..5G", "∞"])
def test_not_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_bytes(text)


class TestYaml:
    def write(self, folder: Path, text: str | bytes) -> Path:
        path = folder / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def test_plain_values(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "a: 1\nb: {c: [x]}\nd: 4GiB\n")
        assert read_yaml(path) == {"a": 1, "b": {"c": ["x"]}, "d": "4GiB"}

    def test_empty(self, tmp_path: Path) -> None:
        assert read_yaml(self.write(tmp_path, "# nothing\n")) == {}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: 1\nb: 2\na: 3\n", r"run\.yaml, line 3: 'a' is given twice"),
            ("a: {b: 1, b: 2}\n", r"run\.yaml, line 1: 'b' is given twice"),
            ("- a\n", r"run\.yaml: must hold `name: value` lines, not a list"),
            ("a: [1\n", r"run\.yaml, line 2: not YAML"),
            ("a: !!python/object/apply:os.system [x]\n", r"run\.yaml, line 1: not YAML: could not determine a constructor"),
            (b"a: \xff\n", r"run\.yaml: not YAML"),
            ("a: " + "[" * 5000, r"run\.yaml.*: not YAML"),
            ("#" * (MAX_BYTES + 1), "larger than 1024 KiB"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str | bytes, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            read_yaml(self.write(tmp_path, text))

    def test_a_file_or_a_preset(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "a: 1\n")
        assert find_config(str(path)) == path
        assert find_config("cpu").name == "cpu.yaml"
        rerankers = {"qwen3-reranker", "bge-reranker-v2-gemma"}
        assert set(presets()) == {"cpu", "gpu", "gpu-tp4", "throughput", "low-memory"} | rerankers
        with pytest.raises(
            ConfigError, match=r"no file or preset named 'cpuu'; did you mean 'cpu'\? \(presets: bge-reranker-v2-gemma, cpu, gpu, "
        ):
            find_config("cpuu")
        with pytest.raises(ConfigError, match="is a folder"):
            find_config(str(tmp_path))
