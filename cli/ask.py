"""One question of a person at a terminal: `infer chat -m MODEL "Why is the sky blue?"`."""

from __future__ import annotations

from dataclasses import replace

from infer.core.jobs.tasks.adapters.declared import declared_in

from .options import engine_args, given_sampling
from .options.chat import ChatFlags
from .report import set_up_logging
from .terminal import streams


def ask(question: str, flags: ChatFlags, *, quiet: bool, verbose: int) -> int:
    """Prints the model's answer as text; returns the exit code. Sampling options and --system count; --max-tokens is none unless given.

    Raises ConfigError, ModelError, EngineError, RecordError.
    """
    set_up_logging(quiet=quiet or not verbose, verbose=verbose)
    args, adapters = declared_in(*engine_args())
    from infer.core.api.llm import LLM

    with LLM.from_engine_args(args) as llm:
        params = replace(llm.get_default_sampling_params(), **{"max_tokens": None, **given_sampling()})
        messages = [{"role": "system", "content": flags.system}] if flags.system is not None else []
        (output,) = llm.chat(
            [*messages, {"role": "user", "content": question}],
            params,
            use_tqdm=False,
            lora_request=adapters.lora.default_request,
            prompt_adapter_request=adapters.prompt.default_prompt_adapter,
            chat_template=flags.template,
            chat_template_kwargs=flags.options.chat_template_kwargs,
            chat_template_content_format=flags.content_format,
        )
    for choice in output.outputs:
        streams.write(choice.text.strip() + "\n")
    return 0
