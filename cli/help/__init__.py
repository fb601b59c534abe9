"""`infer help`: a command's whole help, or a subject's page. The pages are the .md files beside this one; the first line is the title."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files

import click
from click.shell_completion import CompletionItem

from infer.core.errors import ConfigError, nearest

from ..command import Command
from ..terminal import streams


def topics() -> dict[str, str]:
    """The name and title of every page."""
    pages = sorted((page.name.removesuffix(".md"), page) for page in files(__package__).iterdir() if page.name.endswith(".md"))
    return {name: page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name, page in pages}


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from ..commands import COMMANDS

    told = {name: text for name, (_, text) in COMMANDS.items()} | topics()
    return [CompletionItem(name, help=text) for name, text in told.items() if name.startswith(incomplete)]


@click.command(cls=Command)
@click.argument("name", required=False, shell_complete=_complete)
@click.option("--man", is_flag=True, help="Write a command's manual page, or without NAME that of infer.")
def help(name: str | None, man: bool) -> None:  # the command's name
    """Tell about NAME: a command or a subject (that, where both have the name). Without one: the list of both.

    \b
    infer help generate
    infer help quantization
    infer help --man generate | man -l -
    """
    from ..commands import COMMANDS, infer

    pages = topics()
    if man:
        streams.write(_manual(name))
    elif name is None:
        width = max(map(len, (*COMMANDS, *pages)))
        rows = ["Commands:", *(f"  {one:{width}}  {text}" for one, (_, text) in COMMANDS.items())]
        rows += ["", "Subjects:", *(f"  {one:{width}}  {title}" for one, title in pages.items())]
        streams.write("\n".join(rows) + "\n")
    elif name in pages:
        streams.write((files(__package__) / f"{name}.md").read_text(encoding="utf-8"))
    elif name in COMMANDS:
        command = infer.get_command(click.get_current_context(), name)
        assert command is not None
        with click.Context(command, info_name=f"infer {name}", max_content_width=120) as ctx:
            streams.write(command.get_help(ctx) + "\n")
    else:
        hint = nearest(name, [*COMMANDS, *pages]) or _told_in(name, pages)
        raise ConfigError(f"there is neither a command nor a subject {name!r}{hint} (see infer help)")


def _told_in(word: str, pages: Iterable[str]) -> str:
    """ "; …" naming the subjects whose pages tell most of a word, or an empty string. The list of faults names everything once."""
    words = [re.escape(part) for part in re.findall(r"\w+", word)]
    if not words or len(word) < 3:
        return ""
    words[-1] = words[-1].removesuffix("s") if len(words[-1]) > 3 else words[-1]
    pattern = re.compile(r"\b" + r"[\W_]+".join(words), re.IGNORECASE)
    counts = {
        name: len(pattern.findall((files(__package__) / f"{name}.md").read_text(encoding="utf-8"))) for name in pages if name != "faults"
    }
    best = [name for name, count in sorted(counts.items(), key=lambda one: -one[1]) if count and 3 * count >= max(counts.values())][:3]
    return f"; told of in {', '.join(f'`infer help {name}`' for name in best)}" if best else ""


def _manual(name: str | None) -> str:
    """The manual page of a command; None: of `infer`. Raises ConfigError."""
    from ..commands import COMMANDS, infer
    from .man import man_page

    if name is None:
        return man_page(infer, "infer", [("Subjects of infer help", list(topics().items()))])
    if name not in COMMANDS:
        raise ConfigError(f"there is no command {name!r}{nearest(name, COMMANDS)}: manual pages are of commands")
    command = infer.get_command(click.get_current_context(), name)
    assert command is not None
    return man_page(command, f"infer {name}")
