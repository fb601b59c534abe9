"""`LLM`: the engine as a Python class, with vLLM's names. A thin face; the job layer does not go through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .args import EngineArgs
from .engine.request import Request
from .errors import RecordError
from .jobs.build import build_engine
from .outputs import RequestOutput
from .params import SamplingParams

#: A prompt: text, token ids, {"prompt": text} or {"prompt_token_ids": ids}.
Prompt = str | Sequence[int] | Mapping[str, Any]


class LLM:
    """A model held in memory, answering lists of prompts.

    Args:
        model: alias, folder, .gguf file or hub id.
        kwargs: any other field of `EngineArgs`; unknown names raise ConfigError.
    """

    def __init__(self, model: str, **kwargs: Any) -> None:
        built = build_engine(EngineArgs.from_kwargs(model=model, **kwargs))
        self.engine = built.engine
        self.tokenizer = built.tokenizer
        self._num_requests = 0

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answers in the order of the prompts.

        Args:
            prompts: one prompt or a list of them.
            sampling_params: one for all, or one a prompt; None is `SamplingParams()`.
            use_tqdm: show a progress bar on stderr.

        Raises RecordError for the first prompt that cannot be answered; nothing is left in the engine then.
        """
        many = _as_list(prompts)
        params = _as_params(sampling_params, len(many))
        requests = [self._request(prompt, p) for prompt, p in zip(many, params, strict=True)]
        added: list[str] = []
        self.engine.expect_more(True)
        try:
            for request in requests:
                self.engine.add(request)
                added.append(request.request_id)
            self.engine.expect_more(False)
            outputs = self._run(len(requests), use_tqdm=use_tqdm)
            if failed := next((o.error for o in outputs.values() if o.error), None):
                raise failed
        except BaseException:
            for request_id in added:
                if self.engine.is_open(request_id):
                    self.engine.abort(request_id)
            raise
        return [outputs[r.request_id] for r in requests]

    def _run(self, total: int, *, use_tqdm: bool) -> dict[str, RequestOutput]:
        from tqdm import tqdm

        outputs: dict[str, RequestOutput] = {}
        with tqdm(total=total, desc="Processed prompts", disable=not use_tqdm) as bar:
            while self.engine.num_unfinished:
                for output in self.engine.step():
                    outputs[output.request_id] = output
                    bar.update()
        return outputs

    def _request(self, prompt: Prompt, params: SamplingParams) -> Request:
        index = self._num_requests
        self._num_requests += 1
        text, ids = _text_and_ids(prompt)
        if text is not None:
            ids = self.tokenizer.encode(text)
        return Request(str(index), ids, params, index, text)


def _text_and_ids(prompt: Prompt) -> tuple[str | None, list[int]]:
    """A prompt's text, or its token ids. Raises RecordError for anything else."""
    if isinstance(prompt, Mapping):
        prompt = prompt["prompt"] if "prompt" in prompt else prompt.get("prompt_token_ids", prompt)
    if isinstance(prompt, str):
        return prompt, []
    if isinstance(prompt, Sequence) and all(isinstance(token, int) for token in prompt):
        return None, [int(token) for token in prompt]
    what = 'a str, a list of token ids, {"prompt": str} or {"prompt_token_ids": list}'
    raise RecordError("invalid_type", f"a prompt is {what}, not {type(prompt).__name__}", param="prompt")


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    single = isinstance(prompts, (str, Mapping)) or (len(prompts) > 0 and isinstance(prompts[0], int))
    return [prompts] if single else list(prompts)  # type: ignore[list-item,arg-type]


def _as_params(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise ValueError(f"{count} prompts and {len(params)} sampling_params: there must be as many of both, or one of the latter")
    return list(params)
