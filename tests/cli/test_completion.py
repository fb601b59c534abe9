"""Completion: what the shells' scripts are answered, and that bash makes of it what it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infer.cli.tools.completion import answer


@pytest.fixture
def complete(monkeypatch: Any, capsys: Any) -> Any:
    """complete("infer generate --dtype b", shell="bash"): the lines for the last word."""

    def ask(line: str, shell: str = "bash") -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv(
            "COMP_WORDS", line.replace("=", " = ") if shell == "bash" else " ".join(words[:-1] if shell == "fish" else words)
        )
        monkeypatch.setenv("COMP_CWORD", words[-1] if shell == "fish" else str(len(line.replace("=", " = ").split(" ")) - 1))
        assert answer(f"{shell}_complete") == 0
        return str(capsys.readouterr().out).splitlines()

    return ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("infer gen", ["plain,generate"]),
        ("infer generate --max-num-s", ["plain,--max-num-seqs"]),
        ("infer generate --dtype b", ["plain,bfloat16"]),
        ("infer generate --dtype=b", ["plain,bfloat16"]),
        ("infer generate --model smol", ["file,smol", "plain,smollm2-135m"]),
        ("infer generate --model=smol", ["file,smol", "plain,smollm2-135m"]),
        ("infer generate --model ./x", ["file,./x"]),
        ("infer generate --config thr", ["file,thr", "plain,throughput"]),
        ("infer embed --config throu", ["file,throu", "plain,throughput"]),
        ("infer generate --dtype fl", ["plain,float32", "plain,float16", "plain,float"]),
        ("infer models get all", ["plain,all-minilm-l6-v2"]),
        ("infer generate --json-schema p", ["file,p"]),
        ("infer generate in", ["file,in"]),
        ("infer chat --reasoning-parser gra", ["plain,granite"]),
        ("infer models get smol", ["plain,smollm2-135m"]),
        ("infer help qua", ["plain,quantization"]),
        ("infer help emb", ["plain,embed", "plain,embeddings"]),
        ("infer completion f", ["plain,fish"]),
    ],
)
def test_of_bash(complete: Any, line: str, expected: list[str]) -> None:
    assert complete(line) == expected


def test_of_fish(complete: Any) -> None:
    """The script cuts a line at its commas."""
    (model, *_) = complete("infer generate --model", shell="fish")
    assert model == "plain,--model\tAlias; folder; .gguf file or hub id."
    assert all(line.count(",") == 1 for line in complete("infer generate --", shell="fish"))


def test_of_no_shell() -> None:
    assert [answer(what) for what in ("tcsh_complete", "bash_dance", "bash")] == [1, 1, 1]


def test_bash_itself(infer_program: list[str], tmp_path: Path) -> None:
    """Names that match stay, though files may be meant too. What only readline can do is told on stderr, and is not looked at."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    script = tmp_path / "complete.bash"
    script.write_text(
        f"""PATH={Path(infer_program[0]).parent}:$PATH
eval "$(infer completion bash)"
COMP_WORDS=(infer generate --model smol); COMP_CWORD=3
_infer_completion infer
echo "${{COMPREPLY[@]}}"
"""
    )
    done = subprocess.run([bash, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["smollm2-135m"], done.stderr
