"""The Python class: vLLM's arguments, prompts of every form, errors, conversations, streams."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infer.core import (
    LLM,
    BeamSearchParams,
    ConfigError,
    PromptAdapterRequest,
    RecordError,
    RequestOutput,
    SamplingParams,
    StructuredOutputsParams,
    TextPrompt,
    TokensPrompt,
    UnknownArgument,
)

from ..seed import SEED

SETTINGS: dict[str, Any] = {"dtype": "float32", "device": "cpu", "max_model_len": 128}
GREEDY = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
SEEDED = SamplingParams(seed=7, max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tiny_llama: Path) -> LLM:
    return LLM(str(tiny_llama), **SETTINGS)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "llm" in request.fixturenames:
        llm = request.getfixturevalue("llm")
        assert llm.engine.num_unfinished == 0
        assert llm._shared._answers == {}
        assert llm._shared._expected == set()


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [choice.token_ids for output in outputs for choice in output.outputs]


# -- construction ------------------------------------------------------------------------------------------------------
def test_the_signatures_are_the_seeds() -> None:
    seed = {**SEED, "enforce_eager": None}
    parameters = list(inspect.signature(LLM).parameters.values())
    assert [(p.name, p.default) for p in parameters[1:-1]] == list(seed.items())
    assert (parameters[0].name, parameters[-1].kind) == ("model", inspect.Parameter.VAR_KEYWORD)

    def names(method: Any) -> list[str]:
        return [p.name for p in inspect.signature(method).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]

    adapters = ["use_tqdm", "lora_request", "prompt_adapter_request"]
    assert names(LLM.generate) == ["prompts", "sampling_params", "prompt_token_ids", *adapters, "priority"]
    assert names(LLM.encode) == ["prompts", "pooling_params", "prompt_token_ids", *adapters]
    chat = ["messages", "sampling_params", "use_tqdm", "lora_request", "chat_template", "add_generation_prompt", "continue_final_message"]
    assert names(LLM.chat) == [*chat, "tools", "mm_processor_kwargs"]
    assert names(LLM.beam_search)[:2] == ["prompts", "params"]
    assert (LLM.DEPRECATE_LEGACY, LLM.DEPRECATE_INIT_POSARGS) == (False, True)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"max_num_seq": 3}, UnknownArgument, "unknown argument 'max_num_seq'; did you mean 'max_num_seqs'"),
        ({"max_num_seq": 3}, TypeError, "unknown argument"),
        ({"max_num_seq": 3}, ConfigError, "unknown argument"),
        ({"max_context_len_to_capture": 8}, ValueError, "use max_seq_len_to_capture"),
        ({"tokenizer_mode": "quick"}, ValueError, "tokenizer_mode must be one of"),
        ({"dtype": "int3"}, ValueError, "dtype must be one of"),
        ({"quantization": "gptq_marlin"}, ConfigError, "quantization=gptq_marlin is not supported yet"),
        ({"quantization": "awq"}, ConfigError, "quantization=awq: the weights of .* are not quantized so"),
        ({"tensor_parallel_size": 3}, ConfigError, "tensor_parallel_size=3: .* sizes that work: 1, 2, 4"),
        ({"disable_sliding_window": True}, ConfigError, "disable_sliding_window=True is not supported yet"),
        ({"generation_config": "/nowhere"}, ConfigError, "cannot be read"),
        ({"override_generation_config": {"top_p": 2}}, ConfigError, "top_p must be"),
    ],
)
def test_wrong_arguments(tiny_llama: Path, kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LLM(str(tiny_llama), **{**SETTINGS, **kwargs})


def test_positional_arguments_work_and_warn(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(DeprecationWarning, match="give tokenizer, tokenizer_mode by name"):
        llm = LLM(str(tiny_llama), str(tiny_llama), "auto", **SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        LLM(str(tiny_llama), disable_log_stats=False, enforce_eager=True, **SETTINGS)
        monkeypatch.setattr(LLM, "DEPRECATE_INIT_POSARGS", False)
        LLM(str(tiny_llama), None, "auto", **SETTINGS)
    assert llm.generate("a", GREEDY, use_tqdm=False)


def test_importing_is_light_and_the_threads_are_set_up_first(tiny_llama: Path) -> None:
    code = f"""
