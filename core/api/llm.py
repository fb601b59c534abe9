"""`LLM`: the engine as a Python class, with vLLM's names. A thin face; the job layer does not go through it.

Its length is that of vLLM's signatures and their docstrings; what the calls do is in the other files of this folder.
"""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import wraps
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from ..build.plan import make_plan
from ..containment import contained
from ..errors import ConfigError, RecordError
from ..fleet.start import start as start_engine
from ..intake.prompts import PromptIntake
from ..intake.remarks import Remarks
from ..jobs.tasks.adapters.declared import declared_in
from ..media.placing import PromptMedia
from ..settings.args import EngineArgs
from ..settings.threads import bound_spinning
from ..text.chat import ChatTemplate, template_text
from ..types.beam_params import BeamSearchParams
from ..types.media_parts import of_messages
from ..types.outputs import BeamSearchOutput, RequestOutput
from ..types.params import SamplingParams
from ..types.prompts import Prompt, as_prompts
from .arguments import (
    Loras,
    OnError,
    UseTqdm,
    adapters_of,
    conversations,
    copied,
    cut_as,
    is_raising,
    paired,
    priorities_of,
    warn_of_legacy,
)
from .controls import Controls
from .drafts import Written
from .pooling import PoolingCalls
from .prompt_adapters import PromptAdapters
from .shared import BATCH, SharedEngine

log = logging.getLogger("infer")

#: One message: an object with `role` and `content`, as in OpenAI's API.
Message = Mapping[str, Any]
Conversation = Sequence[Message]
#: Parameters as an object, or as a dict of what they are made of.
One = SamplingParams | Mapping[str, Any]
Params = One | Sequence[One] | None

_Self = TypeVar("_Self", bound="LLM")
_Args = ParamSpec("_Args")


def _warns_of_positionals(init: Callable[Concatenate[_Self, _Args], None]) -> Callable[Concatenate[_Self, _Args], None]:
    names = list(inspect.signature(init).parameters)[2:]  # without self and model

    @wraps(init)
    def wrapper(self: _Self, /, *args: _Args.args, **kwargs: _Args.kwargs) -> None:
        more = names[: max(0, len(args) - 1)]
        if more and self.DEPRECATE_INIT_POSARGS:
            warnings.warn(f"LLM: give {', '.join(more)} by name; only model may be positional", DeprecationWarning, stacklevel=2)
        init(self, *args, **kwargs)

    return wrapper


