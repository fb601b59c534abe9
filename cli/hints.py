"""Hints for options that do not exist: our option for another program's name, or the nearest of ours."""

from __future__ import annotations

from collections.abc import Collection

from infer.core.errors import nearest

#: Names that vLLM's, transformers', llama.cpp's and OpenAI's programs have for something of ours by what to say.
_ELSEWHERE = {
    "a file to write is the second argument: infer {command} IN OUT": "output output-file out output-path o",
    "a file to read is the first argument (or --input FILE, for several): infer {command} IN OUT": "input-file in file i f data",
    "use --model": "model-path model-name-or-path model-name pretrained model-id hf-model ckpt",
    "use --max-tokens": "max-new-tokens max-output-tokens max-completion-tokens n-predict num-predict max-gen-toks",
    "use --max-num-seqs; batches are made by themselves, so it is seldom needed": "batch-size bs max-batch-size per-device-batch-size",
    "use --max-model-len": "max-length ctx-size context-length max-seq-len max-seq-length num-ctx n-ctx",
    "use --tensor-parallel-size": "tp tp-size num-gpus gpus tensor-parallel ngpus",
    "use --data-parallel-size": "dp dp-size replicas num-workers workers",
    "use --dtype": "torch-dtype precision compute-type dt",
    "use --quantization int8": "load-in-8bit int8",
    "use --quantization int4": "load-in-4bit int4",
    "use --device cpu": "cpu no-cuda use-cpu",
    "use --temperature 0": "greedy no-do-sample no-sample",
    "outputs are drawn unless --temperature is 0": "do-sample sample",
    "use `infer beam --width`": "num-beams beam-size use-beam-search beam-width",
    "use --n": "num-return-sequences num-samples num-outputs num-completions",
    "use --stop": "stop-sequences stop-strings stop-words until reverse-prompt",
    "use --choice": "labels guided-choice choices",
    "use --regex": "guided-regex",
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
_HINTS = {name: hint for hint, names in _ELSEWHERE.items() for name in names.split()}


def instead_of(option: str, known: Collection[str], command: str) -> str:
    """ "; …" for an option that a command has not, or an empty string.

    Args:
        option: as it was written, `--name` or `-x`.
        known: the options that the command has.
    """
    name = option.lstrip("-").replace("_", "-").lower()
    hint = _HINTS.get(name, "").format(command=command)
    if hint:
        wanted = [word for word in hint.replace("`", " ").split() if word.startswith("--")]
        if not wanted or "infer beam" in hint or any(word.rstrip(",;)") in known for word in wanted):
            return f"; {hint}"
    return nearest(option, known)