import sys
from infer.core import LLM, SamplingParams
print("torch" in sys.modules)
llm = LLM({str(tiny_llama)!r}, dtype="float32", device="cpu", max_model_len=64)
import os
print("torch" in sys.modules, "transformers" in sys.modules, os.environ.get("GOMP_SPINCOUNT"))
"""
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env=env)
    assert result.stdout.split("\n")[:2] == ["False", "True False 3000"]


# -- generate ----------------------------------------------------------------------------------------------------------
def test_every_form_of_prompt_gives_the_same(llm: LLM) -> None:
    ids = llm.tokenizer.encode("hello")
    forms: list[Any] = ["hello", ids, {"prompt": "hello"}, {"prompt_token_ids": ids}, TextPrompt(prompt="hello")]
    forms.append(TokensPrompt(prompt_token_ids=ids, prompt="shown"))
    outputs = llm.generate(forms, GREEDY, use_tqdm=False)
    assert len({tuple(o.outputs[0].token_ids) for o in outputs}) == 1
    assert [o.prompt for o in outputs] == ["hello", None, "hello", None, "hello", "shown"]
    assert all(o.prompt_token_ids == ids and o.finished for o in outputs)
    for single in ("hello", ids, {"prompt": "hello"}):
        assert llm.generate(single, GREEDY, use_tqdm=False)[0].outputs == outputs[0].outputs
    for legacy in (ids, [ids]):
        assert llm.generate(prompt_token_ids=legacy, sampling_params=GREEDY, use_tqdm=False)[0].outputs == outputs[0].outputs
    assert llm.generate(["hello"], GREEDY, [[5]], False)[0].outputs == outputs[0].outputs  # vLLM's former positions


def test_the_legacy_argument_warns_when_asked_to(llm: LLM) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm.generate(None, GREEDY, [5], use_tqdm=False)
    with LLM.deprecate_legacy_api():
        with pytest.warns(DeprecationWarning, match="prompt_token_ids"):
            llm.generate(None, GREEDY, [5], use_tqdm=False)
        assert LLM.DEPRECATE_LEGACY
    assert not LLM.DEPRECATE_LEGACY


def test_parameters_pair_with_prompts(llm: LLM) -> None:
    outputs = llm.generate(
        ["a", "b"], [SamplingParams(max_tokens=2, ignore_eos=True), SamplingParams(max_tokens=5, n=2, ignore_eos=True)], use_tqdm=False
    )
    assert [[len(c.token_ids) for c in o.outputs] for o in outputs] == [[2], [5, 5]]
    assert len(llm.generate(["a"], use_tqdm=False)[0].outputs[0].token_ids) <= 16
    assert llm.generate([], use_tqdm=False) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling_params": [SamplingParams()] * 3}, "2 prompts and 3 sampling_params"),
        ({"sampling_params": []}, "2 prompts and 0 sampling_params"),
        ({"sampling_params": {"max_tokens": 3, "n_tokens": 1}}, "SamplingParams has no 'n_tokens'"),
        ({"sampling_params": [3] * 2}, "must be SamplingParams or a dict, one or a list, not int"),
        ({"sampling_params": BeamSearchParams(2, 3)}, "sampling_params must be a list, not BeamSearchParams"),
        ({"prompts": None}, "either prompts or prompt_token_ids"),
        ({"prompt_token_ids": [[1]]}, "2 prompts and 1 prompt_token_ids"),
        ({"lora_request": object()}, "lora_request must be LoRARequest or None, one or a list, not object"),
        ({"lora_request": [None]}, "2 prompts and 1 lora_request"),
        ({"prompt_adapter_request": object()}, "must be a PromptAdapterRequest, one or a list, not object"),
        ({"prompt_adapter_request": PromptAdapterRequest("a", 1, "a")}, "prompt_adapter_request needs LLM"),
        ({"prompt_adapter_request": [None]}, "2 prompts and 1 prompt_adapter_request"),
        ({"priority": [0, 1]}, "scheduling_policy"),
        ({"priority": [0]}, "2 prompts and 1 priorities"),
        ({"priority": [0, "1"]}, "priority must be a list of integers"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'return', not 'ignore'"),
    ],
)
def test_wrong_arguments_of_generate(llm: LLM, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        llm.generate(**{"prompts": ["a", "b"], "use_tqdm": False, **arguments})
    assert isinstance(caught.value, ValueError)


def test_adapters_that_are_none_are_fine(llm: LLM) -> None:
    assert len(llm.generate(["a", "b"], GREEDY, lora_request=[None, None], priority=[0, 0], use_tqdm=False)) == 2


def test_parameters_are_copied_and_checked_again(llm: LLM) -> None:
    params = SamplingParams(seed=1, max_tokens=3, ignore_eos=True)
    asked: list[Any] = []
    add = llm.engine.add

    def spy(request: Any) -> None:
        asked.append(request.params)
        params.max_tokens = 1  # too late
        add(request)

    llm.engine.add = spy  # type: ignore[method-assign]
    try:
        outputs = llm.generate(["a", "b", "c"], [params, params, SEEDED], use_tqdm=False)
    finally:
        del llm.engine.add
    assert [len(t) for t in tokens(outputs)] == [3, 3, 6]
    assert asked[0] is asked[1]
    assert asked[0] is not params
    params.max_tokens = 0
    with pytest.raises(RecordError, match="max_tokens must be at least 1"):
        llm.generate("a", params, use_tqdm=False)


def test_the_index_counts_all_requests_ever_given(llm: LLM) -> None:
    first, second = (llm.generate(["a"], SamplingParams(max_tokens=8), use_tqdm=False)[0] for _ in range(2))
    assert first.outputs[0].token_ids != second.outputs[0].token_ids
    assert int(second.request_id) == int(first.request_id) + 1


def test_choice_i_draws_as_seed_plus_i(llm: LLM) -> None:
    three = llm.generate("hello", SamplingParams(n=3, seed=20, max_tokens=8, ignore_eos=True), use_tqdm=False)[0]
    alone = [llm.generate("hello", SamplingParams(seed=20 + i, max_tokens=8, ignore_eos=True), use_tqdm=False) for i in range(3)]
    assert tokens([three]) == [choice for outputs in alone for choice in tokens(outputs)]
    assert len({tuple(t) for t in tokens([three])}) == 3
    assert [choice.index for choice in three.outputs] == [0, 1, 2]


def test_prompts_are_cut_where_that_is_asked_for(llm: LLM) -> None:
    ids = list(range(3, 203))
    params = [SamplingParams(truncate_prompt_tokens=4, max_tokens=1), SamplingParams(truncate_prompt_tokens=-1, truncation_side="right")]
    first, second = llm.generate([ids, ids], params, use_tqdm=False)
    assert first.prompt_token_ids == ids[-4:]
    assert second.prompt_token_ids == ids[:127]
    assert len(second.outputs[0].token_ids) == 1


BAD: list[Any] = [
    "x" * 500,
    [99999],
    {"text": "a"},
    [[1, 2]],
    {"prompt": 5},
    "",
    "\ud800",
    {"prompt": "x", "multi_modal_data": {"image": 1}},
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_bad_prompt_raises_or_comes_back(llm: LLM, bad: Any) -> None:
    with pytest.raises(RecordError) as raised:
        llm.generate(["good", bad, "good"], SEEDED, use_tqdm=False)
    assert llm.engine.num_unfinished == 0
    good, failed, last = llm.generate(["good", bad, "good"], SEEDED, use_tqdm=False, on_error="return")
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == (raised.value.code, raised.value.message)
    assert (failed.outputs, failed.finished, int(failed.request_id)) == ([], True, int(good.request_id) + 1)
    assert good.error is None
    assert tokens([good]) == tokens([last]) == tokens(llm.generate("good", SEEDED, use_tqdm=False))


def changed(**values: Any) -> SamplingParams:
    """Parameters that were right when they were made."""
    params = replace(SEEDED)
    for name, value in values.items():
        setattr(params, name, value)
    return params


class Raising:
    """A prompt that is wrong in a way nobody thought of."""

    def __iter__(self) -> Any:
        raise ZeroDivisionError


WRONG: list[tuple[Any, SamplingParams, str]] = [
    ("a", changed(temperature=-1), "invalid_value"),
    ("a", changed(temperature=float("nan")), "invalid_value"),
    ("a", changed(n="2"), "invalid_type"),
    ("a", changed(seed=2**200), "invalid_value"),
    ("a", changed(logit_bias={2**70: 1}), "invalid_value"),
    ("a", changed(bad_words=["x" * i for i in range(1, 200)]), "invalid_value"),
    ([10**30], SEEDED, "invalid_value"),
    ([-(10**30)], SEEDED, "invalid_value"),
    ([1.0], SEEDED, "invalid_type"),
    ([True], SEEDED, "invalid_type"),
    (Raising(), SEEDED, "internal"),
    ({"prompt_token_ids": Raising()}, SEEDED, "internal"),
]


@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.parametrize("count", [1, 2])
def test_what_is_wrong_with_one_prompt_or_its_parameters_comes_back_as_its_error(llm: LLM, tiny_llama: Path, count: int) -> None:
    engine = llm if count == 1 else LLM(str(tiny_llama), **SETTINGS, data_parallel_size=2)
    prompts = [prompt for wrong, _, _ in WRONG for prompt in (wrong, "good")]
    params = [p for _, wrong, _ in WRONG for p in (wrong, SEEDED)]
    outputs = engine.generate(prompts, params, use_tqdm=False, on_error="return")
    assert [output.error and output.error.code for output in outputs[::2]] == [code for _, _, code in WRONG]
    streamed = {int(o.request_id): o for o in engine.stream(iter(prompts), iter(params), on_error="return")}
    assert [output.error and output.error.code for _, output in sorted(streamed.items())][::2] == [code for _, _, code in WRONG]
    expected = tokens(llm.generate("good", SEEDED, use_tqdm=False))
    assert all(tokens([good]) == expected for good in outputs[1::2])
    for prompt, wrong, code in WRONG:
        with pytest.raises(RecordError) as error:
            engine.generate([prompt, "good"], [wrong, SEEDED], use_tqdm=False)
        assert error.value.code == code
    assert engine.engine.num_unfinished == 0


@pytest.mark.parametrize("bad", [[10**30], [-1], Raising(), "x" * 500])
def test_a_search_for_what_is_no_prompt_comes_back_too(llm: LLM, bad: Any) -> None:
    good, failed = llm.beam_search([{"prompt_token_ids": [3, 4]}, {"prompt_token_ids": bad}], BeamSearchParams(2, 3), on_error="return")
    assert failed.error is not None
    assert (len(good.sequences), failed.sequences) == (2, [])
    params = BeamSearchParams(2, 3)
    params.length_penalty = 1e308
    (failed,) = llm.beam_search("a", params, on_error="return")
    assert failed.error is not None
    assert failed.error.param == "length_penalty"


def test_a_record_that_fails_on_the_way(llm: LLM) -> None:
    step = llm.engine.step
    failing: list[str] = []

    def broken() -> list[RequestOutput]:
        outputs = step()
        for output in outputs:
            if output.prompt == "b":
                output.error, output.outputs = RecordError("non_finite_logits", "not finite"), []
                failing.append(output.request_id)
        return outputs

    llm.engine.step = broken  # type: ignore[method-assign]
    try:
        with pytest.raises(RecordError, match="not finite"):
            llm.generate(["a", "b", "c"], [SEEDED, SamplingParams(max_tokens=1), SEEDED], use_tqdm=False)
        assert llm.engine.num_unfinished == 0
        outputs = llm.generate(["a", "b", "c"], SEEDED, use_tqdm=False, on_error="return")
    finally:
        del llm.engine.step
    assert [o.error is not None for o in outputs] == [False, True, False]
    assert len(failing) == 2


def test_an_interrupt_leaves_nothing_behind(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> list[RequestOutput]:
        raise KeyboardInterrupt

    monkeypatch.setattr(llm.engine, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a", "b"], SEEDED, use_tqdm=False)


def test_progress(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[Any] = []

    class FakeBar:
        def __init__(self, **kwargs: Any) -> None:
            self.kwargs, self.n, self.closed, self.postfix = kwargs, 0, False, ""
            made.append(self)

        def update(self, n: int) -> None:
            self.n += n

        def close(self) -> None:
            self.closed = True

    llm.generate(["a", "b", "x" * 500], SEEDED, use_tqdm=FakeBar, on_error="return")
    (bar,) = made
    assert (bar.kwargs["total"], bar.kwargs["desc"], bar.n, bar.closed) == (3, "Processed prompts", 3, True)
    assert bar.postfix.startswith("est. speed input: ")
    assert capsys.readouterr().err == ""
    llm.generate(["a"], SEEDED)
    shown = capsys.readouterr().err
    assert "Processed prompts" in shown
    assert "est. speed input: " in shown  # what follows may be more than the terminal's width
    with pytest.raises(RecordError):
        llm.generate(["x" * 500], SEEDED, use_tqdm=FakeBar)
    llm.generate(["a"], SEEDED, use_tqdm=False)
    assert capsys.readouterr().err == ""


# -- defaults ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def opinionated(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a generation_config.json that says how to sample."""
    folder = tmp_path_factory.mktemp("models") / "opinionated"
    shutil.copytree(tiny_llama, folder)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.25, "top_k": 3, "max_new_tokens": 4, "eos_token_id": 2}))
    return folder


