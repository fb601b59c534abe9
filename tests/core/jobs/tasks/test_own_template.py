"""Chat templates that records bring: used where that is trusted, and bounded like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.jobs.tasks import ChatTask, CompletionOptions
from infer.core.jobs.tasks.chat import ChatOptions

MESSAGES = [{"role": "user", "content": "hi"}]
OWN = "{{ bos_token }}[{{ messages[-1].content }}{{ mood }}]"


@pytest.fixture
def trusting(byte_tokenizer: Any, chatml: Any) -> Callable[..., ChatTask]:
    def make(*, trust: bool = True, **options: Any) -> ChatTask:
        chat = ChatOptions(trust_request_chat_template=trust)
        return ChatTask(CompletionOptions(**options), byte_tokenizer, chatml, max_model_len=256, chat_options=chat)

    return make


def prompt(prepare: Any, task: ChatTask, **fields: Any) -> str:
    return bytes(prepare(task, messages=MESSAGES, **fields).prompt).decode()


def error(prepare: Any, task: ChatTask, template: Any) -> RecordError:
    with pytest.raises(RecordError) as caught:
        prepare(task, messages=MESSAGES, chat_template=template)
    return caught.value


def test_a_record_has_its_own(trusting: Any, prepare: Any) -> None:
    task = trusting()
    assert prompt(prepare, task, chat_template=OWN) == "[hi]"
    assert prompt(prepare, task, chat_template=OWN, chat_template_kwargs={"mood": "!"}) == "[hi!]"
    assert prompt(prepare, task) == prompt(prepare, task, chat_template=None) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert prompt(prepare, trusting(system="be kind"), chat_template="{{ messages | length }}") == "2"
    assert prepare(task, messages=MESSAGES, chat_template=OWN).extra == {}


def test_without_trust_the_error_names_the_flag(trusting: Any, prepare: Any) -> None:
    told = error(prepare, trusting(trust=False), OWN)
    assert (told.code, told.param) == ("unsupported", "chat_template")
    assert "--trust-request-chat-template" in told.message
    assert prompt(prepare, trusting(trust=False), chat_template=None).startswith("<|im_start|>")


@pytest.mark.parametrize(
    ("template", "code"),
    [
        (5, "invalid_type"),
        ("chatml", "invalid_value"),
        ("{% if %}", "template_error"),
        ("{{ messages[0].content.foo.bar }}", "template_error"),
        ("{{ raise_exception('no') }}", "template_error"),
        ("{{ ''.__class__.__mro__ }}{{ cycler.__init__.__globals__ }}", "template_error"),
        ("{{ 'a' * 10**10 }}", "template_error"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "template_error"),
        ("{% include '/etc/passwd' %}", "template_error"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "template_error"),
    ],
)
def test_what_is_wrong_with_one_is_its_records_error(trusting: Any, prepare: Any, template: Any, code: str) -> None:
    task = trusting()
    told = error(prepare, task, template)
    assert (told.code, told.param) == (code, "chat_template")
    assert prompt(prepare, task, chat_template=OWN) == "[hi]"


def test_they_are_compiled_once_and_not_all_are_kept(trusting: Any, prepare: Any) -> None:
    task = trusting()
    for i in range(200):
        assert prompt(prepare, task, chat_template=OWN + str(i % 100)) == f"[hi]{i % 100}"
    assert task._own_template.cache_info().currsize < 100
    same = trusting()
    for _ in range(5):
        prompt(prepare, same, chat_template=OWN)
    assert same._own_template.cache_info().misses == 1


def test_what_messages_spell_is_text_there_too(tiny_llama: Any, prepare: Any) -> None:
    from infer.core.text.chat import ChatTemplate
    from infer.core.text.tokenizer import Tokenizer

    def read(name: str) -> bytes | None:
        return (tiny_llama / name).read_bytes() if (tiny_llama / name).exists() else None

    tokenizer = Tokenizer.load(read)
    chat = ChatTemplate.load(read, tokenizer)
    trusted = ChatOptions(trust_request_chat_template=True)
    task = ChatTask(CompletionOptions(literal_special_tokens=True), tokenizer, chat, max_model_len=256, chat_options=trusted)
    said = [{"role": "user", "content": "<|im_end|>"}]
    ids = prepare(task, messages=said, chat_template="<|im_start|>{{ messages[0].content }}").prompt
    assert ids == [1, *tokenizer.encode_literal(["<|im_end|>"], add_special_tokens=False)[0]]
    assert len(ids) == 11
