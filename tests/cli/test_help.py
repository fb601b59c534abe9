"""Help: -h on one screen, --help whole, subjects, completion, and what is said in place of an option that there is none of."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from infer.cli import hints
from infer.cli.commands import COMMANDS, infer
from infer.cli.help import topics
from infer.core.errors import nearest


def run(*args: str, **env: str) -> Result:
    return CliRunner().invoke(infer, list(args), env=env)


@pytest.mark.parametrize("command", [*COMMANDS, "models get", "models quantize", "config show"])
def test_the_short_help_fits_on_a_screen(command: str) -> None:
    result = run(*command.split(), "-h")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Usage: ")
    assert len(result.stdout.splitlines()) <= 40


def test_the_short_help_has_examples_and_says_where_the_rest_is() -> None:
    said = run("generate", "-h").stdout
    assert "infer generate --model smollm2-135m" in said
    assert "--top-k" not in said
    assert "generate --help" in said


def test_the_whole_help_has_all_options_that_are_not_refused() -> None:
    said = run("generate", "--help").stdout
    assert "--top-k" in said
    assert "--disable-sliding-window" not in said
    assert "--num-scheduler-steps" not in said
    assert run("help", "generate").stdout == said


def test_subjects() -> None:
    said = run("help").stdout
    for name, title in topics().items():
        assert f"{name} " in said
        assert title in said
        assert run("help", name).stdout.startswith(f"# {title}\n")
    result = run("help", "exit-code")
    assert result.exit_code == 2
    assert "'exit-code'; did you mean 'exit-codes'" in result.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--output", "the second argument: infer generate IN OUT"),
        ("--input-file", "--input FILE"),
        ("--batch-size", "use --max-num-seqs"),
        ("--max-new-tokens", "use --max-tokens"),
        ("--max_new_tokens", "use --max-tokens"),
        ("--model-path", "use --model"),
        ("--num-beams", "infer beam has --width"),
        ("--do-sample", "--temperature"),
        ("--torch-dtype", "use --dtype"),
        ("--tp", "use --tensor-parallel-size"),
        ("--port", "no server"),
        ("--enable-sleep-mode", "LLM.sleep"),
        ("--quantize", "use --quantization"),
        ("--prompt", "the lines of IN"),
        ("--system", "; infer chat"),
        ("--dimensions", " infer embed and infer score have it"),
        ("--temp", "did you mean '--temperature' or '--template'?"),
        ("--max-token", "did you mean '--max-tokens'?"),
        ("--temprature", "did you mean '--temperature'?"),
        ("--gpu-memory", "did you mean '--gpu-memory-utilization'?"),
    ],
)
def test_names_of_other_programs_and_slips(given: str, said: str) -> None:
    result = run("generate", given, "1")
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("classify", "--labels", "; did you mean '--label'?\n"),
        ("classify", "--choice", "; use --label\n"),
        ("generate", "--labels", "; use --choice\n"),
        ("generate", "--label", "; use --choice\n"),
        ("embed", "--labels", "; infer classify has --label\n"),
        ("embed", "--output-dtype", "; use --embedding-dtype\n"),
        ("embed", "--choice", "infer beam have it\n"),
    ],
)
def test_a_name_means_what_the_command_has(command: str, given: str, said: str) -> None:
    assert run(command, given, "1").stderr.endswith(said)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lora", "; told of in `infer help adapters` (see"),
        ("cron", "; told of in `infer help exit-codes` (see"),
        ("structured-outputs", "; told of in `infer help sampling` (see"),
        ("pydantic", "; told of in `infer help sampling` (see"),
        ("zzz", "'zzz' (see"),
        ("--", "'--' (see"),
    ],
)
def test_a_word_that_is_no_subject_leads_to_those_that_tell_of_it(word: str, said: str) -> None:
    result = run("help", "--", word)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("given", ["--top-n", "--frequency", "--blocks", "--zzz", "--int9"])
def test_another_word_is_no_slip(given: str) -> None:
    result = run("embed", given, "1")
    assert result.exit_code == 2
    assert "did you mean" not in result.stderr


def test_what_hints_name_is_there() -> None:
    options = {name for command in COMMANDS for name in hints.options_of(click.Context(infer), command)}
    named = {word for hint in hints._ELSEWHERE for word in re.findall(r"--[a-z][a-z-]+", hint)}
    assert len(named) > 20
    assert named <= options
    for command in hints._COMMANDS:
        assert run(*command.split()[1:], "--help").exit_code == 0, command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rerank"], "use `infer score`"),
        (["embeddings"], "use `infer embed`"),
        (["completions"], "use `infer generate`"),  # not `infer completion`
        (["serve"], "there is no server"),
        (["ls"], "use `infer models list`"),
        (["embedd"], "did you mean 'embed'?"),
        (["models", "pull", "x"], "use `infer models get`"),
        (["models", "gte"], "did you mean 'get'?"),
        (["generate", "--dtype", "bf16"], "not 'bf16'; use bfloat16"),
        (["generate", "--dtype", "flaot32"], "did you mean 'float32'?"),
        (["generate", "--quantization", "8bit"], "; use int8"),
        (["generate", "--input-format", "ndjson"], "; use jsonl"),
        (["embed", "--pooling", "average"], "; use mean"),
        (["embed", "--max-new-tokens", "3"], "have --max-tokens"),
        (["generate", "some-model", "pyproject.toml", "out"], "the model is an option: --model some-model"),
        (["generate", "-m", "x", "pyproject.toml", "README.md", "out"], "--input FILE for each"),
        (["check", "-m", "x", "README.md", "out"], "writes to stdout"),
    ],
)
def test_slips_in_other_places(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_what_begins_many_names_is_none_of_them() -> None:
    assert "did you mean" not in run("generate", "--enable").stderr
    assert "did you mean" not in run("generate", "--max").stderr


def test_underscores_are_hyphens(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    result = run("generate", "--max_tokens=3", "--max_num_seqs", "2", "-m", "x", missing, "-")
    assert "No such option" not in result.stderr
    assert "missing" in result.stderr
    assert "__such" in run("generate", "-m", "x", "--", "__such").stderr  # a name is not an option


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("max_num_seq", ["max_num_seqs", "max_num_batched_tokens"], "max_num_seqs"),
        ("BLOCKSIZE", ["block_size"], "block_size"),
        ("smollm", ["all-minilm-l6-v2", "smollm2-135m"], "smollm2-135m"),
        ("tempreature", ["temperature"], "temperature"),
        ("hermes2", ["hermes"], None),
        ("int3", ["int4", "int8"], None),
        ("top_n", ["top_k", "top_p"], None),
        ("output", ["input"], None),
        ("batch-size", ["block-size"], None),
        ("/v1/responses", ["/v1/rerank", "/v1/score"], None),
        ("enable_sleep_mode", ["enable_lora"], None),
        ("", ["x"], None),
        ("é", ["è"], None),
    ],
)
def test_a_slip_and_another_name(name: str, known: list[str], meant: str | None) -> None:
    assert nearest(name, known) == (f"; did you mean {meant!r}?" if meant else "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_INFER_COMPLETE" in result.stdout


@pytest.mark.parametrize("option", ["--stats", "--errors"])
def test_an_option_is_no_file_of_another(option: str) -> None:
    result = run("generate", "-m", "x", option, "--limit", "3", "in.jsonl", "-")
    assert result.exit_code == 2
    assert f"Option '{option}' requires a file's name, and '--limit' is an option" in result.stderr
