"""`LLMEngine`: requests are added one by one and answered by steps, as scripts for vLLM's class of this name do it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ConfigError
from ..settings.args import EngineArgs
from ..types.adapters import LoRARequest
from ..types.outputs import RequestOutput
from ..types.params import SamplingParams
from ..types.prompts import Prompt
from .llm import LLM


class LLMEngine:
    """A model that writes text, driven step by step:

        engine = LLMEngine.from_engine_args(EngineArgs(model="smollm2-135m"))
        engine.add_request("a", "Once upon a time", SamplingParams(max_tokens=32))
        while engine.has_unfinished_requests():
            for output in engine.step():
                print(output.request_id, output.outputs[0].text)

    Answers come when they are finished, never in parts: `step` gives those that it finished, in vLLM's terms as with
    `RequestOutputKind.FINAL_ONLY`. With `with` it is closed at the end.

    Raises what `LLM` raises.
    """

    def __init__(self, engine_args: EngineArgs) -> None:
        self._llm = LLM.from_engine_args(engine_args)
        self._own_ids: dict[str, str] = {}
        """Of each unfinished request, by the caller's id for it."""

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, *, usage_context: Any = None, enable_multiprocessing: bool = False) -> LLMEngine:
        """`usage_context` and `enable_multiprocessing`, which vLLM takes, change nothing here."""
        return cls(engine_args)

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams | Mapping[str, Any],
        arrival_time: float | None = None,
        lora_request: LoRARequest | str | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        trace_headers: Any = None,
        priority: int = 0,
    ) -> None:
        """Takes a prompt of any form that `LLM.generate` takes, to be answered by the next steps.

        Args:
            request_id: the output's; no unfinished request may have the same.
            arrival_time, trace_headers: taken for vLLM's sake, without effect.

        The others, and the errors, are those of `LLM.generate`; nothing is taken then.
        """
        if not isinstance(request_id, str):
            raise ConfigError(f"request_id must be a string, not {type(request_id).__name__}")
        if request_id in self._own_ids:
            raise ConfigError(f"request_id {request_id!r} is that of an unfinished request; give each its own")
        (self._own_ids[request_id],) = self._llm.enqueue(
            [prompt], params, lora_request, [priority], tokenization_kwargs=tokenization_kwargs
        )

    def step(self) -> list[RequestOutput]:
        """One step of the engine: the outputs of requests that it finished, often none. One that failed has an `error` and no choices."""
        given = {own: request_id for request_id, own in self._own_ids.items()}
        outputs: list[RequestOutput] = self._llm._shared.step()
        for output in outputs:
            output.request_id = given[output.request_id]
            del self._own_ids[output.request_id]
        return outputs

    def abort_request(self, request_id: str | Iterable[str]) -> None:
        """Drops requests that are not finished; ids of others are passed over."""
        ids = [request_id] if isinstance(request_id, str) else request_id
        self._llm._shared.abort([own for one in ids if (own := self._own_ids.pop(one, None)) is not None])

    def has_unfinished_requests(self) -> bool:
        return bool(self._own_ids)

    def get_num_unfinished_requests(self) -> int:
        return len(self._own_ids)

    def close(self) -> None:
        """Frees the model; see `LLM.close`."""
        self._llm.close()

    def __enter__(self) -> LLMEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
