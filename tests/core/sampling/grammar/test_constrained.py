"""Requests with structured output in the engine: how outputs end, what fails, and how many large grammars there are at a time."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models

from infer.core.engine.engine import Engine
from infer.core.errors import RecordError
from infer.core.sampling.grammar.grammar import CompiledGrammar
from infer.core.text.tokenizer import Tokenizer
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request
from infer.core.types.structured import StructuredOutputsParams

from ... import stepping

EOS = 1
#: Token -> text; the others spell their number and a space.
SPELLED = {0: "<s>", 1: "</s>", 2: "<end>", 3: "{", 4: "}", 5: '"a"', 6: ":", 7: ",", 8: "null"}


def words() -> Tokenizer:
    """A tokenizer of the engine's 64 tokens."""
    vocabulary = {SPELLED.get(i, f"{i} "): i for i in range(64)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<s>"))
    backend.decoder = decoders.Sequence([decoders.Fuse()])
    backend.add_special_tokens([AddedToken(SPELLED[i], special=True) for i in range(3)])
    return Tokenizer(backend, {"eos_token": SPELLED[EOS]})


@pytest.fixture
def engine(make_engine: Any) -> Engine:
    made: Engine = make_engine(tokenizer=words())
    return made


def add(engine: Engine, name: str, spec: dict[str, Any] | str | None, **params: Any) -> None:
    """A string is a text that is the only one."""
    given = {"choice": [spec]} if isinstance(spec, str) else spec
    structured = None if given is None else StructuredOutputsParams(**given)
    asked = SamplingParams(**{"structured_outputs": structured, "max_tokens": 12, **params})
    engine.add(Request(name, [3, 4, 5], asked, 0))


def drain(engine: Engine) -> dict[str, RequestOutput]:
    outputs = stepping.drain(engine)
    assert engine.num_waiting == 0
    assert not engine._constrained
    assert not engine._constrained._lost
    return outputs


def test_an_output_ends_where_its_grammar_does(engine: Engine) -> None:
    add(engine, "a", "10 11 12 ", n=2)
    add(engine, "b", "20 21 22 23 ", max_tokens=4)
    add(engine, "c", "30 31 32 ", max_tokens=2)
    add(engine, "d", "40 41 ", ignore_eos=True, temperature=0, logprobs=1)
    got = drain(engine)
    choices = {name: [(c.token_ids, c.text, c.finish_reason, c.stop_reason) for c in output.outputs] for name, output in got.items()}
    assert choices == {
        "a": [([10, 11, 12], "10 11 12 ", "stop", None)] * 2,
        "b": [([20, 21, 22, 23], "20 21 22 23 ", "stop", None)],
        "c": [([30, 31], "30 31 ", "length", None)],
        "d": [([40, 41], "40 41 ", "stop", None)],
    }


def test_an_end_token_that_completes_the_grammar_is_no_text_even_with_ignore_eos(engine: Engine) -> None:
    for ignore_eos in (False, True):
        add(engine, str(ignore_eos), {"regex": "10 (11 )*"}, ignore_eos=ignore_eos, skip_special_tokens=False, allowed_token_ids=[10, EOS])
    for output in drain(engine).values():
        (choice,) = output.outputs
        assert (choice.token_ids, choice.text, choice.finish_reason, choice.stop_reason) == ([10, EOS], "10 ", "stop", None)


def test_a_grammar_that_does_not_compile_is_refused_at_the_door(engine: Engine) -> None:
    with pytest.raises(RecordError) as error:
        add(engine, "bad", {"json": {"type": "string", "format": []}}, n=2)
    assert error.value.code == "grammar_error"
    assert engine.num_unfinished == 0
    add(engine, "good", "10 11 ")
    assert drain(engine)["good"].outputs[0].token_ids == [10, 11]


def test_no_token_that_fits_everything_fails_the_record(engine: Engine) -> None:
    add(engine, "a", "10 11 ", allowed_token_ids=[10])
    add(engine, "b", "10 11 ")
    got = drain(engine)
    assert got["a"].error is not None
    assert (got["a"].error.code, got["a"].error.param) == ("invalid_value", "structured_outputs")
    assert got["b"].outputs[0].token_ids == [10, 11]


def test_states_survive_preemption(make_engine: Any) -> None:
    engine = make_engine(tokenizer=words(), num_blocks=7, block_size=2)
    for name in "abc":
        add(engine, name, "".join(f"{i} " for i in range(10, 18)), max_tokens=9)
    got = drain(engine)
    assert all(output.outputs[0].token_ids == [*range(10, 18)] for output in got.values())
    assert engine.stats.num_preemptions > 0


# -- what ended and is not what was asked for ----------------------------------------------------------------------------
def test_an_output_that_is_not_valid_is_an_error(make_engine: Any) -> None:
    """A name that comes twice is one property, which the grammar cannot know."""
    spec = {"json": {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 2, "maxProperties": 2}}
    engine = make_engine(tokenizer=words())
    add(engine, "a", spec, allowed_token_ids=[3, 4, 5, 6, 7, 8, EOS])
    add(engine, "b", "10 ")
    got = drain(engine)
    assert got["a"].error is not None
    assert (got["a"].error.code, got["a"].error.param, got["a"].outputs) == ("grammar_error", "structured_outputs", [])
    assert "minProperties" in got["a"].error.message
    assert got["b"].outputs[0].text == "10 "


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"stop": ["11"]}, None),
        ({"stop": ["11"], "include_stop_str_in_output": True}, None),
        ({"stop": ["12 "], "include_stop_str_in_output": True}, "10 11 12 "),
        ({"stop": ["12 "]}, None),
        ({"stop_token_ids": [12]}, None),
        ({"stop_token_ids": [12], "include_stop_str_in_output": True}, "10 11 12 "),
        ({"stop": ["99"]}, "10 11 12 "),
    ],
)
@pytest.mark.parametrize("detokenize", [True, False])
def test_an_output_that_was_cut_short_is_an_error(engine: Engine, params: dict[str, Any], text: str | None, detokenize: bool) -> None:
    if not detokenize and "stop" in params:
        pytest.skip("stop strings need text")
    add(engine, "a", "10 11 12 ", detokenize=detokenize, **params)
    output = drain(engine)["a"]
    if text is None:
        assert output.error is not None
        assert (output.error.code, output.error.param) == ("grammar_error", "structured_outputs")
    else:
        (choice,) = output.outputs
        assert (choice.finish_reason, choice.text) == ("stop", text if detokenize else "")


