"""`infer completion`: what makes a shell complete commands, options and their values."""

from __future__ import annotations

import click

from ..command import Command
from ..terminal import streams

#: Where each shell looks for it.
PLACES = {
    "bash": 'eval "$(infer completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(infer completion zsh)"  # in ~/.zshrc, after compinit',
    "fish": "infer completion fish > ~/.config/fish/completions/infer.fish",
}


@click.command(cls=Command, epilog="\b\n" + "\n".join(PLACES.values()))
@click.argument("shell", type=click.Choice(list(PLACES)))
def completion(shell: str) -> None:
    """Print the completion script for SHELL. Commands, options, models, presets and other values are then completed with the tab key."""
    from click.shell_completion import get_completion_class

    from ..commands import infer

    made = get_completion_class(shell)
    assert made is not None, "click has all of them"
    streams.write(made(infer, {}, "infer", "_INFER_COMPLETE").source() + "\n")
