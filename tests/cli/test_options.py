"""The shared options: help in sections, only given values count as given, and errors that name their flag."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from infer.cli.options import Command, JobOptions, engine_args, engine_options, io_options, sampling_options
from infer.cli.options.sampling import SAMPLING_HELP, STRUCTURED_GROUP
from infer.cli.terminal import streams
from infer.core.errors import ModelError
from infer.core.jobs.input.selection import Selection, Shard
from infer.core.settings.args import GROUPS, EngineArgs

seen: dict[str, Any] = {}


@click.command(cls=Command)
@io_options
@click.option("--body", default="")
@sampling_options
@engine_options
def toy(io: JobOptions, body: str) -> int | None:
    """A command like the real ones."""
    seen.update(io=io)
    if body == "fails":
        raise ModelError("no \x1b[31mmodel")
    if body == "some records failed":
        return 3
    if body == "prints":
        print("noise")
        streams.stdout().write(b"data\n")
    args, origin = engine_args()
    seen.update(args=args, origin={k: v for k, v in origin.items() if v != "default"})
    return None


def invoke(*argv: str, env: dict[str, str] | None = None) -> Result:
    seen.clear()
    clean = {one.env: None for one in EngineArgs.settings().values()}
    return CliRunner().invoke(toy, list(argv), env={**clean, "INFER_CONFIG": None, **(env or {})}, input="")


def fails(*argv: str, env: dict[str, str] | None = None) -> str:
    """The last line of the message of a run that is wrong usage."""
    result = invoke(*argv, env=env)
    assert result.exit_code == 2
    assert result.stdout == ""
    return result.stderr.strip().splitlines()[-1]


class TestEngine:
    def test_nothing_given(self) -> None:
        assert invoke("-m", "x").exit_code == 0
        assert seen["args"] == EngineArgs(model="x")
        assert seen["origin"] == {"model": "flag --model"}

    def test_given_values_and_their_sources(self, tmp_path: Path) -> None:
        config = tmp_path / "mine.yaml"
        config.write_text("seed: 7\nmax_num_seqs: 3\nblock_size: 8\n")
        env = {"INFER_MAX_NUM_SEQS": "4", "INFER_BLOCK_SIZE": "32", "INFER_MODEL": "m"}
        argv = ["--config", str(config), "--block-size", "64", "--no-enable-prefix-caching", "--kv-cache-memory-bytes", "2GiB"]
        result = invoke(*argv, "--hf-overrides", '{"a": 1}', env=env)
        assert result.exit_code == 0, result.output
        args = seen["args"]
        assert (args.model, args.seed, args.max_num_seqs, args.block_size) == ("m", 7, 4, 64)
        assert (args.enable_prefix_caching, args.kv_cache_memory_bytes, args.hf_overrides) == (False, 2 << 30, {"a": 1})
        assert seen["origin"] == {
            "model": "env INFER_MODEL",
            "seed": "mine.yaml",
            "max_num_seqs": "env INFER_MAX_NUM_SEQS",
            "block_size": "flag --block-size",
            "enable_prefix_caching": "flag --enable-prefix-caching",
            "kv_cache_memory_bytes": "flag --kv-cache-memory-bytes",
            "hf_overrides": "flag --hf-overrides",
        }

    def test_a_value_equal_to_the_default_is_still_given(self) -> None:
        invoke("-m", "x", "--max-num-seqs", "256", "--enable-prefix-caching")
        assert {"max_num_seqs", "enable_prefix_caching"} <= set(seen["origin"])

    def test_config_from_the_environment(self) -> None:
        assert invoke("-m", "x", env={"INFER_CONFIG": "low-memory"}).exit_code == 0
        assert seen["origin"]["max_num_seqs"] == "low-memory.yaml"

    @pytest.mark.parametrize(
        ("argv", "env", "message"),
        [
            ([], {}, "Error: Missing option '--model' / '-m': an alias ('infer models list'), a folder, a .gguf file or a hub id."),
            (
                ["--max-num-seqs", "0"],
                {},
                "Error: Invalid value for '--max-num-seqs': max_num_seqs must be at least 1, not 0",
            ),
            (
                ["--pipeline-parallel-size", "0"],
                {},
                "Error: Invalid value for '--pipeline-parallel-size': pipeline_parallel_size must be at least 1, not 0",
            ),
            (["-m", "x", "--config", "cpuu"], {}, "Error: no file or preset named 'cpuu'; did you mean 'cpu'? (presets: "),
            (["-m", "x"], {"INFER_SEED": "x"}, "Error: env INFER_SEED: seed must be an integer, not 'x'"),
            (["--max-num-seq", "3"], {}, "Error: No such option '--max-num-seq'"),
            (
                ["-m", "x", "--disable-sliding-window"],
                {},
                "Error: flag --disable-sliding-window: disable_sliding_window=True is not supported yet",
            ),
            (
                ["-m", "x", "--structured-outputs-config", '{"backend": "outlines"}'],
                {},
                "Error: Invalid value for '--structured-outputs-config': "
                "structured_outputs_config backend=outlines is not supported yet; for now: auto, guidance, xgrammar",
            ),
        ],
    )
    def test_wrong(self, argv: list[str], env: dict[str, str], message: str) -> None:
        assert fails(*argv, env=env).replace("No such option: --max-num-seq", "No such option '--max-num-seq'").startswith(message)

    def test_a_misspelled_variable_is_told_unless_quiet(self) -> None:
        note = "note: INFER_BLOCKSIZE is not a setting of infer and has no effect; did you mean 'INFER_BLOCK_SIZE'?\n"
        assert invoke("-m", "x", env={"INFER_BLOCKSIZE": "8"}).stderr == note
        assert invoke("-m", "x", "-q", env={"INFER_BLOCKSIZE": "8"}).stderr == ""


def io_of(*argv: str) -> JobOptions:
    result = invoke("-m", "x", *argv)
    assert result.exit_code == 0, result.output
    io = seen["io"]
    assert isinstance(io, JobOptions)
    return io


class TestIo:
    def test_defaults(self) -> None:
        assert io_of() == JobOptions(("-",), "-", False, None, False, 0, 30.0, 64 << 20, False, False)
        assert io_of().selection == Selection()

    def test_given(self) -> None:
        argv = "a b --overwrite --stats s.json -q -vv --progress-interval 0.5 --max-line-bytes 1KiB --report-cache --strict"
        io = io_of(*argv.split())
        assert io == JobOptions(("a",), "b", True, "s.json", True, 2, 0.5, 1024, True, True)

    @pytest.mark.parametrize(
        ("argv", "expected"),
        [
            ("--limit 5", {"limit": 5}),
            ("--limit 0", {"limit": 0}),
            ("--offset 7", {"offset": 7}),
            ("--shard 2/3", {"shard": Shard(2, 3)}),
            ("--compression zstd", {"compression": "zstd"}),
            ("--resume", {"resume": True}),
            ("--resume-force", {"resume": True, "resume_force": True}),
            ("--verify", {"verify": True}),
            ("--fsync always", {"fsync": "always"}),
            ("--errors e.jsonl", {"errors": "e.jsonl"}),
            ("--max-errors 0", {"max_errors": 0}),
            ("--max-errors 10", {"max_errors": 10}),
            ("--max-errors 5%", {"max_errors": 0.05}),
            ("--max-errors 0.1%", {"max_errors": 0.001}),
            ("--max-errors 100%", {"max_errors": 1.0}),
            ("--max-errors 0%", {"max_errors": 0.0}),
            ("--error-format flat", {"error_format": "flat"}),
            ("--retry-errors", {"retry_errors": True}),
            ("--redo finish_reason=length", {"redo": "length"}),
            ("--redo finish_reason=stop --retry-errors", {"redo": "stop", "retry_errors": True}),
            ("--dry-run", {"dry_run": True}),
        ],
    )
    def test_one_by_one(self, argv: str, expected: dict[str, Any]) -> None:
        io = io_of("a", "b", *argv.split())
        assert io == dataclasses.replace(io_of("a", "b"), **expected)
        for name, value in expected.items():
            assert type(getattr(io, name)) is type(value)  # 0 errors and 0% of them are not the same

    def test_selection(self) -> None:
        assert io_of("--limit", "5", "--offset", "7", "--shard", "2/3").selection == Selection(7, 5, Shard(2, 3))

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            ("--max-line-bytes 0", "Invalid value for '--max-line-bytes': must be at least 1 byte"),
            ("--max-line-bytes x", "Invalid value for '--max-line-bytes': "),
            ("--progress-interval 0", "Invalid value for '--progress-interval': "),
            ("a b c", "Got unexpected extra argument (c)"),
            ("a b c d", "Got unexpected extra arguments (c d)"),
            ("--limit -1", "Invalid value for '--limit': "),
            ("--offset x", "Invalid value for '--offset': "),
            ("--shard 3/3", "Invalid value for '--shard': '3/3': parts are counted from 0, so the last of 3 is 2"),
            ("--shard 3", "Invalid value for '--shard': '3' is not I/N, such as 0/4: part 0 of 4"),
            ("--compression bzip2", "Invalid value for '--compression': 'bzip2' is not one of 'auto', 'none', 'gzip', 'zstd'."),
            ("--fsync no", "Invalid value for '--fsync': "),
            ("--max-errors x", "Invalid value for '--max-errors': 'x' is neither a number of records, such as 10, nor a share of them"),
            ("--max-errors -1", "Invalid value for '--max-errors': '-1' is neither"),
            ("--max-errors 0.5", "Invalid value for '--max-errors': '0.5' is neither"),
            ("--max-errors 101%", "Invalid value for '--max-errors': '101%' is neither"),
            ("--max-errors nan%", "Invalid value for '--max-errors': 'nan%' is neither"),
            ("--max-errors %", "Invalid value for '--max-errors': '%' is neither"),
            (
                "--redo length",
                "Invalid value for '--redo': 'length' is not finish_reason=length or finish_reason=repetition or finish_reason=stop",
            ),
            ("--redo finish_reason=x", "Invalid value for '--redo': 'finish_reason=x' is not finish_reason=length"),
            ("--log-format xml", "Invalid value for '--log-format': "),
            ("a b --resume --overwrite", "--resume and --overwrite contradict each other; give one."),
            ("a b --resume-force --overwrite", "--resume-force and --overwrite contradict each other; give one."),
            ("a b --retry-errors --overwrite", "--retry-errors and --overwrite contradict each other; give one."),
            ("a b --redo finish_reason=stop --overwrite", "--redo and --overwrite contradict each other; give one."),
            ("a b --stats -", "--stats - (stdout): it needs a file, since stdout holds answers; ./- is a file of that name."),
            ("a b --errors -", "--errors - (stdout): it needs a file"),
            ("a --resume", "--resume with OUT - (stdout): cannot resume what is not a file."),
            ("a - --resume-force", "--resume-force with OUT - (stdout): cannot resume what is not a file."),
            ("a --retry-errors", "--retry-errors with OUT - (stdout): cannot resume what is not a file."),
            ("a --redo finish_reason=length", "--redo with OUT - (stdout): cannot resume what is not a file."),
        ],
    )
    def test_wrong(self, argv: str, message: str) -> None:
        assert fails("-m", "x", *argv.split()).startswith(f"Error: {message}")

    def test_a_terminal_as_input_does_not_hang(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        with pytest.raises(click.UsageError, match="No input: give a file as IN"), toy.make_context("toy", ["-m", "x"]) as ctx:
            toy.callback(**ctx.params)  # type: ignore[misc]


class TestInputs:
    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("part-2.jsonl", "part-10.jsonl", "part-1.jsonl", "a[1].jsonl", "a1.jsonl"):
            Path(name).touch()
        Path("deep/er").mkdir(parents=True)
        Path("deep/er/part-3.jsonl").touch()
        Path("part-dir.jsonl").mkdir()

    @pytest.mark.parametrize(
        ("argv", "inputs", "output"),
        [
            (["a"], ["a"], "-"),
            (["a", "b"], ["a"], "b"),
            (["-", "b"], ["-"], "b"),
            (["--input", "a"], ["a"], "-"),
            (["--input", "b", "--input", "a", "out"], ["b", "a"], "out"),
            (["out", "--input", "a", "--input", "-"], ["a", "-"], "out"),
            (["--input", "part-*.jsonl", "out"], ["part-1.jsonl", "part-10.jsonl", "part-2.jsonl"], "out"),
            (["--input", "x", "--input", "part-?.jsonl", "out"], ["x", "part-1.jsonl", "part-2.jsonl"], "out"),
            (["--input", "**/part-3.jsonl"], ["deep/er/part-3.jsonl"], "-"),
            (["--input", "a[1].jsonl"], ["a[1].jsonl"], "-"),  # there is a file of that name
            (["--input", "a[0-9].jsonl"], ["a1.jsonl"], "-"),
            (["part-*.jsonl", "out"], ["part-*.jsonl"], "out"),  # as an argument it is a name: shells expand patterns there
        ],
    )
    def test_paths(self, argv: list[str], inputs: list[str], output: str) -> None:
        io = io_of(*argv)
        assert (io.inputs, io.output) == (tuple(inputs), output)

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--input", "none-*"], "--input 'none-*': no file matches."),
            (["--input", "-", "--input", "-"], "--input - (stdin) can be read only once."),
            (
                ["--input", "part-1.jsonl", "part-2.jsonl", "out"],  # what a shell makes of an unquoted pattern
                "Got unexpected extra argument (out); with --input the only argument is OUT (quote a glob pattern: --input 'part-*.jsonl')",
            ),
        ],
    )
    def test_wrong(self, argv: list[str], message: str) -> None:
        assert fails("-m", "x", *argv) == f"Error: {message}"


class TestCommand:
    def test_exit_codes_and_one_message(self) -> None:
        assert invoke("-m", "x", "--body", "some records failed").exit_code == 3
        result = invoke("-m", "x", "--body", "fails")
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: no \\x1b[31mmodel\n")

    def test_only_data_reaches_stdout(self) -> None:
        result = invoke("-m", "x", "--body", "prints")
        assert (result.stdout, result.stderr) == ("data\n", "noise\n")

    def test_help_has_a_section_for_each_group(self) -> None:
        text = invoke("--help").stdout
        titles = re.findall(r"^(\S.*):$", text, re.MULTILINE)
        rest = [title for name, title in GROUPS.items() if name != "later"]
        assert titles == ["Options", *SAMPLING_HELP, STRUCTURED_GROUP, *rest]

    def test_help_shows_every_setting_with_its_variable_and_default(self) -> None:
        text = " ".join(invoke("--help").stdout.split())
        for one in EngineArgs.settings().values():
            assert (one.flag in text.split()) == (one.group != "later")
            if one.group != "later":
                assert f"env: {one.env}]" in text
        assert "[default: 256; env: INFER_MAX_NUM_SEQS]" in text
        assert "--enable-prefix-caching / --no-enable-prefix-caching" in text
        assert "[default: true; env: INFER_ENABLE_PREFIX_CACHING]" in text
        presets = "or a preset: bge-reranker-v2-gemma, cpu, gpu, gpu-tp4, low-memory, qwen3-reranker, throughput."
        assert presets.replace(" ", "") in text.replace(" ", "")  # lines are cut behind hyphens too
