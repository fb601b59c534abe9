"""`LLM.classify` with a language model: labels that it is asked to choose from; and how all calls wait for their answers."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..containment import contained
from ..errors import ConfigError, RecordError
from ..intake.intake import Intake
from ..intake.prompts import PromptIntake
from ..text.labels import LabelSet, ends_with_blank
from ..types.adapters import LoRARequest
from ..types.label_scores import LabelScores
from ..types.outputs import RequestOutput
from ..types.params import SamplingParams, scoring_params
from ..types.pooling_outputs import LabelOutput, LabelRequestOutput
from ..types.prompts import Prompt, as_prompts
from ..types.request import Request
from .arguments import Loras, OnError, UseTqdm, adapters_of, cut_as, is_raising
from .drafts import Draft, Written
from .progress import Bar
from .shared import SharedEngine

if TYPE_CHECKING:
    from ..build.plan import Plan
    from ..intake.remarks import Remarks
    from ..jobs.tasks.adapters.declared import Adapters
    from ..text.tokenizer import Tokenizer

#: Labels for all prompts, or a list for each.
Labels = Sequence[str] | Sequence[Sequence[str]]


@dataclass(slots=True)
class Labelled(Written):
    """A prompt after which labels are scored."""

    labels: LabelSet | None = None
    tokenizer: Tokenizer | None = None

    def to_request(self) -> Request:
        assert self.labels is not None
        assert self.tokenizer is not None
        ways = self.labels.ways(after_blank=ends_with_blank(self.prompt, self.tokenizer))
        return replace(Written.to_request(self), continuations=ways.tokens)

    def logprobs(self, answer: RequestOutput) -> list[float]:
        """Of the labels, in their order."""
        assert self.labels is not None
        assert self.tokenizer is not None
        ways = self.labels.ways(after_blank=ends_with_blank(answer.prompt_ids, self.tokenizer))
        return ways.logprobs([choice.cumulative_logprob or 0.0 for choice in answer.outputs])


class LabelCalls:
    """See the module."""

    _plan: Plan
    _adapters: Adapters
    _remarks: Remarks
    _shared: SharedEngine
    tokenizer: Tokenizer | None

    def _classify_labels(
        self,
        prompts: Prompt | Sequence[Prompt],
        labels: Labels | None,
        calibration_prompt: str | None,
        tokenization: Mapping[str, Any],
        use_tqdm: UseTqdm,
        lora_request: Loras,
        on_error: OnError,
    ) -> list[LabelRequestOutput]:
        many = as_prompts(prompts, None)
        loras = adapters_of(lora_request, len(many), self._adapters.lora)
        if self._plan.recipe is not None:
            raise ConfigError("LLM.classify: labels are for a model that is run to generate text, and this one pools")
        if labels is None:
            raise ConfigError("LLM.classify: a language model has no labels of its own: give labels=[…]")
        if self.tokenizer is None:
            raise ConfigError("LLM.classify: labels need a tokenizer, and there is none (skip_tokenizer_init)")
        raising = is_raising(on_error)
        params: list[SamplingParams | RecordError] = [scoring_params() for _ in many]
        given = {name: value for name, value in tokenization.items() if value is not None}
        adds = cut_as(params, given, self._plan.config.max_model_len)
        sets = _sets(labels, len(many), self.tokenizer, raising=raising)
        drafts = [self._labelled(*one, adds=adds) for one in zip(many, params, sets, loras, strict=True)]
        own = len(drafts)
        if calibration_prompt is not None:
            each = zip(sets, loras, strict=True)
            drafts += [self._labelled(calibration_prompt, scoring_params(), *one, adds=adds) for one in each]
        outputs = self._answer(
            drafts, PromptIntake(self.tokenizer, self._plan.config.max_model_len, self._remarks), use_tqdm, raising=raising
        )
        answers = list(zip(drafts, outputs, strict=True))
        calibrations: list[Any] = [*answers[own:]] or [None] * own
        made = [_output(*one, calibration) for one, calibration in zip(answers[:own], calibrations, strict=True)]
        if raising and (failed := next((one.error for one in made if one.error is not None), None)) is not None:
            raise failed
        return made

    def _labelled(
        self,
        prompt: Any,
        params: SamplingParams | RecordError,
        labels: LabelSet | RecordError,
        lora: LoRARequest | None,
        *,
        adds: bool,
    ) -> Labelled:
        one = Labelled(params, add_special_tokens=adds, tokenizer=self.tokenizer, lora=lora)
        with contained(one):
            if isinstance(labels, RecordError):
                raise labels
            written = Written.of(prompt, params, adds=adds)
            if written.error is not None:
                raise written.error
            one.labels, one.prompt, one.shown, one.embeds = labels, written.prompt, written.shown, written.embeds
            one.media = written.media
        return one

    # -- answers -------------------------------------------------------------------------------------------------
    def _answer(self, drafts: Sequence[Draft], intake: Intake[Any], use_tqdm: UseTqdm, *, raising: bool) -> list[Any]:
        """The outputs, in the order of the drafts."""
        outputs = self._collected(self._shared.outputs(drafts, intake, raising=raising), len(drafts), use_tqdm)
        return [outputs[one.request_id] for one in drafts]

    def _collected(self, found: Generator[Any], total: int, use_tqdm: UseTqdm) -> dict[str, Any]:
        """Outputs by their request, shown on a bar as they come."""
        outputs: dict[str, Any] = {}
        with Bar(total, use_tqdm) as bar, closing(found) as answered:
            for output in answered:
                outputs[output.request_id] = output
                bar.count(output)
        return outputs


def _sets(labels: Labels, count: int, tokenizer: Tokenizer, *, raising: bool) -> list[LabelSet | RecordError]:
    """The labels of each prompt, or what is wrong with them."""
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise ConfigError(f"labels must be a list of strings, or one for each prompt, not {type(labels).__name__}")
    each: list[Any] = list(labels) if labels and not isinstance(labels[0], str) else [labels] * count
    if len(each) != count:
        raise ConfigError(f"{count} prompts and {len(each)} lists of labels: there must be as many of both, or one list of strings")
    known: dict[tuple[Any, ...], LabelSet | RecordError] = {}
    for one in each:
        key = tuple(one)
        if key not in known:
            try:
                known[key] = LabelSet.of(one, tokenizer)
            except RecordError as error:
                if raising:
                    raise
                known[key] = error
    return [known[tuple(one)] for one in each]


def _output(draft: Labelled, answer: RequestOutput, calibration: tuple[Labelled, RequestOutput] | None) -> LabelRequestOutput:
    error = answer.error or (calibration[1].error if calibration is not None else None)
    made = None
    if error is None:
        assert draft.labels is not None
        off = None if calibration is None else calibration[0].logprobs(calibration[1])
        made = LabelScores.of(draft.labels.labels, draft.logprobs(answer), off)
        if made is None:
            error = RecordError("non_finite_logits", "none of the labels has a probability above zero after this prompt")
    if made is None:
        return LabelRequestOutput(answer.request_id, LabelOutput([]), answer.prompt_token_ids, error=error)
    labels = tuple(made.probs)
    told = LabelOutput([*made.probs.values()], labels, made.best_first[0], [made.logprobs[label] for label in labels], made.label_mass)
    return LabelRequestOutput(answer.request_id, told, answer.prompt_token_ids, answer.num_cached_tokens)
