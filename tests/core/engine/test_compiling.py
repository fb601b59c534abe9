"""Requests whose grammars are compiled beside the engine's steps: who waits, who does not, and how outputs end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from infer.core.engine.compiling import CompilingQueue
from infer.core.engine.request import Request
from infer.core.errors import RecordError
from infer.core.outputs import RequestOutput
from infer.core.params import SamplingParams
from infer.core.structured import StructuredOutputsParams

EOS = 1


class Script:
    """A grammar that allows one text: its tokens, then the end."""

    def __init__(self, tokens: list[int]) -> None:
        self.left = list(tokens)
        self.finished = False

    def fill(self, bits: torch.Tensor, place: int) -> None:
        bits[place] = 0
        token = self.left[0] if self.left else EOS
        bits[place, token // 32] = 1 << token % 32 if token % 32 < 31 else -(2**31)

    def accept(self, token: int) -> bool:
        if token != (self.left.pop(0) if self.left else EOS):
            return False
        self.finished = not self.left
        return True


class Compilation:
    def __init__(self, spec: StructuredOutputsParams, steps: int) -> None:
        self.spec, self.left = spec, steps
        self.waited = 0

    def done(self) -> bool:
        self.left -= 1
        return self.left < 0

    def wait(self, timeout: float) -> None:
        self.waited += 1
        self.left = 0

    def result(self) -> Compilation:
        assert self.spec.regex is not None
        if self.spec.regex == "bad":
            raise RecordError("grammar_error", "no such grammar", param="structured_outputs")
        return self

    def state(self) -> Any:
        assert self.spec.regex is not None
        return Script([int(token) for token in self.spec.regex.split()])


class FakeGrammars:
    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.begun: list[Compilation] = []

    def begin(self, spec: StructuredOutputsParams) -> Compilation:
        if spec.regex == "refused":
            raise RecordError("grammar_error", "too large", param="structured_outputs")
        self.begun.append(Compilation(spec, self.steps))
        return self.begun[-1]


def make(make_engine: Any, steps: int = 0, **kwargs: Any) -> Any:
    class Tokenizer:
        special_ids = frozenset({0, 1, 2})

        def token_name(self, token: int) -> str:
            return str(token)

        def has(self, token: int) -> bool:
            return token >= 0

        def pieces(self, skip: bool) -> None:
            return None

        def decode(self, ids: list[int], *, skip_special_tokens: bool, spaces_between_special_tokens: bool) -> str:
            return "".join(f"{i} " for i in ids if i > 2 or not skip_special_tokens)

    engine = make_engine(tokenizer=Tokenizer(), **kwargs)
    engine._compiling = CompilingQueue(FakeGrammars(steps))  # type: ignore[arg-type]
    return engine


def add(engine: Any, name: str, regex: str | None, **params: Any) -> None:
    structured = None if regex is None else StructuredOutputsParams(regex=regex)
    engine.add(Request(name, [3, 4, 5], SamplingParams(**{"structured_outputs": structured, "max_tokens": 9, **params}), 0))


def drain(engine: Any) -> dict[str, RequestOutput]:
    outputs = {}
    while engine.num_unfinished:
        outputs.update({o.request_id: o for o in engine.step()})
        engine.scheduler.check_integrity()
    assert engine.num_waiting == 0
    assert not engine._constrained
    return outputs


def test_an_output_ends_where_its_grammar_does(make_engine: Any) -> None:
    engine = make(make_engine)
    add(engine, "a", "10 11 12", n=2)
    add(engine, "b", "20 21 22 23", max_tokens=4)
    add(engine, "c", "30 31 32", max_tokens=2)
    add(engine, "d", "40 41", ignore_eos=True, temperature=0, logprobs=1)
    got = drain(engine)
    choices = {name: [(c.token_ids, c.text, c.finish_reason, c.stop_reason) for c in output.outputs] for name, output in got.items()}
    assert choices == {
        "a": [([10, 11, 12], "10 11 12 ", "stop", None)] * 2,
        "b": [([20, 21, 22, 23], "20 21 22 23 ", "stop", None)],
        "c": [([30, 31], "30 31 ", "length", None)],
        "d": [([40, 41], "40 41 ", "stop", None)],
    }


def test_an_end_token_that_completes_the_grammar_is_no_text_even_with_ignore_eos(make_engine: Any) -> None:
    class Open(Script):
        """Is complete only by the end token."""

        def accept(self, token: int) -> bool:
            fits = token == (self.left[0] if self.left else EOS)
            self.finished = not self.left
            self.left = self.left[1:]
            return fits

    for ignore_eos in (False, True):
        engine = make(make_engine)
        add(engine, "a", "10 11", ignore_eos=ignore_eos, skip_special_tokens=False)
        engine._compiling._grammars.begun[0].state = lambda: Open([10, 11])
        (choice,) = drain(engine)["a"].outputs
        assert (choice.token_ids, choice.text, choice.finish_reason, choice.stop_reason) == ([10, 11, EOS], "10 11 ", "stop", None)


def test_others_do_not_wait_for_a_compilation(make_engine: Any) -> None:
    engine = make(make_engine, steps=5)
    add(engine, "slow", "10 11", n=3)
    add(engine, "plain", None, ignore_eos=True, max_tokens=3)
    assert engine.num_unfinished == 2
    assert engine.num_waiting == 4
    done: list[str] = []
    while engine.num_unfinished:
        done += [o.request_id for o in engine.step()]
    assert done == ["plain", "slow"]
    (begun,) = engine._compiling._grammars.begun
    assert begun.waited == 1  # when there was nothing else to do


def test_a_grammar_that_does_not_compile_fails_its_record_alone(make_engine: Any) -> None:
    engine = make(make_engine, steps=1)
    add(engine, "bad", "bad", n=2)
    add(engine, "good", "10 11")
    with pytest.raises(RecordError, match="too large"):
        add(engine, "refused", "refused")
    assert engine.num_unfinished == 2
    got = drain(engine)
    error = got["bad"].error
    assert error is not None
    assert (error.code, error.message) == ("grammar_error", "no such grammar")
    assert got["bad"].outputs == []
    assert got["bad"].metrics is not None
    assert got["bad"].metrics.first_scheduled_time is None
    assert got["good"].outputs[0].token_ids == [10, 11]


def test_no_token_that_fits_everything_fails_the_record(make_engine: Any) -> None:
    engine = make(make_engine)
    add(engine, "a", "10 11", allowed_token_ids=[10])
    add(engine, "b", "10 11")
    got = drain(engine)
    assert got["a"].error is not None
    assert (got["a"].error.code, got["a"].error.param) == ("invalid_value", "structured_outputs")
    assert got["b"].outputs[0].token_ids == [10, 11]


def test_one_that_waits_can_be_aborted(make_engine: Any) -> None:
    engine = make(make_engine, steps=100)
    add(engine, "a", "10 11", n=2)
    add(engine, "b", "10 11")
    engine.abort("a")
    assert engine.num_waiting == 1
    engine.abort("b")
    assert engine.num_waiting == engine.num_unfinished == 0
    assert engine.step() == []


def test_states_survive_preemption(make_engine: Any) -> None:
    engine = make(make_engine, num_blocks=7, block_size=2)
    text = " ".join(map(str, range(10, 18)))
    for name in "abc":
        add(engine, name, text)
    got = drain(engine)
    assert all(output.outputs[0].token_ids == [*range(10, 18)] for output in got.values())
    assert engine.stats.num_preemptions > 0
