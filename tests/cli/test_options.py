"""The shared options: help in sections, only given values count as given, and errors that name their flag."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from infer.cli import options, streams
from infer.cli.options import Command, IoOptions, engine_args, engine_options, given_sampling, io_options, sampling_options, sampling_params
from infer.core.args import GROUPS, EngineArgs
from infer.core.errors import ModelError
from infer.core.params import SamplingParams

seen: dict[str, Any] = {}


@click.command(cls=Command)
@io_options
@click.option("--body", default="")
@sampling_options
@engine_options
def toy(io: IoOptions, body: str) -> int | None:
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
    seen.update(args=args, origin={k: v for k, v in origin.items() if v != "default"}, params=sampling_params(), given=given_sampling())
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
                ["--tensor-parallel-size", "2"],
                {},
                "Error: Invalid value for '--tensor-parallel-size': tensor_parallel_size=2 is not supported yet",
            ),
            (["-m", "x", "--config", "cpuu"], {}, "Error: no file or preset named 'cpuu'; did you mean 'cpu'? (presets: "),
            (["-m", "x"], {"INFER_SEED": "x"}, "Error: env INFER_SEED: seed must be an integer, not 'x'"),
            (["--max-num-seq", "3"], {}, "Error: No such option '--max-num-seq'"),
            (["-m", "x", "--trust-remote-code"], {}, "Error: flag --trust-remote-code: trust_remote_code=True is not supported yet"),
        ],
    )
    def test_wrong(self, argv: list[str], env: dict[str, str], message: str) -> None:
        assert fails(*argv, env=env).replace("No such option: --max-num-seq", "No such option '--max-num-seq'").startswith(message)

    def test_a_misspelled_variable_is_told_unless_quiet(self) -> None:
        note = "note: INFER_BLOCKSIZE is not a setting of infer and has no effect; did you mean 'INFER_BLOCK_SIZE'?\n"
        assert invoke("-m", "x", env={"INFER_BLOCKSIZE": "8"}).stderr == note
        assert invoke("-m", "x", "-q", env={"INFER_BLOCKSIZE": "8"}).stderr == ""


class TestSampling:
    def test_nothing_given(self) -> None:
        invoke("-m", "x")
        assert (seen["params"], seen["given"]) == (SamplingParams(), {})

    def test_given(self) -> None:
        argv = "-m x --n 2 --temperature 0.5 --top-k 5 --max-tokens none --logprobs 3 --ignore-eos --stop a --stop b --stop-token-ids 7"
        assert invoke(*argv.split()).exit_code == 0
        expected = {
            "n": 2,
            "temperature": 0.5,
            "top_k": 5,
            "max_tokens": None,
            "logprobs": 3,
            "ignore_eos": True,
            "stop": ("a", "b"),
            "stop_token_ids": (7,),
        }
        assert seen["given"] == expected
        assert seen["params"] == SamplingParams(**expected)

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            ("--top-p 2", "Error: top_p must be above 0 and at most 1, not 2.0"),
            ("--n 2 --temperature 0", "Error: n: greedy decoding (temperature 0) gives one output, not 2"),
            ("--n two", "Error: Invalid value for '--n': 'two' is not an integer"),
            ("--min-p none", "Error: Invalid value for '--min-p': 'none' is not a number"),
        ],
    )
    def test_wrong(self, argv: str, message: str) -> None:
        assert fails("-m", "x", *argv.split()) == message

    def test_every_field_is_an_option_or_says_why_not(self) -> None:
        names = {f.name for f in dataclasses.fields(SamplingParams)}
        assert set(options.SAMPLING_HELP) | set(options.NOT_OPTIONS) == names
        assert not set(options.SAMPLING_HELP) & set(options.NOT_OPTIONS)

    def test_no_environment_for_sampling(self) -> None:
        invoke("-m", "x", env={"INFER_TEMPERATURE": "0"})
        assert seen["params"].temperature == 1.0


class TestIo:
    def test_defaults(self) -> None:
        invoke("-m", "x")
        assert seen["io"] == IoOptions("-", "-", False, None, False, 0, 30.0, 64 << 20, False, False)

    def test_given(self) -> None:
        argv = "-m x a b --overwrite --stats s.json -q -vv --progress-interval 0.5 --max-line-bytes 1KiB --report-cache --strict"
        assert invoke(*argv.split()).exit_code == 0
        assert seen["io"] == IoOptions("a", "b", True, "s.json", True, 2, 0.5, 1024, True, True)

    @pytest.mark.parametrize("argv", ["--max-line-bytes 0", "--max-line-bytes x", "--progress-interval 0", "a b c"])
    def test_wrong(self, argv: str) -> None:
        fails("-m", "x", *argv.split())

    def test_a_terminal_as_input_does_not_hang(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        with pytest.raises(click.UsageError, match="No input: give a file as IN"), toy.make_context("toy", ["-m", "x"]) as ctx:
            toy.callback(**ctx.params)  # type: ignore[misc]


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
        later = f"{GROUPS['later']} (refused unless left at their defaults)"
        rest = [title for name, title in GROUPS.items() if name != "later"]
        assert titles == ["Options", "Sampling (a record's own fields win)", *rest, later]

    def test_help_shows_every_setting_with_its_variable_and_default(self) -> None:
        text = " ".join(invoke("--help").stdout.split())
        for one in EngineArgs.settings().values():
            assert one.flag.replace("-", "") in text.replace("-", "").replace(" ", "") if one.group == "later" else one.flag in text
            if one.group != "later":
                assert f"env: {one.env}]" in text
        assert "[default: 256; env: INFER_MAX_NUM_SEQS]" in text
        assert "--enable-prefix-caching / --no-enable-prefix-caching" in text
        assert "[default: true; env: INFER_ENABLE_PREFIX_CACHING]" in text
        assert "or a preset: cpu, gpu, low-memory, throughput." in text