@pytest.mark.parametrize(
    ("settings", "temperature", "top_k", "max_tokens"),
    [
        ({}, 0.25, 3, 4),
        ({"generation_config": "none"}, 1.0, -1, 16),
        ({"override_generation_config": {"top_k": 9}}, 0.25, 9, 4),
        ({"generation_config": "vllm", "override_generation_config": {"temperature": 0.0}}, 0.0, -1, 16),
    ],
)
def test_defaults(
    opinionated: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], temperature: float, top_k: int, max_tokens: int
) -> None:
    with caplog.at_level("INFO", logger="infer"):
        llm = LLM(str(opinionated), **SETTINGS, **settings)
    assert ("sampling defaults of" in caplog.text) == (settings != {"generation_config": "none"})
    default = llm.get_default_sampling_params()
    assert (default.temperature, default.top_k, default.max_tokens) == (temperature, top_k, max_tokens)
    default.max_tokens = 1  # the caller's own copy
    (output,) = llm.generate("hello", use_tqdm=False)
    assert len(output.outputs[0].token_ids) <= max_tokens
    (given,) = llm.generate("hello", SamplingParams(ignore_eos=True), use_tqdm=False)
    assert len(given.outputs[0].token_ids) == 16  # explicit parameters inherit nothing
    assert tokens(llm.chat([{"role": "user", "content": "hello"}], use_tqdm=False))[0] is not None


