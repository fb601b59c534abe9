"""The commands of the `infer` program, found by name.

A command's module is imported when it is called, so that `infer --help` is instant. A new command is one file and
one row in COMMANDS; the module holds a click command under the command's name.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from .hints import instead_of_command
from .terminal import messages

#: Name -> (module, one line for the help), in the order of the help.
COMMANDS = {
    "generate": ("infer.cli.generate", "Complete the prompts of a JSONL file."),
    "chat": ("infer.cli.chat", "Answer the conversations of a JSONL file."),
    "batch": ("infer.cli.batch", "Answer the lines of an OpenAI Batch file."),
    "beam": ("infer.cli.beam", "Search for the best continuations of the prompts of a JSONL file."),
    "embed": ("infer.cli.embed", "Embed the texts of a JSONL file."),
    "score": ("infer.cli.score", "Score pairs of texts of a JSONL file."),
    "classify": ("infer.cli.classify", "Label the texts of a JSONL file, with a classifier or a language model."),
    "transcribe": ("infer.cli.transcribe", "Write down what is said in the sounds of a JSONL file."),
    "run": ("infer.cli.jobfile.run", "Run the job that a YAML file describes."),
    "check": ("infer.cli.check", "Check a JSONL file without loading the model's weights."),
    "merge": ("infer.cli.tools.merge", "Put the shards of one output together."),
    "diff": ("infer.cli.tools.diff", "Compare two outputs of the same input."),
    "report": ("infer.cli.tools.report", "Draw a finished output as one HTML page."),
    "bench": ("infer.cli.bench", "Measure throughput, and where the time goes."),
    "models": ("infer.cli.models", "Fetch, list, remove and quantize models."),
    "config": ("infer.cli.config", "Show the engine's settings and where each came from."),
    "help": ("infer.cli.help", "Tell about a command or a subject."),
    "completion": ("infer.cli.tools.completion", "Make bash, zsh or fish complete commands and options."),
    "doctor": ("infer.cli.tools.doctor", "Show what this machine has to run on, and compile the CPU kernels."),
}

#: Told by --version, besides our own.
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "triton", "numpy")


class LazyGroup(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(f"No such command {args[0]!r}{instead_of_command(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    click.echo("\n".join(f"{name} {number}" for name, number in library_versions().items()))
    ctx.exit()


def library_versions() -> dict[str, str]:
    """Of `infer`, Python and the libraries answers depend on; imports none of them."""
    from importlib.metadata import PackageNotFoundError, version

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    return {"infer": of("infer-jsonl"), "python": sys.version.split()[0], **{name: of(name) for name in LIBRARIES}}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show versions and exit.")
def infer() -> None:
    """Run a language model over a JSONL file; answers are JSONL lines in input order.

    \b
    infer models get smollm2-135m
    infer generate --model smollm2-135m in.jsonl out.jsonl

    Exit status: 0 all records answered, 1 the run failed, 2 wrong usage, 3 some records failed (each has an error
    line in its place).
    """
    messages.use_json(False)  # until a command line says so
