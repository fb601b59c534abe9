"""`infer generate`: text or token ids in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import RecordError
from ...text.spelling import Spelling
from ...types.outputs import CompletionOutput
from ..jsonl import wrong_type
from .completion import CompletionOptions, CompletionTask
from .pending import PendingPrompt
from .rows import completion_logprobs

if TYPE_CHECKING:
    from ...build.plan import Plan


class GenerateTask(CompletionTask):
    """`prompt` (a string, or a list of token ids as OpenAI allows) or `prompt_token_ids`; `--prompt-field` or `--template` instead."""

    command = "generate"
    columns = ("prompt", "prompt_token_ids")

    @classmethod
    def of(cls, options: CompletionOptions, plan: Plan) -> GenerateTask:
        """The task with the model of `plan`."""
        return cls(options, plan.tokenizer, max_model_len=plan.config.max_model_len)

    def missing(self, fields: Mapping[str, Any]) -> str:
        hint = ' ("text" is a field of infer embed; or give --prompt-field text)' if "text" in fields else ""
        return f'no "prompt" and no "prompt_token_ids"{hint}'

    def prompt_of(self, fields: Mapping[str, Any]) -> str | list[int]:
        if self.options.literal_special_tokens and self.options.template is not None and self.tokenizer is not None:
            literal = self.tokenizer.literal  # the template's own special tokens are meant, the record's are not
            return literal.settle(self.options.template.render(literal.mark(dict(fields))))
        if self.options.has_column and (text := self.text_from_record(fields)) is not None:
            return text
        prompt, ids = fields.get("prompt"), fields.get("prompt_token_ids")
        if prompt is not None and ids is not None:
            raise RecordError("invalid_value", "give prompt or prompt_token_ids, not both", param="prompt_token_ids")
        if ids is not None:
            return _token_ids("prompt_token_ids", ids)
        if isinstance(prompt, list):
            if prompt and isinstance(prompt[0], (str, list)):
                raise RecordError("unsupported", "a list of prompts on one line is not supported: one prompt a line", param="prompt")
            return _token_ids("prompt", prompt)
        if not isinstance(prompt, str):
            raise wrong_type("prompt", "a string or a list of token ids", prompt)
        return prompt

    def sampling_of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        given = super().sampling_of(fields)
        if "top_logprobs" in given:
            raise RecordError("unsupported", "top_logprobs belongs to infer chat; here logprobs is their number", param="top_logprobs")
        return given

    def choice_text(self, choice: CompletionOutput, pending: PendingPrompt, prompt_ids: Sequence[int]) -> dict[str, Any]:
        return {"text": choice.text}

    def choice_logprobs(self, choice: CompletionOutput, num_logprobs: int, spelling: Spelling) -> dict[str, Any]:
        return completion_logprobs(choice, spelling)


def _token_ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise RecordError("invalid_type", f"{name} must be a list of integers", param=name)
    if not value:
        raise RecordError("invalid_value", f"{name} is empty", param=name)
    return value
