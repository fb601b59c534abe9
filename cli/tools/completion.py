"""`infer completion`: what makes a shell complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from ..command import Command
from ..terminal import streams

_VARIABLE = "_INFER_COMPLETE"


class _Bash(BashComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one to complete, and that one; bash has `--dtype=b` as three words."""
        words, incomplete = super().get_completion_args()
        return [word for word in words if word != "="], incomplete.removeprefix("=")


class _Fish(FishComplete):
    def format_completion(self, item: CompletionItem) -> str:
        """One line; the script cuts it at commas."""
        text = f"\t{item.help.replace(',', ';')}" if item.help else ""
        return f"{item.type},{item.value}{text}"


SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": ZshComplete, "fish": _Fish}
#: Where each shell looks for it.
PLACES = {
    "bash": 'eval "$(infer completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(infer completion zsh)"  # in ~/.zshrc, after compinit',
    "fish": "infer completion fish > ~/.config/fish/completions/infer.fish",
}


@click.command(cls=Command, epilog="\b\n" + "\n".join(PLACES.values()))
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the completion script for SHELL. Commands, options, models, presets and other values are then completed with the tab key."""
    streams.write(_for(shell).source() + "\n")


def answer(instruction: str) -> int:
    """Writes the completions that such a script asks for (`bash_complete`) to stdout; returns the exit code."""
    shell, _, kind = instruction.partition("_")
    if shell not in SHELLS or kind not in ("source", "complete"):
        return 1
    click.echo(_for(shell).source() if kind == "source" else _for(shell).complete())
    return 0


def _for(shell: str) -> ShellComplete:
    from ..commands import infer

    return SHELLS[shell](infer, {}, "infer", _VARIABLE)
