"""Hints for options and commands that do not exist: our word for another program's, who has it, or the nearest of ours."""

from __future__ import annotations

from collections.abc import Collection

import click

from infer.core.errors import nearest

#: Names that vLLM's, transformers', llama.cpp's and OpenAI's programs have for something of ours by what to say.
_ELSEWHERE = {
    "a file to write is the second argument: infer {command} IN OUT": "output output-file out output-path o output-dir out-dir out-file",
    "a file to read is the first argument (or --input FILE, for several): infer {command} IN OUT": "input-file in file i f data",
    "use --model": "model-path model-name-or-path model-name pretrained model-id hf-model ckpt",
    "use --max-tokens": "max-new-tokens max-output-tokens max-completion-tokens n-predict num-predict max-gen-toks",
    "use --max-num-seqs; batches are made by themselves, so it is seldom needed": "batch-size bs max-batch-size per-device-batch-size",
    "use --max-model-len": "max-length ctx-size context-length max-seq-len max-seq-length num-ctx n-ctx",
    "use --tensor-parallel-size": "tp tp-size num-gpus gpus tensor-parallel ngpus n-gpu n-gpus",
    "use --data-parallel-size": "dp dp-size num-workers workers",
    "use --dtype": "torch-dtype precision compute-type dt",
    "records are the lines of IN; one question in a terminal: infer chat -m MODEL 'question'": "prompt p query question message ask",
    "use --quantization": "quantize quantise quant q bits load-in-low-bit",
    "use --quantization int8": "load-in-8bit int8",
    "use --quantization int4": "load-in-4bit int4",
    "use --device": "device-map",
    "use --errors": "error-file errors-file error-output failed failures",
    "use --stats": "stats-file metrics summary",
    "use --output-format": "format out-format output-type",
    "use --embedding-dtype": "output-dtype",
    "use --device cpu": "cpu no-cuda use-cpu",
    "use --temperature 0": "greedy no-do-sample no-sample",
    "outputs are drawn unless --temperature is 0": "do-sample sample",
    "use --width": "num-beams beam-size beam-width",
    "use `infer beam --width`": "use-beam-search",
    "use --n": "num-return-sequences num-samples num-outputs num-completions",
    "use --stop": "stop-sequences stop-strings stop-words stopwords stop-sequence stop-string until reverse-prompt",
    "use --label": "labels label-names candidate-label candidate-labels class classes categories choice choices",
    "use --choice": "label labels guided-choice choices",
    "each answer holds its label, the probability of each label and label_mass": "confidence proba probs probabilities",
    "use --regex": "guided-regex pattern",
    "use --json-schema": "guided-json schema json response-format",
    "use --grammar": "guided-grammar grammar-file",
    "use --system": "system-prompt sys",
    "use --template": "prompt-template",
    "use --prompt-field": "prompt-column text-column input-column field column text-field prompt-key",
    "use --limit": "max-samples num-prompts num-examples max-records head num-records",
    "use --offset": "skip start start-index",
    "use --shard I/N": "num-shards shard-id rank world-size",
    "use --resume": "continue restart append skip-existing",
    "use --overwrite": "force yes y",
    "use --threads": "num-threads nthreads n-threads cpu-threads omp-num-threads",
    "use --download-dir": "cache-dir hf-home",
    "use --hf-token": "token use-auth-token api-key",
    "use --kv-cache-memory-bytes": "kv-cache-size kvcache-space kv-memory",
    "use --enable-prefix-caching": "prefix-caching enable-prefix-cache prefix-cache",
    "use --skip-special-tokens or --no-skip-special-tokens": "show-special-tokens",
    "use --logprobs": "top-logprobs",
    "use --repetition-penalty": "repeat-penalty",
    "use --lora NAME=PATH": "lora-modules lora-path lora-adapter adapter adapters peft adapter-path",
    "use --prompt-adapter NAME=PATH": "prompt-adapters soft-prompt",
    "there is no server: a job reads a file and ends": "host port served-model-name allow-credentials root-path uvicorn-log-level",
    "in Python: LLM.sleep and LLM.wake_up": "enable-sleep-mode",
    "outputs are written when they are finished": "stream",
    "-v says more, and -q less": "log-level loglevel debug",
}
#: The first hint of a name is that of the commands that have its option.
_HINTS: dict[str, list[str]] = {}
for _hint, _names in _ELSEWHERE.items():
    for _name in _names.split():
        _HINTS.setdefault(_name, []).append(_hint)