def test_settings_of_structured_output_hold_for_every_prompt(tiny_llama: Path, llm: LLM) -> None:
    strict = LLM(str(tiny_llama), structured_outputs_config={"disable_any_whitespace": True}, **SETTINGS)
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    params = [SamplingParams(seed=i, max_tokens=40, structured_outputs=StructuredOutputsParams(json=schema)) for i in range(8)]
    written = [{o.outputs[0].text for o in one.generate(["a"] * 8, params, use_tqdm=False)} for one in (llm, strict)]
    assert written[1] <= {'{"a": true}', '{"a": false}'}
    assert not written[0] <= written[1]  # where whitespace is free it is drawn
    with pytest.raises(RecordError) as caught:
        llm.generate("a", SamplingParams(structured_outputs=StructuredOutputsParams(regex="(")), use_tqdm=False)
    assert caught.value.code == "grammar_error"
    assert llm.engine.num_unfinished == 0


def test_priority_changes_no_answer(tiny_llama: Path, llm: LLM) -> None:
    first = LLM(str(tiny_llama), scheduling_policy="priority", max_num_seqs=1, **SETTINGS)
    outputs = first.generate(["a", "b", "c"], SEEDED, priority=[3, 1, 2], use_tqdm=False)
    assert tokens(outputs) == tokens(llm.generate(["a", "b", "c"], SEEDED, use_tqdm=False))


