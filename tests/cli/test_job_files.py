"""A job in a file: what it may hold, who wins, and that it is the same job as one of flags."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from infer.cli.commands import infer
from infer.cli.jobfile.sections import all_keys, commands, keys_of
from infer.core.settings.args import EngineArgs

SAMPLE = Path(__file__).parents[2] / "sample_data" / "job.yaml"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def to_file(text: str, name: str = "job.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return to_file


def show(*argv: Any, env: dict[str, str] | None = None) -> dict[str, tuple[Any, str]]:
    """What `infer config show --json` says: name -> (value, source); sections but the engine's before the name."""
    ran = CliRunner().invoke(infer, ["config", "show", "--json", *map(str, argv)], env=env)
    assert ran.exit_code == 0, (ran.output, ran.exception)
    rows = json.loads(ran.stdout)
    return {("" if row["section"] == "engine" else row["section"] + ".") + row["name"]: (row["value"], row["source"]) for row in rows}


def engine_of(flags: list[str]) -> str:
    """Engine options as a mapping of YAML."""
    return "{" + ", ".join(f"{flag[2:].replace('-', '_')}: {value}" for flag, value in zip(flags[::2], flags[1::2], strict=True)) + "}"


def error(*argv: Any) -> str:
    ran: Result = CliRunner().invoke(infer, [str(a) for a in argv])
    assert ran.exit_code == 2, ran.output
    return ran.stderr


def test_every_option_of_every_command_has_one_place_and_one_name() -> None:
    """What makes options of new commands keys, too: there is no list of them."""
    for name, command in commands().items():
        if any(param.name == "config" for param in command.params):
            options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden and p.name not in ("config", "help")]
            assert len(keys_of(command)) == len(options), name
    sections = {section for section, _ in all_keys()}
    assert {"engine", "sampling", "chat", "beam", "pooling", "job"} <= sections
    settings = set(EngineArgs.settings())
    assert {key for section, key in all_keys() if section == "engine"} <= settings
    assert not {key for section, key in all_keys() if section not in ("engine", "job")} & settings  # a variable is one setting's


EVERYTHING = """
command: chat
max_num_seqs: 3
engine: {model: some-model, kv_cache_memory_bytes: 1GiB}
sampling:
  temperature: 0.5
  max_tokens: 7
  stop: ["a b", "\\n"]
  logit_bias: {5: -1.5}
  ignore_eos: true
  json_schema: {type: object}
chat: {system: Be brief, chat_template_kwargs: {enable_thinking: false}}
job:
  input: ["in.jsonl", /data/more.csv]
  output: out.csv
  limit: 10
  max_errors: 5%
  shard: 0/2
  template: prompt.jinja
  resume: true
"""


def test_all_of_it_is_shown_with_its_source(write: Any, tmp_path: Path) -> None:
    write("{{ x }}", "prompt.jinja")
    path = write(EVERYTHING)
    shown = show("--config", path)
    assert {name: value for name, (value, source) in shown.items() if source == "job.yaml"} == {
        "max_num_seqs": 3,
        "model": "some-model",
        "kv_cache_memory_bytes": 1 << 30,
        "sampling.temperature": 0.5,
        "sampling.max_tokens": 7,
        "sampling.stop": ["a b", "\n"],
        "sampling.logit_bias": [{"5": -1.5}],
        "sampling.ignore_eos": True,
        "sampling.json_schema": '{"type": "object"}',
        "chat.system": "Be brief",
        "chat.chat_template_kwargs": '{"enable_thinking": false}',
        "job.input": [str(tmp_path / "in.jsonl"), "/data/more.csv"],
        "job.output": str(tmp_path / "out.csv"),
        "job.limit": 10,
        "job.max_errors": 0.05,
        "job.shard": "0/2",
        "job.template": str(tmp_path / "prompt.jinja"),
        "job.resume": True,
    }
    assert shown["sampling.top_p"] == (1.0, "default")
    assert shown["job.overwrite"] == (False, "default")


