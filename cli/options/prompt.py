"""The options about where a record's prompt is: --prompt-field, --template, --literal-special-tokens; and the language to write in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from infer.core.errors import ConfigError

from ..command import Option, usage
from ..terminal import streams

if TYPE_CHECKING:
    from infer.core.text.templates.template import RecordTemplate

F = TypeVar("F", bound=Callable[..., Any])

_PROMPT = "infer.prompt"


def literal_option(command: F) -> F:
    """Adds --literal-special-tokens, which `Prompts` reads."""
    return click.option(
        "--literal-special-tokens",
        cls=Option,
        group="Options",
        store=_PROMPT,
        is_flag=True,
        default=None,
        help="Read a special token in a record's text (<|im_end|>) as plain text; those of a template keep their meaning.",
    )(command)


def prompt_options(command: F) -> F:
    """Adds --prompt-field and --template, which the command gets and hands to `Prompts`, and --literal-special-tokens."""
    field = click.option("--prompt-field", metavar="NAME", help="Take the prompt from this field of the record.")
    template = click.option("--template", metavar="FILE", help="Make the prompt with this jinja2 template over the record's fields.")
    return field(template(literal_option(command)))


def language_option(command: F) -> F:
    """Adds --target-language, which `target_language` reads."""
    return click.option(
        "--target-language",
        cls=Option,
        group="Options",
        store=_PROMPT,
        metavar="NAME",
        default=None,
        help="The language to write in where a record has no target_language, by the name the model has for it (fra_Latn, fr_XX, fr).",
    )(command)


def target_language() -> str | None:
    """The running command's --target-language."""
    found: str | None = click.get_current_context().meta.get(_PROMPT, {}).get("target_language")
    return found


@dataclass(frozen=True)
class Prompts:
    """The running command's way to the prompt of a record. `text` is the template's."""

    field: str | None = None
    text: str | None = None
    template: RecordTemplate | None = None
    literal: bool = False

    @classmethod
    def of(cls, field: str | None = None, template: str | None = None) -> Prompts:
        """From the values of --prompt-field and --template. Raises click.UsageError, ConfigError."""
        if field is not None and template is not None:
            raise usage("--prompt-field and --template both say where the prompt is; give one.")
        literal = bool(click.get_current_context().meta.get(_PROMPT, {}).get("literal_special_tokens"))
        if template is None:
            return cls(field, literal=literal)
        from infer.core.text.templates.template import RecordTemplate

        text = read_text(template, "--template")
        return cls(field, text, RecordTemplate.load(text), literal)

    def options(self) -> dict[str, Any]:
        """These as fields of RecordOptions."""
        return {"prompt_field": self.field, "template": self.template, "literal_special_tokens": self.literal}

    def job(self) -> dict[str, Any]:
        """Those that can change an answer, for the fingerprint."""
        return {"prompt_field": self.field, "template": self.text, "literal_special_tokens": self.literal}


def read_text(path: str, flag: str) -> str:
    """The text of a file named by `flag`. Raises ConfigError."""
    streams.require_input(path)
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag} {path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