def test_without_a_tokenizer(tiny_llama: Path, llm: LLM) -> None:
    bare = LLM(str(tiny_llama), skip_tokenizer_init=True, **SETTINGS)
    ids = llm.tokenizer.encode("hello")
    (output,) = bare.generate([ids], GREEDY, use_tqdm=False)
    assert tokens([output]) == tokens(llm.generate("hello", GREEDY, use_tqdm=False))
    assert output.outputs[0].text == ""
    assert bare.tokenizer is None
    for prompt, params in (("hello", {}), (ids, {"stop": "x"}), (ids, {"bad_words": ["x"]}), (ids, {"structured_outputs": {"regex": "a"}})):
        with pytest.raises(RecordError, match="skip_tokenizer_init"):
            bare.generate(prompt, SamplingParams(**params), use_tqdm=False)  # type: ignore[arg-type]
    for call in (bare.get_tokenizer, lambda: bare.chat([{"role": "user", "content": "x"}])):
        with pytest.raises(ConfigError, match="skip_tokenizer_init"):
            call()


def test_the_tokenizer_of_transformers(llm: LLM) -> None:
    theirs = llm.get_tokenizer()
    assert theirs.encode("hello") == llm.tokenizer.encode("hello")
    messages = [{"role": "user", "content": "hello"}]
    prompt = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert llm.chat(messages, GREEDY, use_tqdm=False)[0].prompt == prompt


