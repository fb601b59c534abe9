"""README and the pages of `infer help` tell the truth about what can be checked: set-up lines, commands, files, exit statuses."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from infer.cli.commands import COMMANDS, infer
from infer.cli.jobfile.file import JobFile
from infer.cli.jobfile.sections import commands
from infer.core.spec import catalog

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
#: What README leaves to `infer help`.
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "cli" / "help").glob("*.md"))}
ALL = "\n".join([README, *PAGES.values()])


def test_it_is_short_and_names_the_rest() -> None:
    assert len(README.splitlines()) <= 300
    assert all(f"infer help {name}" in README for name in PAGES)


@pytest.mark.parametrize("name", ["run", "test"])
def test_set_up_lines_are_one_line_each(name: str) -> None:
    fence = re.search(rf"<!-- setup:{name} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert fence is not None
    assert len(fence[1].strip().splitlines()) == 1
    assert "torch==2.13.0" in fence[1]


def test_every_command_is_shown() -> None:
    for command in COMMANDS:
        assert f"infer {command}" in README


def test_architectures_named_are_those_there_are() -> None:
    """In the order of `infer models architectures`; notes in parentheses are about them."""
    paragraph = re.search(r"^Architectures, by the `model_type` of config.json: (.*?)\.$", PAGES["architectures"], re.DOTALL | re.MULTILINE)
    assert paragraph is not None
    notes = re.compile(r" \([^)]*\)")
    assert re.findall(r"`([\w-]+)`", notes.sub("", paragraph[1])) == [one.model_type for one in catalog.ours()]


def test_commands_shown_have_only_options_there_are() -> None:
    lines = [line for fence in re.findall(r"```sh\n(.*?)```", ALL, re.DOTALL) for line in fence.splitlines()]
    shown = [
        shlex.split(part, comments=True)
        for line in lines
        for part in re.split(r" && | \| ", line)
        if "infer " in part and "install" not in part
    ]
    shown = [
        words[next(i for i, w in enumerate(words) if w.endswith("infer")) + 1 :]
        for words in shown
        if any(w.endswith("infer") for w in words)
    ]
    assert len(shown) > 8
    for name, *words in shown:
        command = infer.get_command(click.Context(infer), name)
        assert command is not None, name
        known: set[str] = set()
        its = [commands()[str(JobFile.read(str(ROOT / words[0])).command)]] if name == "run" else []
        for one in [command, *its, *(command.commands.values() if isinstance(command, click.Group) else [])]:
            known |= {opt for param in one.params for opt in (*param.opts, *param.secondary_opts)}
        for word in words:
            if word.startswith("--"):
                assert word in known, f"infer {name} has no {word}"


def test_files_named_in_it_are_there() -> None:
    for name in set(re.findall(r"`((?:cli|core|kernels|configs|tests|sample_data)/[\w./]+\.\w+)`", ALL)):
        assert (ROOT / name).exists(), name


def test_exit_statuses_are_those_of_the_errors() -> None:
    from infer.core import errors

    told = {int(n) for row in re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE) for n in row.split(",")}
    ours = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.InferError)}
    assert ours <= told


#: Rows of "What went wrong": the command, and what it prints. Those that fetch a model or wait for the clock are left to the reader.
FAULTS = [
    (command.replace("\\|", "|"), printed)
    for command, printed in re.findall(r"^\| .+ \| [0-9a-f]{7} \| `(.+)` \| `(.+)` \|$", PAGES["faults"], re.MULTILINE)
    if "models get" not in command and "sleep" not in command
]


@pytest.mark.real
@pytest.mark.grid
@pytest.mark.parametrize(("command", "printed"), FAULTS)
def test_what_went_wrong_is_gone(command: str, printed: str, smollm2: Path, infer_program: list[str], tmp_path: Path) -> None:
    ours = {"S": str(ROOT / "sample_data"), "INFER_MODEL": str(smollm2), "PATH": f"{Path(infer_program[0]).parent}:{os.environ['PATH']}"}
    run = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env={**os.environ, **ours}, capture_output=True, text=True, timeout=500, check=False
    )
    assert run.stdout.strip() == printed, run.stderr


def test_tests_named_in_it_are_there() -> None:
    for row in re.findall(r"^\| .+ \| [0-9a-f]{7} \| `pytest (.+)` \| \|$", PAGES["faults"], re.MULTILINE):
        for word in row.split(" -k ")[0].split():
            assert (ROOT / word).exists(), word
