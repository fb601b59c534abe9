"""The recipes for clusters: as far as they can be read here, they say what they should."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from string import Template
from typing import Any

import click
import pytest
import yaml

import infer.configs
from infer.cli.commands import infer as program

FOLDER = Path(infer.configs.__path__[0]) / "recipes"
ENV = {"MODEL": "m", "IN": "in.jsonl", "OUT": "out", "SHARDS": "64", "SLURM_ARRAY_TASK_ID": "5", "JOB_COMPLETION_INDEX": "5"}


def parsed(script: str) -> dict[str, Any]:
    """The options of the one `infer` command in a script, as click reads them in a task of a scheduler."""
    lines = script.replace("\\\n", " ").splitlines()
    (command,) = [line for line in lines if re.match(r"\s*exec infer ", line)]
    _, _, name, *words = shlex.split(Template(command).substitute(ENV))
    found = program.get_command(click.Context(program), name)
    assert found is not None
    return found.make_context(name, words).params


def check(params: dict[str, Any]) -> None:
    assert str(params["shard"]) == "5/64"
    assert params["resume"]
    assert params["max_errors"] == 0.05
    inputs, output = params["paths"]
    assert inputs.endswith("in.jsonl")
    assert output.endswith("out/part-5.jsonl")
    assert params["stats"].endswith("out/stats-5.json")


def test_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    path = FOLDER / "slurm.sbatch"
    subprocess.run(["bash", "-n", path], check=True, timeout=20)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    text = path.read_text()
    check(parsed(text))
    settings = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert settings["array"].startswith("0-63")  # SHARDS is 64
    assert settings["signal"] == "B:TERM@60"
    assert "SHARDS:-64" in text
    last = max(i for i, line in enumerate(text.splitlines()) if line.startswith("#SBATCH"))
    assert not any(re.match(r"[^#\s]", line) for line in text.splitlines()[:last]), "sbatch reads no settings behind the first command"


def test_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    job = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "5")
    params = parsed(container["args"][0])
    check(params)
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == params["shard"].count
    assert pod["restartPolicy"] == "Never"  # as podFailurePolicy wants it
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert [volume["name"] for volume in pod["volumes"]] == list(mounts)
    assert params["paths"][0].startswith(mounts["data"])