class LLM(PoolingCalls, Controls):
    """A model held in memory, answering lists of prompts: with text (`generate`, `chat`, `stream`, `beam_search`), or where it is one
    for embeddings or a classifier with vectors and scores (`encode`, `embed`, `classify`, `score`: see pooling.py). Arguments
    and meanings are those of vLLM's class of this name. With `with LLM(…) as llm:` it is closed at the end; see controls.py.

    Args:
        model: alias, folder, .gguf file or hub id.
        tokenizer: where the tokenizer comes from; None: the model.
        tokenizer_mode: "auto": the fast tokenizer; "slow": transformers' slow one.
        skip_tokenizer_init: prompts are token ids, every `text` is empty, and what is about text (stop strings, bad words,
            structured output, `chat`) is refused.
        trust_remote_code: run Python code that comes with the model.
        tensor_parallel_size: ranks that share each layer. `pipeline_parallel_size` is among `kwargs`: stages that the layers are cut into.
        dtype: "auto", "float32", "float16", "bfloat16", or a torch.dtype.
        quantization: how linear layers hold their weights; None: as they are.
        revision, tokenizer_revision: branch, tag or commit on the hub.
        seed: the run seed. With the number of a prompt (they are counted over the life of the object) it decides the draws of
            prompts whose parameters have no seed of their own.
        gpu_memory_utilization, swap_space, cpu_offload_gb, enforce_eager, max_seq_len_to_capture, disable_custom_all_reduce,
            disable_async_output_proc: as in vLLM, where the device has such a thing; else without effect, which is logged.
        max_context_len_to_capture: gone; raises and names its successor.
        kwargs: any other field of `EngineArgs`, such as task="embed" for a model that can do both, or lora={name: path}: adapters that
            `lora_request` may then name. `disable_log_stats` is accepted: no statistics are logged.

    Raises:
        UnknownArgument (a ConfigError and a TypeError), ConfigError (a ValueError), ModelError, EngineError.

    Attributes:
        DEPRECATE_INIT_POSARGS: warn when more than the model is given by position.
        DEPRECATE_LEGACY: warn when `prompt_token_ids` is used as an argument of its own.
    """

    DEPRECATE_LEGACY: ClassVar[bool] = False
    DEPRECATE_INIT_POSARGS: ClassVar[bool] = True

    @_warns_of_positionals
    def __init__(
        self,
        model: str,
        tokenizer: str | None = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: Any = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        seed: int | None = 0,
        gpu_memory_utilization: float = 0.9,
        swap_space: float = 4,
        cpu_offload_gb: float = 0,
        enforce_eager: bool | None = None,
        max_context_len_to_capture: int | None = None,
        max_seq_len_to_capture: int = 8192,
        disable_custom_all_reduce: bool = False,
        disable_async_output_proc: bool = False,
        **kwargs: Any,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "kwargs")}
        kwargs.pop("disable_log_stats", None)
        if "torch" not in sys.modules:
            bound_spinning()
        args = EngineArgs.from_kwargs(**given, **kwargs)
        args, self._adapters = declared_in(args, {name: "argument" if name in kwargs else "default" for name in EngineArgs.settings()})
        plan = make_plan(args)
        plan.config.tell(log)
        self._plan = plan
        self.tokenizer = plan.tokenizer
        self._remarks = Remarks(plan.tokenizer, log.warning, otherwise="give token ids")
        self._defaults, told = plan.sampling_defaults() if plan.recipe is None else ({}, "")
        if told:
            log.info(told)
        self.engine = start_engine(plan)
        self._shared = SharedEngine(self.engine)
        self._prompt_adapters = PromptAdapters(plan.config, self._adapters.prompt)
        self._templates: dict[tuple[str | None, str], ChatTemplate] = {}

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> LLM:
        """The same of settings that are put together already."""
        return cls(**{field.name: getattr(engine_args, field.name) for field in fields(engine_args)})

    @classmethod
    @contextmanager
    def deprecate_legacy_api(cls) -> Iterator[None]:
        """Warns of the legacy arguments inside the `with`."""
        before, cls.DEPRECATE_LEGACY = cls.DEPRECATE_LEGACY, True
        try:
            yield
        finally:
            cls.DEPRECATE_LEGACY = before

    # -- what it has ---------------------------------------------------------------------------------------------
    def get_default_sampling_params(self) -> SamplingParams:
        """The parameters of prompts without any: the values of generation_config.json over those of `SamplingParams()`. Where
        parameters are given, none of these count.
        """
        return SamplingParams(**self._defaults)

    def get_tokenizer(self) -> Any:
        """The tokenizer as transformers has it, loaded when it is asked for; ours is the attribute `tokenizer`.

        Raises ConfigError with skip_tokenizer_init.
        """
        if self.tokenizer is None:
            raise ConfigError("there is no tokenizer: skip_tokenizer_init is set")
        from ..text.transformers_tokenizer import as_transformers

        config, source = self._plan.config, self._plan.tokenizer_source
        folder = source.path if source.path.is_dir() else None
        slow, trust = config.tokenizer_mode == "slow", config.trust_remote_code
        return as_transformers(source.read, folder, slow=slow, trust_remote_code=trust)

    # -- generate ------------------------------------------------------------------------------------------------
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: Params = None,
        prompt_token_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        use_tqdm: UseTqdm = True,
        lora_request: Loras = None,
        prompt_adapter_request: Any = None,
        priority: Sequence[int] | None = None,
        *,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        literal_special_tokens: bool = False,
        on_error: OnError = "raise",
    ) -> list[RequestOutput]:
        """Answers in the order of the prompts.

        Args:
            prompts: one prompt or many: text, token ids, `TextPrompt`, `TokensPrompt`, and with enable_prompt_embeds `EmbedsPrompt`.
            sampling_params: one for all, or one a prompt, each an object or a dict; None is `get_default_sampling_params()`. They are
                copied.
            prompt_token_ids: the older form of prompts that are token ids; without effect where `prompts` are given.
            use_tqdm: show a progress bar on stderr; or a function that makes one.
            lora_request: a LoRA adapter for all, or a list with one, or None, a prompt; needs LLM(enable_lora=True). One of
                LLM(lora={name: path}) may be named.
            prompt_adapter_request: a `PromptAdapterRequest`, one for all prompts or one (or None) a prompt, with enable_prompt_adapter.
            priority: one a prompt, with scheduling_policy="priority"; lower ones go first. No answer depends on it.
            tokenization_kwargs: `truncate_prompt_tokens` and `truncation_side`, or as transformers says it `truncation`, `max_length`;
                `add_special_tokens`.
            literal_special_tokens: text that spells a special token is only text.
            on_error: "raise": the first error is raised, and nothing is answered; "return": such a prompt's output has its
                `error` and no choices.

        Raises ConfigError (a ValueError) for wrong arguments, RecordError (a ValueError) for a prompt or parameters that cannot
        be answered. Nothing is left in the engine then.
        """
        self._generates("generate")
        warn_of_legacy(prompt_token_ids, wanted=self.DEPRECATE_LEGACY)
        many = as_prompts(prompts, prompt_token_ids)
        raising = is_raising(on_error)
        drafts = self._drafts(many, sampling_params, priority, tokenization_kwargs, lora_request, raising=raising)
        self._prompt_adapters.put_before(drafts, prompt_adapter_request)
        return self._answer(drafts, self._intake(literal=literal_special_tokens), use_tqdm, raising=raising)

    def enqueue(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params = None,
        lora_request: Loras = None,
        priority: Sequence[int] | None = None,
        *,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        on_error: OnError = "raise",
    ) -> list[str]:
        """Takes prompts as `generate` does and computes nothing yet; `wait_for_completion` answers all that were taken.

        Returns the `request_id` of each. Arguments and errors are those of `generate`; where one error is raised, none is taken.
        """
        self._generates("enqueue")
        many = as_prompts(prompts, None)
        raising = is_raising(on_error)
        drafts = self._drafts(many, sampling_params, priority, tokenization_kwargs, lora_request, raising=raising)
        return self._shared.enqueue(drafts, self._intake(), raising=raising)

    def wait_for_completion(self, *, use_tqdm: UseTqdm = True, on_error: OnError = "raise") -> list[RequestOutput]:
        """Answers in the order in which their prompts were enqueued, of all calls of `enqueue` since the last time."""
        self._generates("wait_for_completion")
        total, found = self._shared.num_enqueued, self._shared.wait(raising=is_raising(on_error))
        outputs = self._collected(found, total, use_tqdm)
        return [outputs[request_id] for request_id in sorted(outputs, key=int)]

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: Params = None,
        use_tqdm: UseTqdm = True,
        lora_request: Loras = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
        *,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        chat_template_content_format: str = "auto",
        literal_special_tokens: bool = False,
        priority: Sequence[int] | None = None,
        prompt_adapter_request: Any = None,
        on_error: OnError = "raise",
    ) -> list[RequestOutput]:
        """The next message of each conversation.

        Args:
            messages: one conversation (a list of messages) or many.
            chat_template: a file, jinja2 text, or the name of one of the model's templates; None is the model's.
            add_generation_prompt: end the prompt with the beginning of an assistant's message.
            continue_final_message: leave the last message open, for the model to go on; needs add_generation_prompt=False.
            tools: JSON schemas of functions, for all conversations.
            mm_processor_kwargs: what the model's processor is told of images in all conversations.
            chat_template_kwargs: more variables for the template; they win over the arguments here, as in vLLM.
            chat_template_content_format: whether the template gets a message's content as a "string" or as a list of parts ("openai");
                "auto": as it takes it.
            literal_special_tokens: what the messages spell is never a special token; those of the template are.

        The other arguments, the order of the outputs and the errors are those of `generate`; also raises ModelError where there is
        no usable template. The template writes the special tokens, so the tokenizer adds none unless `tokenization_kwargs` says so.
        """
        self._generates("chat")
        many = conversations(messages)
        loras = adapters_of(lora_request, len(many), self._adapters.lora)
        raising = is_raising(on_error)
        params, priorities = self._params(sampling_params, len(many), raising=raising), self._priorities(priority, len(many))
        adds = cut_as(params, {"add_special_tokens": False, **(tokenization_kwargs or {})}, self._plan.config.max_model_len)
        options: dict[str, Any] = {
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
        }
        variables = dict(chat_template_kwargs or {})
        template = self._template(variables.pop("chat_template", chat_template), chat_template_content_format)
        assert self.tokenizer is not None  # else there were no template
        literal = self.tokenizer.literal if literal_special_tokens else None
        template = template if literal is None else template.literally()
        intake = self._intake(literal=literal is not None)
        drafts = []
        for conversation, p, rank, lora in zip(many, params, priorities, loras, strict=True):
            one = Written(p, priority=rank, add_special_tokens=adds, lora=lora)
            with contained(one):
                one.media = PromptMedia.of(of_messages(conversation), mm_processor_kwargs)
                one.prompt = intake.render(template, _plain(conversation), options, variables)
                one.shown = one.prompt if literal is None else literal.plain(one.prompt)
            drafts.append(one)
        self._prompt_adapters.put_before(drafts, prompt_adapter_request)
        return self._answer(drafts, intake, use_tqdm, raising=raising)

    def stream(
        self,
        prompts: Iterable[Prompt],
        sampling_params: One | Iterable[One] | None = None,
        *,
        look_ahead: int | None = None,
        on_error: OnError = "raise",
    ) -> Iterator[RequestOutput]:
        """Outputs as they finish, from prompts that are read as they are needed: neither need fit into memory.

        Other calls may be made while a stream is open; `request_id` counts the prompts of all of them, in the order in which they
        are read, and so tells which prompt an output answers. A stream that is closed early drops what it has not given.

        Args:
            prompts: any iterable.
            sampling_params: one for all, or an iterable with one a prompt; None is `get_default_sampling_params()`.
            look_ahead: most prompts read and not answered; None is as many as the engine needs to choose from.
            on_error: "raise": the first error ends the stream; "return": an output has the `error`.

        Raises ConfigError, RecordError; for what the arguments show at once, before the first output is asked for.
        """
        self._generates("stream")
        raising = is_raising(on_error)
        if look_ahead is not None and look_ahead < 1:
            raise ConfigError(f"look_ahead must be at least 1, not {look_ahead}")
        if isinstance(prompts, (str, Mapping)):
            prompts = [prompts]
        drafts = paired(prompts, self.get_default_sampling_params() if sampling_params is None else sampling_params, raising=raising)
        look_ahead = look_ahead or max(BATCH, 4 * self.engine.max_num_seqs)
        return self._shared.outputs(drafts, self._intake(), look_ahead=look_ahead, raising=raising)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams | Mapping[str, Any],
        lora_request: Loras = None,
        use_tqdm: UseTqdm = False,
        concurrency_limit: int | None = None,
        *,
        on_error: OnError = "raise",
    ) -> list[BeamSearchOutput]:
        """The best continuations of each prompt, best first. What counts as best is in `BeamSearchParams`.

        Args:
            prompts: as in `generate`.
            concurrency_limit: most prompts that are searched at a time; the engine needs no such limit.

        The other arguments, the order of the outputs and the errors are those of `generate`.
        """
        self._generates("beam_search")
        many = as_prompts(prompts, None)
        loras = adapters_of(lora_request, len(many), self._adapters.lora)
        if concurrency_limit is not None and concurrency_limit < 1:
            raise ConfigError(f"concurrency_limit must be at least 1, not {concurrency_limit}")
        raising = is_raising(on_error)
        (beam,) = copied(params, 1, BeamSearchParams, "params", raising=raising)
        sampling, search = (beam, None) if isinstance(beam, RecordError) else (beam.sampling(), beam)
        step = concurrency_limit or max(1, len(many))
        outputs: list[BeamSearchOutput] = []
        for start in range(0, len(many), step):
            both = zip(many[start : start + step], loras[start : start + step], strict=True)
            drafts = [Written.of(prompt, sampling, beam=search, lora=lora) for prompt, lora in both]
            outputs += [self._beams(output, search) for output in self._answer(drafts, self._intake(), use_tqdm, raising=raising)]
        return outputs

    def _beams(self, output: RequestOutput, beam: BeamSearchParams | None) -> BeamSearchOutput:
        before = ""
        if self.tokenizer is not None and output.error is None and beam is not None:
            before = self.tokenizer.decode(output.prompt_ids, skip_special_tokens=beam.skip_special_tokens)
        return BeamSearchOutput.of(output, before)

    def _drafts(
        self,
        prompts: list[Any],
        sampling_params: Params,
        priority: Sequence[int] | None,
        tokenization_kwargs: Mapping[str, Any] | None,
        lora_request: Loras,
        *,
        raising: bool,
    ) -> list[Written]:
        """Prompts of `generate` with their parameters."""
        params, priorities = self._params(sampling_params, len(prompts), raising=raising), self._priorities(priority, len(prompts))
        adds = cut_as(params, tokenization_kwargs, self._plan.config.max_model_len)
        each = zip(prompts, params, priorities, adapters_of(lora_request, len(prompts), self._adapters.lora), strict=True)
        return [Written.of(prompt, p, rank, adds=adds, lora=lora) for prompt, p, rank, lora in each]

    def _params(self, params: Params, count: int, *, raising: bool) -> list[SamplingParams | RecordError]:
        given = self.get_default_sampling_params() if params is None else params
        return copied(given, count, SamplingParams, "sampling_params", raising=raising)

    def _priorities(self, priority: Sequence[int] | None, count: int) -> list[int]:
        return priorities_of(priority, count, wanted=self._plan.config.scheduling_policy == "priority")

    def _intake(self, *, literal: bool = False) -> PromptIntake:
        plan = self._plan
        more: dict[str, Any] = {"placing": plan.placing, "decoder": plan.decoder_prompts, "hearing": plan.hearing}
        return PromptIntake(self.tokenizer, self.engine.max_model_len, self._remarks, literal=literal, **more)

    def _template(self, given: str | None, content_format: str) -> ChatTemplate:
        if (given, content_format) not in self._templates:
            override = None if given is None else template_text(given)
            self._templates[given, content_format] = self._plan.chat_template(override, content_format=content_format)
        return self._templates[given, content_format]


def _plain(conversation: Any) -> Any:
    """Messages that are mappings of another kind as dicts."""
    return [dict(m) if isinstance(m, Mapping) else m for m in conversation] if isinstance(conversation, (list, tuple)) else conversation
