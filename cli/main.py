"""The `infer` program: its commands, and what happens when one fails.

A command's module is imported when it is called, so that `infer --help` is instant. A new command is one file and
one row in COMMANDS; the module holds a click command under the command's name.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

import click
from click.exceptions import Exit

from infer.core.errors import InferError, nearest
from infer.core.threads import bound_spinning

from . import messages, streams

#: Name -> (module, one line for the help), in the order of the help.
COMMANDS = {
    "generate": ("infer.cli.generate", "Complete the prompts of a JSONL file."),
    "chat": ("infer.cli.chat", "Answer the conversations of a JSONL file."),
    "beam": ("infer.cli.beam", "Search for the best continuations of the prompts of a JSONL file."),
    "embed": ("infer.cli.embed", "Embed the texts of a JSONL file."),
    "score": ("infer.cli.score", "Score pairs of texts of a JSONL file."),
    "check": ("infer.cli.check", "Check a JSONL file without loading the model's weights."),
    "merge": ("infer.cli.merge", "Put the shards of one output together."),
    "bench": ("infer.cli.bench", "Measure throughput, and where the time goes."),
    "models": ("infer.cli.models", "Fetch and list the models known by a short name."),
    "config": ("infer.cli.config", "Show the engine's settings and where each came from."),
    "doctor": ("infer.cli.doctor", "Show what this machine has to run on, and compile the CPU kernels."),
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
            ctx.fail(f"No such command {args[0]!r}{nearest(args[0], COMMANDS)}")
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


def run(argv: list[str] | None = None) -> NoReturn:
    """The console entry. Never returns and never shows a traceback unless asked to."""
    state: dict[str, Any] = {}
    bound_spinning()
    try:
        streams.claim()
        code = _call(sys.argv[1:] if argv is None else argv, state)
        if sys.stdout is not None:  # None: the program was started without one
            sys.stdout.flush()
    except Exception as error:
        if isinstance(error, BrokenPipeError) and streams.reader_gone():
            _die_of_broken_pipe()
        code = _report(error, verbose=bool(state.get("verbose")))
    except KeyboardInterrupt as error:
        code = _say("interrupted", getattr(error, "exit_code", 130))
    sys.exit(code)


def _call(argv: list[str], state: dict[str, Any]) -> int:
    """What click's main() does, without its own treatment of broken pipes (exit 1) and Ctrl-C."""
    if instruction := os.environ.get("_INFER_COMPLETE"):
        from click.shell_completion import shell_complete

        return shell_complete(infer, {}, "infer", "_INFER_COMPLETE", instruction)
    try:
        with infer.make_context("infer", argv, obj=state) as ctx:
            result = infer.invoke(ctx)
    except Exit as error:
        return error.exit_code
    return result if isinstance(result, int) else 0


def _report(error: Exception, *, verbose: bool) -> int:
    """Says what went wrong, in one message on stderr, and returns the exit code."""
    if isinstance(error, click.ClickException):
        return _say(error.format_message() if messages.is_json() else _shown(error), error.exit_code)
    if isinstance(error, click.Abort):
        return _say("interrupted", 130)
    if isinstance(error, InferError):
        return _say(str(error), error.exit_code, label="Error: ")
    if verbose or os.environ.get("INFER_DEBUG", "0") not in ("", "0"):
        import traceback

        messages.say("".join(traceback.format_exception(error)).rstrip(), event="log", level="error")
    if isinstance(error, MemoryError):
        return _say("out of memory", 1, label="Error: ")
    hint = "" if verbose else " (INFER_DEBUG=1 shows where)"
    return _say(f"internal error: {type(error).__name__}: {error}{hint}", 1, label="Error: ")


def _say(text: str, exit_code: int, *, label: str = "") -> int:
    messages.say(text, event="error", level="error", label=label, exit_code=exit_code)
    return exit_code


def _shown(error: click.ClickException) -> str:
    """What click says, the usage with it."""
    text = io.StringIO()
    error.show(text)
    return text.getvalue().removesuffix("\n")


def _die_of_broken_pipe() -> NoReturn:
    """The reader of our output went away: not an error. Dies of SIGPIPE, as other programs in a pipe do; what is still
    buffered is dropped with the process."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(141)
