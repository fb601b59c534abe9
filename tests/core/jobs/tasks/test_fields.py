"""Fields of a record that set sampling parameters."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.jobs.jsonl import dumps
from infer.core.jobs.record import Record
from infer.core.jobs.tasks import ChatTask, CompletionOptions, GenerateTask, refused
from infer.core.jobs.tasks import fields as known
from infer.core.jobs.tasks.beam import BEAM_FIELDS
from infer.core.jobs.tasks.classify.classifier import ClassifierTask
from infer.core.jobs.tasks.classify.labels import LabelTask
from infer.core.jobs.tasks.embed import EmbedTask
from infer.core.jobs.tasks.fields import GUESSABLE, NEUTRAL, intended, is_neutral
from infer.core.jobs.tasks.score import ScoreTask
from infer.core.jobs.tasks.token_score import TokenScoreTask
from infer.core.jobs.tasks.transcribe.task import TranscribeTask
from infer.core.text.chat import ChatTemplate
from infer.core.text.templates.template import RecordTemplate

KNOWN = GUESSABLE | {"prompt", "messages"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_token", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("top-p", "top_p"),
        ("topk", "top_k"),
        ("stops", "stop"),
        ("logprob", "logprobs"),
        ("frequency_penality", "frequency_penalty"),
        ("respons_format", "response_format"),
        ("message", "messages"),
        ("bestof", "best_of"),
        ("logitbias", "logit_bias"),
        ("badwords", "bad_words"),
        ("structured_output", "structured_outputs"),
        ("max_output_tokens", "max_tokens"),
        ("n_predict", "max_tokens"),
        ("stop_sequences", "stop"),
        ("stopStrings", "stop"),
        ("json_schema", "structured_outputs"),
        ("do_sample", "temperature"),
        ("guidedJson", "guided_json"),
        ("prompt_logprob", "prompt_logprobs"),
        ("allowed_tokens_ids", "allowed_token_ids"),
        ("adapter", "lora"),
        ("adapter_id", "lora"),
        ("LoRA", "lora"),
        ("loraName", "lora_name"),
        ("prompt_adaptor", "prompt_adapter"),
    ],
)
def test_misspellings(name: str, meant: str) -> None:
    assert intended(name, KNOWN) == meant


# fmt: off
COLUMNS = [
    "topic", "category", "source", "question", "answer", "context", "prompt_id", "label", "N", "K", "tags", "note",
    "text", "step", "name", "document", "metadata", "title", "url", "split", "model_id", "min_k", "score", "image",
    "reference", "priority_class", "echoes", "choices", "regexes", "schema", "format", "truncated", "best",
    "flora", "local_name", "loan_name",
]
# fmt: on


@pytest.mark.parametrize("name", COLUMNS)
def test_ordinary_columns_are_no_misspellings(name: str) -> None:
    assert intended(name, KNOWN) is None


def test_neutral_values_ask_for_nothing(task: Any, prepare: Any) -> None:
    asked = {name: values[0] for name, values in NEUTRAL.items() if values}
    for fields in (asked, dict.fromkeys(NEUTRAL), {"user": "u", "model": "m", "stream_options": {"include_usage": True}}):
        pending = prepare(task(), prompt="a", **fields)
        assert pending.extra == {}
        assert pending.params == task().options.defaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stream", True),
        ("suffix", "x"),
        ("chat_template", "{{ x }}"),
        ("logits_processors", ["x"]),
        ("output_kind", 2),
        ("use_beam_search", True),
        ("functions", [{}]),
        ("parallel_tool_calls", False),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(task: Any, code_of: Any, name: str, value: Any) -> None:
    assert code_of(task(), prompt="a", **{name: value}) == ("unsupported", name)
    assert not is_neutral(name, value)


ASKING: dict[str, Any] = {
    "prompt_embeds": "AAAA",
    "multi_modal_data": {"image": "x"},
    "multi_modal_uuids": {"image": ["x"]},
    "mm_processor_kwargs": {"num_crops": 4},
    "media_io_kwargs": {"video": {"num_frames": 4}},
    "images": ["cat.png"],
    "image_url": {"url": "http://x"},
    "audio": {"voice": "alloy", "format": "mp3"},
    "modalities": ["text", "audio"],
    "cache_salt": "x",
    "lora_request": {"lora_name": "a"},
    "prompt_adapter_request": {"prompt_adapter_id": 1},
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {"search_context_size": "low"},
    "verbosity": "low",
    "enable_thinking": False,
    "include_reasoning": False,
    "kv_transfer_params": {"a": 1},
    "vllm_xargs": {"a": 1},
    "return_tokens_as_token_ids": True,
    "token_type_ids": [0],
    "sampling_params": {"temperature": 0},
    "extra_body": {"top_k": 5},
    "options": {"temperature": 0},
    "parameters": {"max_tokens": 5, "details": True},
    "length_penalty": 2.0,
    "num_beams": 4,
    "beam_width": 4,
    "use_beam_search": True,
    "suffix": "x",
    "stream": True,
}
OF_CHAT: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "chat_template_kwargs": {"a": 1},
    "reasoning_effort": "low",
    "parallel_tool_calls": False,
    "continue_final_message": True,
    "add_generation_prompt": False,
}
NOT_ASKING: dict[str, Any] = {
    "images": [],
    "multi_modal_data": {},
    "modalities": ["text"],
    "length_penalty": 1.0,
    "prediction": "positive",
    "options": {"a": "yes", "b": "no"},
    "parameters": {"a": 1},
    "reasoning": "because",
    "verbosity": 3,
    "enable_thinking": None,
    "include_reasoning": True,
    "metadata": {"a": 1},
    "store": True,
    "service_tier": "flex",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "request_id": "r",
    "image": "cat.png",
}


class TestFieldsOfTheApis:
    @pytest.mark.parametrize("name", ASKING)
    def test_what_no_command_does_is_refused_by_name(self, task: Any, code_of: Any, name: str) -> None:
        asked = {name: ASKING[name]}
        assert code_of(task(), prompt="a", **asked) == ("unsupported", name)
        assert code_of(task("chat"), messages=[{"role": "user", "content": "a"}], **asked) == ("unsupported", name)
        batch = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a", **asked}}
        assert code_of(task(), **batch) == ("unsupported", name)

    @pytest.mark.parametrize("name", OF_CHAT)
    def test_what_chat_does_is_refused_elsewhere(self, task: Any, prepare: Any, code_of: Any, name: str) -> None:
        asked = {name: OF_CHAT[name]}
        assert code_of(task(), prompt="a", **asked) == ("unsupported", name)
        more = {"tools": OF_CHAT["tools"]} if name == "tool_choice" else {}
        more |= {"add_generation_prompt": False} if name == "continue_final_message" else {}
        prepare(task("chat"), messages=[{"role": "user", "content": "a"}], **{**asked, **more})

    def test_what_asks_for_nothing_travels_through(self, task: Any, prepare: Any) -> None:
        for t, fields in ((task(), {"prompt": "a"}), (task("chat"), {"messages": [{"role": "user", "content": "a"}]})):
            assert prepare(t, **fields, **NOT_ASKING).extra == NOT_ASKING

    def test_columns_that_a_template_reads(self, task: Any, prepare: Any) -> None:
        t = task(prompt_field="q")
        assert prepare(t, q="a", images=["x"], audio="y", tools=["z"]).extra == {"images": ["x"], "audio": "y", "tools": ["z"]}
        t = task("chat", template=RecordTemplate.load("{{ images[0] }} {{ documents[0] }}"))
        assert prepare(t, images=["x"], documents=["y"]).extra == {"images": ["x"], "documents": ["y"]}

    def test_documents_reach_the_chat_template(self, byte_tokenizer: Any, prepare: Any, code_of: Any) -> None:
        chat = ChatTemplate({"default": "{% for d in documents %}{{ d.text }}{% endfor %}"}, byte_tokenizer, origin="test")
        t = ChatTask(CompletionOptions(), byte_tokenizer, chat, max_model_len=256)
        asked = {"messages": [{"role": "user", "content": "a"}], "documents": [{"text": "xyz"}]}
        pending = prepare(t, **asked)
        assert (bytes(pending.prompt), pending.extra) == (b"xyz", {})
        assert code_of(t, **{**asked, "documents": ["xyz"]}) == ("invalid_type", "documents")


MISPLACED: dict[str, tuple[Any, str]] = {
    "choice": (["a", "b"], "inside structured_outputs"),
    "regex": ("[0-9]+", "inside structured_outputs"),
    "json": ({"type": "object"}, "inside structured_outputs"),
    "dimensions": (64, "to infer embed"),
    "top_n": (3, "to infer score"),
    "calibration_prompt": ("N/A", "to infer classify"),
    "no_speech_threshold": (0.6, "to infer transcribe"),
}
#: The same names as columns of a data set.
COLUMNS_OF_SUCH_NAMES = {"choice": "B", "json": {"a": 1}, "dimensions": "10x20", "normalize": "NFC", "top_n": None, "labels": ["a", "b"]}


class TestParametersInAWrongPlace:
    @pytest.mark.parametrize("name", MISPLACED)
    def test_they_are_told_of_once_or_refused(self, task: Any, prepare: Any, code_of: Any, name: str) -> None:
        value, place = MISPLACED[name]
        said: list[str] = []
        t = task(warn=said.append)
        for _ in range(2):
            assert prepare(t, prompt="a", **{name: value}).extra == {name: value}
        assert said == [f"field {name!r} is not a parameter and only travels through to `extra`; it belongs {place}"]
        assert code_of(task(strict=True), prompt="a", **{name: value}) == ("unknown_field", name)

    def test_columns_of_such_names_are_not(self, task: Any, prepare: Any) -> None:
        t = task(strict=True)
        assert prepare(t, prompt="a", **COLUMNS_OF_SUCH_NAMES).extra == COLUMNS_OF_SUCH_NAMES
        values = {name: value for name, (value, _) in MISPLACED.items()}
        assert prepare(task(strict=True, prompt_field="q"), q="a", **values).extra == values  # whoever names a column has columns

    def test_every_parameter_of_every_task_is_something_to_every_other(self) -> None:
        """Known, refused, told of, or a word that columns have."""
        everyday = {"labels", "language", "prompt_name", "timestamps", "truncate", "include", "scoring", "width"}
        somewhere = everyday | set(known._OF_COMMANDS) | set(refused._ELSEWHERE) | set(refused._NOWHERE)
        tasks = (GenerateTask, ChatTask, EmbedTask, ScoreTask, TokenScoreTask, LabelTask, ClassifierTask, TranscribeTask)
        for other in tasks:
            of_others = frozenset().union(BEAM_FIELDS, *(one.parameters for one in tasks))
            assert of_others - other.known_fields - other.of_writing <= somewhere, other


class TestPriority:
    def test_it_reaches_the_request(self, task: Any, prepare: Any) -> None:
        t = task(by_priority=True)
        assert prepare(t, prompt="a", priority=-3).to_request().priority == -3
        assert [prepare(t, prompt="a", **more).to_request().priority for more in ({}, {"priority": None}, {"priority": 0})] == [0, 0, 0]

    def test_without_the_policy_it_is_told_once(self, task: Any, prepare: Any) -> None:
        said: list[str] = []
        t = task(warn=said.append)
        for priority in (0, 1, 2):
            assert prepare(t, prompt="a", priority=priority).extra == {}
        assert said == ["priority has no effect without --scheduling-policy priority"]

    @pytest.mark.parametrize(
        ("value", "code"), [("high", "invalid_type"), (1.0, "invalid_type"), (True, "invalid_type"), (2**63, "invalid_value")]
    )
    def test_wrong(self, task: Any, code_of: Any, value: Any, code: str) -> None:
        assert code_of(task(by_priority=True), prompt="a", priority=value) == (code, "priority")


class TestAddSpecialTokens:
    def test_generate_adds_them_unless_told(self, task: Any, prepare: Any) -> None:
        assert prepare(task(), prompt="ab").prompt == [256, 97, 98]
        assert prepare(task(), prompt="ab", add_special_tokens=None).prompt == [256, 97, 98]
        assert prepare(task(), prompt="ab", add_special_tokens=False).prompt == [97, 98]
        assert prepare(task(), prompt=[97], add_special_tokens=True).prompt == [97]  # what is tokens already stays

    def test_chat_adds_none_unless_told(self, task: Any, prepare: Any) -> None:
        messages = [{"role": "user", "content": "a"}]
        plain = prepare(task("chat"), messages=messages).prompt
        assert 256 not in plain
        assert prepare(task("chat"), messages=messages, add_special_tokens=True).prompt == [256, *plain]

    def test_records_of_both_kinds_in_one_batch(self, task: Any) -> None:
        lines = [{"prompt": "a"}, {"prompt": "b", "add_special_tokens": False}, {"prompt": "c"}, {"prompt": 5}]
        prepared = task().prepare([Record.parse(i, i + 1, 1, dumps(line)) for i, line in enumerate(lines)])
        assert [p.prompt for p in prepared[:3]] == [[256, 97], [98], [256, 99]]
        assert prepared[3].error

    def test_wrong(self, task: Any, code_of: Any) -> None:
        assert code_of(task(), prompt="a", add_special_tokens="no") == ("invalid_type", "add_special_tokens")