# -- chat --------------------------------------------------------------------------------------------------------------
HELLO = [{"role": "user", "content": "hello"}]
START = "<|im_start|>assistant\n"


def test_chat_is_generate_on_the_rendered_conversation(llm: LLM) -> None:
    other = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "bye"}]
    outputs = llm.chat([HELLO, other], SEEDED, use_tqdm=False)
    prompts = [
        f"<|im_start|>user\nhello<|im_end|>\n{START}",
        f"<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n{START}",
    ]
    assert [o.prompt for o in outputs] == prompts
    assert tokens(outputs) == tokens(llm.generate(prompts, SEEDED, use_tqdm=False))
    for one in (HELLO, [HELLO], tuple(HELLO)):
        assert tokens(llm.chat(one, SEEDED, use_tqdm=False)) == tokens(outputs[:1])
    assert llm.chat([], use_tqdm=False) == []
    pair = [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2, ignore_eos=True)]
    assert [len(t) for t in tokens(llm.chat([HELLO, other], pair, use_tqdm=False))] == [1, 2]


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({"add_generation_prompt": False}, "<|im_start|>user\nhello<|im_end|>\n"),
        ({"add_generation_prompt": False, "continue_final_message": True}, "<|im_start|>user\nhello"),
        ({"chat_template": "{{ messages[0].content }}{{ tools | length if tools else 0 }}", "tools": [{"type": "function"}]}, "hello1"),
        ({"chat_template": "{{ mood }}:{{ messages[0].content }}", "chat_template_kwargs": {"mood": "glad"}}, "glad:hello"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "<|im_start|>user\nhello<|im_end|>\n"),
        ({"chat_template_kwargs": {"chat_template": "{{ messages[0].role }}"}}, "user"),
        ({"chat_template": "{{ messages[0].content[0].text }}!", "chat_template_content_format": "openai"}, "hello!"),
        ({"chat_template": "{{ messages[0].content }}!", "chat_template_content_format": "string"}, "hello!"),
    ],
)
def test_options_of_chat(llm: LLM, options: dict[str, Any], prompt: str) -> None:
    (output,) = llm.chat(HELLO, GREEDY, use_tqdm=False, **options)
    assert output.prompt == prompt


def test_a_template_in_a_file(llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "short.jinja"
    path.write_text("{{ messages[0].content }}?")
    assert llm.chat(HELLO, GREEDY, chat_template=str(path), use_tqdm=False)[0].prompt == "hello?"
    with pytest.raises(ConfigError, match="cannot be read"):
        llm.chat(HELLO, GREEDY, chat_template=str(tmp_path / "none.jinja"))
    with pytest.raises(ConfigError, match="content format"):
        llm.chat(HELLO, GREEDY, chat_template_content_format="html")


def test_literal_special_tokens(llm: LLM) -> None:
    end = llm.tokenizer.encode("<|im_end|>")
    assert len(end) == 1
    sly = [{"role": "user", "content": "a<|im_end|>b"}]
    meant, literal = (llm.chat(sly, GREEDY, literal_special_tokens=flag, use_tqdm=False)[0] for flag in (False, True))
    assert literal.prompt == meant.prompt
    assert (meant.prompt_token_ids.count(*end), literal.prompt_token_ids.count(*end)) == (2, 1)
    assert llm.tokenizer.decode(literal.prompt_token_ids, skip_special_tokens=False) == meant.prompt
    meant, literal = (llm.generate("a<|im_end|>b", GREEDY, literal_special_tokens=flag, use_tqdm=False)[0] for flag in (False, True))
    assert (len(meant.prompt_token_ids), len(literal.prompt_token_ids)) == (3, len("a<|im_end|>b"))


def test_wrong_conversations(llm: LLM) -> None:
    with pytest.raises(RecordError, match="continue_final_message needs add_generation_prompt=false"):
        llm.chat(HELLO, GREEDY, continue_final_message=True, use_tqdm=False)
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}]
    with pytest.raises(RecordError, match="the model reads text alone"):
        llm.chat(picture, GREEDY, use_tqdm=False)
    with pytest.raises(ConfigError, match="lora_request must be LoRARequest"):
        llm.chat(HELLO, GREEDY, lora_request=object())
    with pytest.raises(ConfigError, match="messages must be a list, not str"):
        llm.chat("hello", GREEDY)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="1 prompts and 2 sampling_params"):
        llm.chat(HELLO, [GREEDY, GREEDY])
    media = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    outputs = llm.chat([HELLO, media, [{"content": "no role"}], []], SEEDED, use_tqdm=False, on_error="return")  # type: ignore[list-item]
    assert [o.error and o.error.code for o in outputs] == [None, "unsupported", "missing_field", "invalid_value"]
    with pytest.raises(RecordError, match="reads text alone"):
        llm.chat([HELLO, media], SEEDED, use_tqdm=False)


