"""Manual pages, made of what click knows of a command, in the macros of man(7)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import click

from ..command import Command


def man_page(command: click.Command, path: str, more: Iterable[tuple[str, list[tuple[str, str]]]] = ()) -> str:
    """The page of a command in section 1, as roff.

    Args:
        path: its words, such as "infer generate".
        more: sections after the options: (title, rows of a term and what it means).
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("infer-jsonl")
    except PackageNotFoundError:
        number = ""
    title = path.replace(" ", "-")
    first, *paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    with click.Context(command, info_name=path, max_content_width=120) as ctx:
        usage = " ".join(command.collect_usage_pieces(ctx))
        lines = [f'.TH "{_text(title.upper())}" "1" "" "infer {_text(number)}" "User Commands"']
        lines += [".SH NAME", f"{_text(title)} \\- {_text(_sentence(first))}"]
        lines += [".SH SYNOPSIS", f".B {_text(path)}", _line(usage)]
        lines += [".SH DESCRIPTION", *_paragraphs([first, *paragraphs])]
        if isinstance(command, click.Group):
            lines += _commands(command, path, ctx)
        sections = command.sections(ctx) if isinstance(command, Command) else _options(command, ctx)
        for name, records in (*sections.items(), *more):
            lines += _section(name, records)
        if command.epilog:
            lines += [".SH NOTES", *_paragraphs(inspect.cleandoc(command.epilog).split("\n\n"))]
    if path != "infer":
        lines += [".SH SEE ALSO", r"\fBinfer\fR(1), \fBinfer help\fR"]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, path: str, ctx: click.Context) -> list[str]:
    """The commands of a group, and unless it is `infer`, whose commands have pages of their own, what they take."""
    found = {name: one for name in group.list_commands(ctx) if (one := group.get_command(ctx, name)) is not None}
    lines = _section("Commands", [(name, one.get_short_help_str(200)) for name, one in found.items()])
    for name, one in found.items() if path != "infer" else ():
        with click.Context(one, info_name=f"{path} {name}", max_content_width=120) as inner:
            usage = f"{path} {name} {' '.join(one.collect_usage_pieces(inner))}"
            records = [record for section in _options(one, inner).values() for record in section]
        lines += [f'.SH "{_text(usage)}"', *_paragraphs(inspect.cleandoc(one.help or "").split("\n\n"))]
        lines += [line for term, text in records for line in (".TP", f"\\fB{_text(term)}\\fR", _line(text))]
    return lines


def _options(command: click.Command, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    records = [record for param in command.get_params(ctx) if (record := param.get_help_record(ctx)) is not None]
    return {"Options": records} if records else {}


def _section(title: str, records: Iterable[tuple[str, str]]) -> list[str]:
    lines = [f'.SH "{_text(title.upper())}"']
    for term, text in records:
        lines += [".TP", f"\\fB{_text(term)}\\fR", _line(text)]
    return lines


def _paragraphs(paragraphs: Iterable[str]) -> list[str]:
    """Paragraphs of help; one that begins with \\b, as click has it, keeps its lines."""
    lines: list[str] = []
    for paragraph in paragraphs:
        lines.append(".PP")
        if paragraph.startswith("\b"):
            lines += [".nf", *(_line(line) for line in paragraph.split("\n")[1:]), ".fi"]
        else:
            lines.append(_line(" ".join(paragraph.split())))
    return lines


def _sentence(text: str) -> str:
    """The first sentence, as the line of a NAME section: what apropos shows."""
    first = " ".join(text.split()).partition(". ")[0].partition(";")[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _text(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")


def _line(text: str) -> str:
    """A line that is no request, whatever it begins with."""
    line = _text(" ".join(text.split()) if "\n" in text else text)
    return f"\\&{line}" if line.startswith((".", "'")) else line