def test_flags_win_over_the_environment_and_that_over_the_file(write: Any) -> None:
    path = write("command: generate\nsampling: {temperature: 0.1, top_p: 0.2, min_p: 0.3}\njob: {output: a}\nmax_num_seqs: 2\n")
    env = {"INFER_TOP_P": "0.4", "INFER_MIN_P": "0.5", "INFER_STOP": "a b", "INFER_BAD_WORDS": '["c d", "e"]', "INFER_MAX_NUM_SEQS": "4"}
    shown = show("--config", path, "--min-p", "0.6", "--max-num-seqs", 5, "in", "out", env=env)
    assert shown["sampling.temperature"] == (0.1, "job.yaml")
    assert shown["sampling.top_p"] == (0.4, "env INFER_TOP_P")
    assert shown["sampling.min_p"] == (0.6, "flag --min-p")
    assert shown["sampling.stop"] == (["a b"], "env INFER_STOP")
    assert shown["sampling.bad_words"] == (["c d", "e"], "env INFER_BAD_WORDS")
    assert shown["max_num_seqs"] == (5, "flag --max-num-seqs")
    assert shown["job.input"] == (["in"], "argument IN")
    assert shown["job.output"] == ("out", "argument OUT")
    assert show("--config", path, "in")["job.output"] == (str(path.parent / "a"), "job.yaml")