def test_a_stop_string_where_the_text_is_complete_is_none_of_that(engine: Engine) -> None:
    add(engine, "a", {"regex": "10 (11 )?(12 )?"}, stop=["12"], allowed_token_ids=[10, 11, 12])
    (choice,) = drain(engine)["a"].outputs
    assert choice.finish_reason == "stop"
    assert choice.text in ("10 ", "10 11 ")


# -- large grammars ------------------------------------------------------------------------------------------------------
def test_only_so_much_of_grammars_runs_at_a_time(engine: Engine) -> None:
    sizes = [engine._limits.grammars.compile(StructuredOutputsParams(choice=[f"{i} "])).source.size for i in range(10, 14)]  # type: ignore[union-attr]
    engine._constrained._most = 2 * max(sizes)
    for i in range(10, 14):
        add(engine, str(i), f"{i} ", n=2)
    add(engine, "again", "12 ")
    add(engine, "plain", None, max_tokens=1)
    assert engine._constrained.num_held == 5, "two requests of two, and one"
    assert engine.num_waiting == 5 + len(engine.scheduler.waiting)
    engine.abort("13")
    assert engine._constrained.num_held == 3
    got = drain(engine)
    assert {name: output.outputs[0].text for name, output in got.items() if name != "plain"} == {
        "10": "10 ",
        "11": "11 ",
        "12": "12 ",
        "again": "12 ",
    }


def test_one_that_is_too_large_runs_alone(engine: Engine) -> None:
    engine._constrained._most = 1
    for i in range(10, 13):
        add(engine, str(i), f"{i} ")
    assert engine._constrained.num_held == 2
    assert [output.outputs[0].text for output in drain(engine).values()] == ["10 ", "11 ", "12 "]


@pytest.mark.parametrize("kind", ["plain", "beams", "dropped"])
def test_a_grammar_that_is_lost_on_the_way_fails_its_request_alone(make_engine: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """There is no memory to compile it once more."""
    engine = make_engine(tokenizer=words(), max_num_batched_tokens=8, max_num_seqs=8)  # the prompt takes more than a step
    asked = SamplingParams(max_tokens=4, structured_outputs=StructuredOutputsParams(choice=["10 11 "]))
    engine.add(Request("a", [3] * 12, asked, 0, beam=BeamSearchParams(2, max_tokens=4) if kind == "beams" else None))
    add(engine, "b", "20 21 ")
    compile_ = engine._constrained._grammars.compile

    def short_of_memory(spec: StructuredOutputsParams) -> CompiledGrammar:
        if spec == asked.structured_outputs:
            raise MemoryError
        return compile_(spec)

    monkeypatch.setattr(engine._constrained._grammars, "compile", short_of_memory)
    if kind == "dropped":
        engine.step()
        engine.abort("a")
    outputs = drain(engine)
    assert outputs["b"].outputs[0].text == "20 21 "
    if kind != "dropped":
        assert outputs["a"].error is not None
        assert outputs["a"].error.code == "internal"
