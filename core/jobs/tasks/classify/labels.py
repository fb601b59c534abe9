"""`infer classify` with a language model: how likely it is to write each of some labels after a prompt."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ....errors import RecordError
from ....intake.prompts import PromptIntake
from ....intake.remarks import Remarks
from ....text.labels import LabelSet, ends_with_blank
from ....types.label_scores import LabelScores
from ....types.outputs import RequestOutput
from ....types.params import SamplingParams
from ...jsonl import wrong_type
from ...tally import Tally
from .. import constraint, openai_batch
from .. import fields as known
from ..base import Task
from ..chat import ChatTask
from ..completion import CompletionOptions
from ..generate import GenerateTask
from ..pending import PendingPrompt
from ..rows import finite, native_row

if TYPE_CHECKING:
    from ....text.chat import ChatTemplate
    from ....text.tokenizer import Tokenizer
    from ..chat import ChatOptions

log = logging.getLogger("infer.jobs")

#: Parameters of a record that mean something here.
_PARAMETERS = frozenset({"truncate_prompt_tokens", "truncation_side", "skip_reading_prefix_cache"})
_OWN = frozenset({"labels", "calibration_prompt"})
#: Lists of labels that are remembered at a time.
_MAX_SETS = 256


@dataclass(frozen=True)
class LabelOptions(CompletionOptions):
    """The options of `infer classify` with a language model.

    `labels`: of records that have none of their own. `calibration_prompt`: a prompt without content, whose log-probabilities are taken
    off those of every record. `as_chat`: a prompt that is text is a user message. `defaults` says how prompts are cut.
    """

    labels: tuple[str, ...] = ()
    calibration_prompt: str | None = None
    as_chat: bool = False


class LabelTask(Task[PendingPrompt]):
    """`prompt`, `prompt_token_ids` or `messages`, and `labels`; `--prompt-field` or `--template` make the prompt instead.

    Args:
        chat: the model's chat template; None: it has none, and conversations are their records' error.
    """

    command = "classify"
    columns = ("prompt", "prompt_token_ids", "messages")
    owners: ClassVar[Mapping[str, str]] = {}
    keeps = PendingPrompt
    known_fields = _PARAMETERS | _OWN | known.COMMON | known.LORA | known.PROMPT_ADAPTER | known.DROPPED | {"id"}
    guessable_fields = _PARAMETERS | _OWN | {"add_special_tokens"} | known.LORA | known.PROMPT_ADAPTER
    parameters = _PARAMETERS | _OWN
    of_writing = (known.SAMPLING | constraint.FIELDS) - _PARAMETERS
    options: LabelOptions
    intake: PromptIntake

    def __init__(
        self,
        options: LabelOptions,
        tokenizer: Tokenizer,
        chat: ChatTemplate | None,
        *,
        max_model_len: int,
        chat_options: ChatOptions | None = None,
    ) -> None:
        self._plain = GenerateTask(options, tokenizer, max_model_len=max_model_len)
        self._chat = None if chat is None else ChatTask(options, tokenizer, chat, max_model_len=max_model_len, chat_options=chat_options)
        self._sets: dict[tuple[str, ...], LabelSet] = {}
        self._cut: dict[int, SamplingParams] = {}
        self._labels = LabelSet.of(options.labels, tokenizer, literal=options.literal_special_tokens) if options.labels else None
        super().__init__(options, tokenizer, max_model_len=max_model_len)

    @property
    def shadowed(self) -> tuple[str, str] | None:
        """Two of the command's labels of which one begins the other, if there are any."""
        labels = self._labels
        if labels is None:
            return None
        ways = labels.otherwise
        pairs = ((ways.owners[i], ways.owners[longer[0]]) for i, longer in enumerate(ways.longer) if longer)
        return next(((labels.labels[a], labels.labels[b]) for a, b in pairs), None)

    # --- what it says about itself

    def own_fields(self) -> frozenset[str]:
        own = self._plain.own_fields() - {"echo", "prompt_embeds"}
        return own if self._chat is None else own | self._chat.own_fields()

    def make_intake(self, remarks: Remarks) -> PromptIntake:
        literal, placing = self.options.literal_special_tokens, self.options.placing
        return PromptIntake(self.tokenizer, self.max_model_len, remarks, literal=literal, placing=placing)

    def missing(self, fields: Mapping[str, Any]) -> str:
        column = next((name for name in ("text", "input") if name in fields), None)
        hint = "" if column is None else f" (a language model is asked by a --template around {column!r}, or --prompt-field {column})"
        return f'no "prompt", "prompt_token_ids" or "messages"{hint}'

    def refuse(self, fields: Mapping[str, Any]) -> None:
        """Whatever it does not know has been looked at by then."""

    # --- in

    def read(self, pending: PendingPrompt, fields: Mapping[str, Any]) -> None:
        labels = pending.reply = self._labels_of(fields)
        calibration = self.options.calibration_prompt if fields.get("calibration_prompt") is None else fields["calibration_prompt"]
        given = {name: fields[name] for name in _PARAMETERS if fields.get(name) is not None}
        pending.params = self._params(self.options.defaults.override(given), labels)
        pending.priority = known.priority_of(fields)
        if (adapter := self._chooser.prompt_adapter_of(fields)) is not None:
            name, pending.embeds = adapter
            pending.adapters += (name,)
        as_chat = fields.get("messages") is not None if not self.options.has_column else False
        as_chat = as_chat or (self.options.as_chat and fields.get("prompt_token_ids") is None)
        pending.add_special_tokens = known.flag(fields, "add_special_tokens", not as_chat)
        pending.prompt = self._prompt(fields, as_chat=as_chat)
        if not pending.prompt:
            raise RecordError("invalid_value", "the prompt is empty", param="prompt")
        task = self._chat if as_chat and self._chat is not None else self._plain
        task.put_media(pending, fields)
        if calibration is not None:
            pending.split([pending.prompt, self._calibration(calibration, fields, as_chat=as_chat)])

    def _labels_of(self, fields: Mapping[str, Any]) -> LabelSet:
        labels = fields.get("labels")
        if labels is None:
            if self._labels is None:
                raise RecordError("missing_field", "no labels: give --label for each, or a list of them in each record", param="labels")
            return self._labels
        if not isinstance(labels, list):
            raise wrong_type("labels", "a list of strings", labels)
        key = tuple(labels) if all(isinstance(label, str) for label in labels) else None
        found = None if key is None else self._sets.get(key)
        if found is None:
            assert self.tokenizer is not None
            found = LabelSet.of(labels, self.tokenizer, literal=self.options.literal_special_tokens)
            if len(self._sets) < _MAX_SETS and key is not None:
                self._sets[key] = found
        return found

    def _params(self, params: SamplingParams, labels: LabelSet) -> SamplingParams:
        """How the prompt is cut: to what leaves room for the longest label."""
        if params.truncate_prompt_tokens != -1:
            return params
        room = max(1, self.max_model_len - labels.longest)
        if params is not self.options.defaults:
            return replace(params, truncate_prompt_tokens=room)
        return self._cut.setdefault(room, replace(params, truncate_prompt_tokens=room))

    def _prompt(self, fields: Mapping[str, Any], *, as_chat: bool) -> str | list[int]:
        if not as_chat:
            prompt = self._plain.prompt_of(fields)
            if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
                raise RecordError("unsupported", "a list of prompts on one line is not classified: one prompt a line", param="prompt")
            return prompt
        if self._chat is None:
            raise RecordError("template_error", "this model has no chat template: give a prompt, or --chat-template", param="messages")
        if self.options.has_column or fields.get("messages") is not None:
            return self._chat.prompt_of(fields)
        prompt = fields.get("prompt")
        if not isinstance(prompt, str):
            raise wrong_type("prompt", "a string", prompt)
        return self._chat.conversation(_said(prompt), fields)

    def _calibration(self, text: Any, fields: Mapping[str, Any], *, as_chat: bool) -> str:
        """The prompt without content, in the form of the record's own."""
        if not isinstance(text, str):
            raise wrong_type("calibration_prompt", "a string", text)
        if not text:
            raise RecordError("invalid_value", "calibration_prompt is empty", param="calibration_prompt")
        if not as_chat:
            return text
        assert self._chat is not None
        return self._chat.conversation(_said(text), fields)

    def read_prompts(self, pendings: Sequence[PendingPrompt]) -> None:
        parts = [part for pending in pendings for part in pending.parts or (pending,)]
        super().read_prompts(parts)
        for pending in pendings:
            for part in pending.parts:
                pending.error = pending.error or part.error
        assert self.tokenizer is not None
        for part in parts:
            if part.error is None and isinstance(part.prompt, list):
                after_blank = ends_with_blank(part.prompt, self.tokenizer)
                part.continuations = part.reply.ways(after_blank=after_blank).tokens
                if after_blank and self.tokenizer.token_text(part.prompt[-1]).endswith(" "):
                    self.warn("blank", _BLANK)

    # --- out

    def empty_answer(self) -> dict[str, Any]:
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        return {"label": "", "probs": {}, "logprobs": {}, "label_mass": 0.0, "usage": usage}

    def tally(self, pending: PendingPrompt, output: Any) -> Tally:
        outputs = output if pending.parts else [output]
        return Tally(num_answered=1, bytes_done=pending.size, prompt_tokens=sum(len(one.prompt_token_ids) for one in outputs))

    def to_row(self, pending: PendingPrompt, output: Any) -> dict[str, Any]:
        labels: LabelSet = pending.reply
        outputs: list[RequestOutput] = output if pending.parts else [output]
        own, *calibration = (self._logprobs(labels, one) for one in outputs)
        scores = LabelScores.of(labels.labels, own, calibration[0] if calibration else None)
        if scores is None:
            raise RecordError("non_finite_logits", "none of the labels has a probability above zero after this prompt")
        size = sum(len(one.prompt_token_ids) for one in outputs)
        usage = {"prompt_tokens": size, "total_tokens": size}
        best = scores.best_first
        if pending.batch is not None:
            data = {"index": 0, "label": best[0], "probs": [scores.probs[label] for label in labels.labels], "num_classes": len(best)}
            return openai_batch.classification_row(pending.batch, [{**data, "label_mass": scores.label_mass}], usage)
        answer = {
            "label": best[0],
            "probs": {label: scores.probs[label] for label in best},
            "logprobs": {label: finite(scores.logprobs[label]) for label in best},
            "label_mass": scores.label_mass,
            "usage": usage,
        }
        return native_row(pending, answer)

    def _logprobs(self, labels: LabelSet, output: RequestOutput) -> list[float]:
        assert self.tokenizer is not None
        ways = labels.ways(after_blank=ends_with_blank(output.prompt_ids, self.tokenizer))
        return ways.logprobs([float(choice.cumulative_logprob or 0.0) for choice in output.outputs])


_BLANK = (
    "a prompt ends with a blank, which in most vocabularies belongs to the word after it: labels are less likely there than they would be "
    "without it; leave it out"
)


def _said(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]