def test_a_file_is_built_on_another(write: Any) -> None:
    write("max_num_seqs: 7\nblock_size: 32\nsampling: {temperature: 0.1}\n", "base.yaml")
    path = write("config: base.yaml\ncommand: beam\nblock_size: 8\nbeam: {width: 3, early_stopping: false}\n")
    shown = show("--config", path)
    assert shown["max_num_seqs"] == (7, "base.yaml")
    assert shown["block_size"] == (8, "job.yaml")
    assert shown["sampling.temperature"] == (0.1, "base.yaml")
    assert shown["beam.width"] == (3, "job.yaml")
    assert shown["beam.early_stopping"] == ("false", "job.yaml")
    write("config: job.yaml\n", "base.yaml")
    assert "built on itself: job.yaml -> base.yaml -> job.yaml" in error("config", "show", "--config", path)
    assert show("--config", write("config: throughput\n"))["max_num_seqs"][1] == "throughput.yaml"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("temperature: 0", "job.yaml: temperature belongs under sampling:"),
        ("sampling: {system: x}", "system belongs under chat:, not sampling:"),
        ("sampling: {model: x}", "model belongs under engine:, not sampling:"),
        ("engine: {max_tokens: 3}", "max_tokens belongs under sampling:, not engine:"),
        ("sampling: {temprature: 0}", "unknown key 'temprature' under sampling:; did you mean 'temperature'"),
        ("job: {outptu: x}", "under job:; did you mean 'output'"),
        ("labels: [a, b]", "unknown key 'labels'; did you mean 'label'? (under classify:)"),
        ("job: {temprature: 0}", "unknown key 'temprature' under job:; did you mean 'temperature'? (under sampling: or speech:)"),
        ("sampel: {x: 1}", "unknown key 'sampel'"),
        ("max_num_seq: 1", "unknown key 'max_num_seq'; did you mean 'max_num_seqs'"),
        ("command: chatt", "command: 'chatt' is not a command; did you mean 'chat'"),
        ("sampling: 3", "sampling must hold `name: value` lines, not 3"),
        ("sampling: {temperature: hot}", "job.yaml: sampling.temperature: 'hot' is not a number"),
        ("job: {limit: -1}", "job.yaml: job.limit: -1 is not in the range x>=0"),
        ("job: {resume: 1}", "job.resume must be true or false, not 1"),
        ("job: {fsync: sometimes}", "job.fsync: 'sometimes' is not one of"),
        ("job: {input: []}", "job.input must be the name of a file, or a list of them"),
        ("engine: {block_size: 16}\nblock_size: 16", "block_size is given twice"),
        ("job: {config: cpu}", "unknown key 'config' under job:"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(write: Any, text: str, says: str) -> None:
    assert says in error("generate", "--model", "/nowhere", "--config", write(text + "\n"), "in", "out")


def test_a_file_of_one_command_under_another(write: Any) -> None:
    path = write("command: chat\nchat: {system: x}\nsampling: {n: 2}\n")
    assert "is a job of infer chat, not of infer generate; run it with: infer run" in error("generate", "--config", path, "in", "out")
    assert "does not say which command" in error("run", write("max_num_seqs: 1\n"))
    assert "says no" not in error("run", path, "--config", "cpu")
    ran = CliRunner().invoke(infer, ["generate", "--config", str(write("chat: {system: x}\n")), "nowhere", "out"])
    assert ran.exit_code == 2  # IN is not there, but the file is fine


def test_a_preset_for_several_commands_says_what_has_no_effect(call: Any, tiny: list[str], write: Any, write_lines: Any) -> None:
    path = write("chat: {system: x}\nsampling: {max_tokens: 2}\n")
    ran = call("generate", *tiny, "--config", path, write_lines({"prompt": "a"}))
    assert ran.exit_code == 0, ran.output
    assert "note: job.yaml: chat.system has no effect with infer generate (only with chat" in ran.stderr
    assert json.loads(ran.stdout)["usage"]["completion_tokens"] == 2


def test_variables_that_no_command_reads(call: Any, tiny: list[str], write_lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFER_MAX_TOKENS", "2")
    monkeypatch.setenv("INFER_SYSTEM", "of infer chat")
    monkeypatch.setenv("INFER_TEMPRATURE", "0")
    ran = call("generate", *tiny, write_lines({"prompt": "a"}))
    assert json.loads(ran.stdout)["usage"]["completion_tokens"] == 2
    assert "INFER_TEMPRATURE is not a setting of infer and has no effect; did you mean 'INFER_TEMPERATURE'" in ran.stderr
    assert "INFER_SYSTEM" not in ran.stderr
    monkeypatch.setenv("INFER_MAX_TOKENS", "many")
    assert call("generate", *tiny, write_lines({"prompt": "a"})).exit_code == 2


def test_the_same_job_by_file_and_by_flags(
    call: Any, tiny: list[str], write: Any, write_lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = write_lines({"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"})
    job = f"job: {{input: {lines.name}, output: out.jsonl}}\n"
    path = write(f"command: generate\nengine: {engine_of(tiny)}\nsampling: {{temperature: 0, max_tokens: 4}}\n{job}")
    assert lines.parent == tmp_path
    assert call("run", path, "--limit", 2).exit_code == 0
    flags = ["generate", *tiny, "--temperature", "0", "--max-tokens", "4", lines, tmp_path / "out.jsonl"]
    assert call(*flags, "--resume").exit_code == 0
    assert "finished already: 3 records" in call("run", path, "--resume").stderr
    whole = tmp_path / "whole.jsonl"
    assert call("run", path, lines, whole).exit_code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == whole.read_bytes()
    assert "exists" in call("run", path).stderr
    refused = call("run", path, "--resume", "--max-tokens", "5")
    assert "this is not the same job" in refused.stderr
    monkeypatch.chdir(tmp_path.parent)
    assert "nothing to do" in call("run", path, "--resume").stderr  # wherever it is run
    assert "3 records: 3 would be answered" in call("check", "--config", path).stdout


def test_killed_and_gone_on_with(program: Any, tiny: list[str], environment: dict[str, str], write: Any, write_lines: Any) -> None:
    lines = write_lines(*[{"prompt": f"p{i}"} for i in range(20)])
    job = f"{{input: {lines.name}, output: o.csv}}"
    path = write(f"command: generate\nengine: {engine_of(tiny)}\nsampling: {{max_tokens: 30, ignore_eos: true}}\njob: {job}\n")
    assert program("run", path, "-q", lines, path.parent / "whole.csv", env=environment).returncode == 0
    killed = program("run", path, env={**environment, "INFER_FAULT": "committed"})
    assert killed.returncode == -signal.SIGKILL
    assert program("run", path, "--resume", env=environment).returncode == 0
    assert (path.parent / "o.csv").read_bytes() == (path.parent / "whole.csv").read_bytes()


def test_the_sample_is_a_job() -> None:
    shown = show("--config", SAMPLE)
    assert shown["job.input"] == ([str(SAMPLE.parent / "chat.jsonl")], "job.yaml")
    assert Path(shown["job.input"][0][0]).exists()
    assert shown["chat.system"][1] == "job.yaml"