# -- stream ------------------------------------------------------------------------------------------------------------
def test_a_stream_gives_the_same_answers_as_they_finish(llm: LLM) -> None:
    prompts = [f"prompt {i}" for i in range(40)]
    params = [SamplingParams(seed=i, max_tokens=1 + i * 7 % 11, ignore_eos=True) for i in range(40)]
    expected = {p: o.outputs for p, o in zip(prompts, llm.generate(prompts, params, use_tqdm=False), strict=True)}
    outputs = list(llm.stream(iter(prompts), iter(params)))
    assert {o.prompt: o.outputs for o in outputs} == expected
    order = [int(o.request_id) for o in outputs]
    assert sorted(order) == list(range(min(order), min(order) + 40))
    assert order != sorted(order)  # short ones first


def test_a_stream_reads_no_further_than_it_must(llm: LLM) -> None:
    read = 0

    def prompts() -> Iterator[str]:
        nonlocal read
        for i in range(1000):
            read += 1
            yield f"{i}"

    given = 0
    for given, _ in enumerate(llm.stream(prompts(), SEEDED, look_ahead=5), start=1):
        assert read <= given + 5
        if given == 20:
            break
    assert given == 20


def test_closing_a_stream_drops_the_rest(llm: LLM) -> None:
    lengths = (SamplingParams(max_tokens=1 + i, ignore_eos=True) for i in range(50))
    stream = llm.stream(("a" for _ in range(50)), lengths)
    next(stream)
    assert llm.engine.num_unfinished > 0
    stream.close()  # type: ignore[attr-defined]


def test_calls_while_a_stream_is_open(llm: LLM) -> None:
    alone = tokens(llm.generate(["one", "two"], SEEDED, use_tqdm=False))
    stream = llm.stream((f"{i}" for i in range(30)), SEEDED, look_ahead=8)
    got = [next(stream)]
    assert tokens(llm.generate(["one", "two"], SEEDED, use_tqdm=False)) == alone
    with pytest.raises(RecordError):
        llm.generate(["one", [99999]], SEEDED, use_tqdm=False)
    got += stream
    assert sorted(str(o.prompt) for o in got) == sorted(str(i) for i in range(30))
    assert tokens([next(o for o in got if o.prompt == "3")]) == tokens(llm.generate(["3"], SEEDED, use_tqdm=False))


def test_errors_in_a_stream(llm: LLM) -> None:
    prompts: list[Any] = ["a", [99999], {"promt": "b"}, "c"]
    outputs = {int(o.request_id): o for o in llm.stream(prompts, SEEDED, on_error="return")}
    codes = [outputs[i].error and outputs[i].error.code for i in sorted(outputs)]
    assert codes == [None, "invalid_value", "invalid_value", None]
    with pytest.raises(RecordError):
        list(llm.stream(prompts, SEEDED))
    for wrong in ([SEEDED], [SEEDED] * 5):
        with pytest.raises(ConfigError, match="as many prompts as sampling_params"):
            list(llm.stream(["a", "b"], wrong))
    for at_once in ({"look_ahead": 0}, {"on_error": "x"}, {"sampling_params": 5}):
        with pytest.raises(ConfigError):
            llm.stream(["a"], **at_once)  # type: ignore[arg-type]
    assert list(llm.stream([])) == []
    assert [o.prompt for o in llm.stream("just one", SEEDED)] == ["just one"]


def test_a_stream_copies_parameters_when_they_change(llm: LLM) -> None:
    params = SamplingParams(max_tokens=1, ignore_eos=True)

    def changing() -> Iterator[SamplingParams]:
        for length in (1, 2, 2, 3):
            params.max_tokens = length
            yield params

    outputs = sorted(llm.stream(["a"] * 4, changing()), key=lambda o: int(o.request_id))
    assert [len(t) for t in tokens(outputs)] == [1, 2, 2, 3]
