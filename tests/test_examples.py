"""The examples of README and of the pages of `infer help`: each is a command that parses, and those whose models are at hand run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from infer.cli.commands import infer
from infer.cli.terminal import messages

ROOT = Path(__file__).parent.parent
PAGES = {page.stem: page.read_text() for page in [ROOT / "README.md", *sorted((ROOT / "cli" / "help").glob("*.md"))]}

#: What stands for a model or a file of the reader's own; and what measures, for minutes.
NOT_HERE = re.compile(
    r"org/name|Qwen/|cross-encoder/|\./lora-|\./my-|infer bench"
    r"|/models/|s3://|--executor ray|when all are done|node_exporter|infer report|--metrics-port|diff \S+ other"
)


def fences(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGES[page], re.DOTALL)


def lines(page: str) -> list[str]:
    """The lines of shell that begin with infer, as they are written."""
    return [line for fence in fences(page, "sh") for line in fence.splitlines() if line.startswith("infer ")]


def scheduled(page: str) -> list[str]:
    """What the shell gets of a line for cron: `\\%` is `%`, and a bare one would end the line."""
    found = []
    for fence in fences(page, "crontab"):
        for line in fence.splitlines():
            assert not re.search(r"(?<!\\)%", line), line
            found.append(re.split(r"\s+", line, maxsplit=5)[5].replace("\\%", "%"))
    return found


def commands(line: str) -> list[list[str]]:
    """The words after `infer` of each of its commands in a line of shell."""
    parts = [shlex.split(part, comments=True) for part in re.split(r" && | \| ", line)]
    return [words[1:] for words in parts if words and words[0].rpartition("/")[2] == "infer"]


SHOWN = [
    words
    for page in PAGES
    for line in [*(line for fence in fences(page, "sh") for line in fence.splitlines()), *scheduled(page)]
    for words in commands(line)
]


@pytest.mark.parametrize("words", SHOWN, ids=lambda words: " ".join(words)[:70])
def test_an_example_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command's own parser, in the clone: options, their values, and the files that these name."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(messages, "_json", False)  # which --log-format changes
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "4")
    name, *rest = words
    parent = click.Context(infer, info_name="infer", **infer.context_settings)  # commands keep what it says of -h
    command = infer.get_command(parent, name)
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        parent = click.Context(command, parent=parent, info_name=name)
        command, name, rest = command.commands[rest[0]], rest[0], rest[1:]
    assert command is not None, name
    command.make_context(name, rest, parent=parent)
    for word in rest:
        assert not word.startswith("sample_data/") or Path(word).exists(), word


def test_there_are_enough_of_them() -> None:
    assert len(SHOWN) > 30
    assert len([line for page in PAGES for line in lines(page) if not NOT_HERE.search(line)]) > 20
    assert len(scheduled("README")) == 1


@pytest.mark.real
@pytest.mark.grid
@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str, smollm2: Path, minilm: Path, infer_program: list[str], tmp_path: Path) -> None:
    """One after the other in one folder, beside the sample data. What follows a pipe is left out where there is no such program."""
    for folder in ("sample_data", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    env = {**os.environ, "PATH": f"{Path(infer_program[0]).parent}:{os.environ['PATH']}"}
    for line in lines(page):
        if NOT_HERE.search(line):
            continue
        first, _, after = line.partition(" | ")
        said = line if after and shutil.which(after.split()[0]) else first
        run = subprocess.run(["bash", "-c", said], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=550, check=False)
        assert run.returncode == 0, f"{said}\n{run.stderr}"