#: Names that other programs have for a command of ours, or for its work.
_COMMANDS = {
    "infer generate": "complete completions completion-batch inference predict text-generation",
    "infer chat": "chat-completions ask",
    "infer embed": "embedding embeddings encode vectorize",
    "infer score": "rerank reranking similarity",
    "infer batch": "run-batch batches openai-batch responses",
    "infer check": "validate lint",
    "infer bench": "benchmark perf",
    "infer config show": "settings env",
    "infer models get": "download pull fetch",
    "infer models list": "list ls",
    "infer models quantize": "quantize quantise convert",
    "infer models rm": "remove delete uninstall",
    "infer --version": "version",
}
_COMMAND_HINTS = {name: f"use `{command}`" for command, names in _COMMANDS.items() for name in names.split()}
_COMMAND_HINTS |= dict.fromkeys(("serve", "server", "api-server", "api"), "there is no server: infer generate or chat answers a file")


def instead_of(option: str, known: Collection[str], ctx: click.Context) -> str:
    """ "; …" for an option that a command has not, or an empty string.

    Args:
        option: as it was written, `--name` or `-x`.
        known: the options that the command has.
        ctx: the command's.
    """
    name = option.lstrip("-").replace("_", "-").lower()
    near = nearest(option, known)
    elsewhere: list[str] = []  # options of other commands that are meant by this name
    for text in _HINTS.get(name, []):
        hint = text.format(command=ctx.info_name)
        wanted = [word.rstrip(",;)") for word in hint.replace("`", " ").split() if word.startswith("--")]
        if not wanted or "infer " in hint or any(word in known for word in wanted):
            return near if wanted and near == f"; did you mean {wanted[0]!r}?" else f"; {hint}"
        elsewhere += wanted[:1]
    root = ctx.find_root()
    theirs = f"--{name}" if option.startswith("--") else option
    if others := _commands_with([theirs, *elsewhere], root):
        what = "it" if theirs in options_of(root, others[0]) else next(one for one in elsewhere if one in options_of(root, others[0]))
        return f"; {_listed(others)} {'has' if len(others) == 1 else 'have'} {what}"
    return near


def instead_of_command(name: str, known: Collection[str], group: str = "infer") -> str:
    """ "; …" for a command that `group` (`infer` or `infer models`) has not, or an empty string."""
    hint = _COMMAND_HINTS.get(name.lower().replace("_", "-"), "")
    return f"; {hint}" if hint and (group == "infer" or group in hint) else nearest(name, known)


def options_of(root: click.Context, name: str) -> set[str]:
    """The options of a command of the program whose context is `root`; its subcommands' are left out."""
    found = root.command.get_command(root, name) if isinstance(root.command, click.Group) else None
    return {name for param in found.params for name in (*param.opts, *param.secondary_opts)} if found is not None else set()


def _commands_with(options: list[str], root: click.Context) -> list[str]:
    """The commands that have one of these options: those that have the first of them, if any do. `check` has what the others have."""
    names = root.command.list_commands(root) if isinstance(root.command, click.Group) else []
    for option in options:
        if found := [name for name in names if name != "check" and option in options_of(root, name)]:
            return found
    return []


def _listed(names: list[str]) -> str:
    """infer a, infer b and infer c."""
    *others, last = [f"infer {name}" for name in names]
    return " and ".join(filter(None, [", ".join(others), last]))
