"""Reasoning split from the answer."""

from __future__ import annotations

import pytest

from infer.core.errors import ConfigError
from infer.core.text.reasoning import reasoning_parser


@pytest.mark.parametrize(
    ("name", "inside", "text", "reasoning", "content"),
    [
        ("qwen3", None, "<think>\nhm\n</think>\n\nParis.", "\nhm\n", "\n\nParis."),
        ("qwen3", None, "\n<think>hm</think>Paris.", "hm", "Paris."),
        ("qwen3", None, "Paris.", None, "Paris."),
        ("qwen3", None, "hm</think>Paris.", "hm", "Paris."),
        ("qwen3", None, "<think>hm", "hm", None),
        ("qwen3", None, "<think></think>Paris.", None, "Paris."),
        ("qwen3", None, "<think>hm</think>", "hm", None),
        ("qwen3", None, "One writes <think>so</think>.", None, "One writes <think>so</think>."),
        ("qwen3", None, "", None, ""),
        ("qwen3", True, "hm</think>Paris.", "hm", "Paris."),
        ("qwen3", True, "hm", "hm", None),
        ("qwen3", True, "<think>hm</think>Paris.", "hm", "Paris."),
        ("qwen3", False, "Paris</think>.", None, "Paris</think>."),
        ("deepseek_r1", None, "hm</think>Paris.", "hm", "Paris."),
        ("deepseek_r1", None, "hm", "hm", None),
        ("deepseek_r1", False, "Paris.", None, "Paris."),
        ("deepseek_r1", True, "hm</think>a</think>b", "hm", "a</think>b"),
        ("mistral", None, "[THINK]hm[/THINK]Paris.", "hm", "Paris."),
        ("seed_oss", None, "<seed:think>hm</seed:think>Paris.", "hm", "Paris."),
        ("qwen3", None, '{"html": "</think>"}', None, '{"html": "</think>"}'),
        ("qwen3", None, '<tool_call>{"a": ["</think>"]}</tool_call>', None, '<tool_call>{"a": ["</think>"]}</tool_call>'),
        ("qwen3", None, '<think>as {"a": "</think>"} or so</think>{"b": "</think>"}', 'as {"a": "</think>"} or so', '{"b": "</think>"}'),
        ("qwen3", True, 'I end with "</think>" or `</think>`.</think>Paris.', 'I end with "</think>" or `</think>`.', "Paris."),
        ("qwen3", True, 'said "yes"</think>"Paris"', 'said "yes"', '"Paris"'),
        ("qwen3", True, 'it begins {"a": </think>{"a": 1}', 'it begins {"a": ', '{"a": 1}'),
        ("deepseek_r1", None, '["</think>", {"x": "</think>"}] hm</think>Paris.', '["</think>", {"x": "</think>"}] hm', "Paris."),
        ("deepseek_v3", None, "Paris.", None, "Paris."),
        ("deepseek_v3", True, "hm</think>Paris.", "hm", "Paris."),
        ("ernie45", True, "hm\n</think>\n\n<response>\nParis.\n</response>\n", "hm\n", "Paris."),
        ("ernie45", None, "hm</think>Paris.", "hm", "Paris."),
        ("gemma4", None, "<|channel>thought\nhm<channel|>Paris.", "hm", "Paris."),
        ("gemma4", None, "<|channel>thought\nhm<|tool_call>call:f{}<tool_call|>", "hm", "<|tool_call>call:f{}<tool_call|>"),
        ("gemma4", None, "Paris.", None, "Paris."),
        ("granite", None, "Here is my thought process: hm Here is my response: Paris.", " hm ", " Paris."),
        ("granite", None, "Here's my thought process:hm\n\nHere's my response:\nParis.", "hm\n\n", "\nParis."),
        ("granite", None, "Paris.", None, "Paris."),
        ("hunyuan_a13b", None, "<think>\nhm\n</think>\n<answer>\nParis.\n</answer>", "\nhm\n", "Paris."),
        ("hunyuan_a13b", None, "<think>\nhm\n</think>\n<answer>\nPar", "\nhm\n", "Par"),
        ("kimi_k2", True, "hm<|tool_calls_section_begin|>x", "hm", "<|tool_calls_section_begin|>x"),
        ("kimi_k2", None, "<think>hm</think>Paris.", "hm", "Paris."),
        ("minimax_m2", None, "hm\n</think>\n\nParis.", "hm\n", "\n\nParis."),
        ("nemotron_v3", True, "hm</think>Paris.", "hm", "Paris."),
        ("nemotron_v3", False, "Paris.", None, "Paris."),
        ("olmo3", None, "hm</think>Paris.", "hm", "Paris."),
        ("step3", None, "hm</think>Paris.", "hm", "Paris."),
        (
            "openai_gptoss",
            None,
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Paris.",
            "hm",
            "Paris.",
        ),
        ("openai_gptoss", None, "<|channel|>analysis<|message|>h", "h", None),
        (
            "openai_gptoss",
            None,
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}",
            "a",
            "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}",
        ),
        ("openai_gptoss", None, "Paris.", None, "Paris."),
        ("glm45", None, "\n<think>hm</think>Paris.", "hm", "Paris."),
    ],
)
def test_split(name: str, inside: bool | None, text: str, reasoning: str | None, content: str | None) -> None:
    assert reasoning_parser(name).split(text, inside=inside) == (reasoning, content)


def test_what_the_prompt_says() -> None:
    parser = reasoning_parser("qwen3")
    assert parser.opened_by("<|im_start|>assistant\n<think>\n") is True
    assert parser.opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n") is False
    assert parser.opened_by("What is <think>?<|im_end|>\n<|im_start|>assistant\n") is None
    assert parser.left_open("<think>so")
    assert not parser.left_open("<think>so</think>")
    assert not parser.left_open("so")
    assert not parser.left_open('{"a": "<think>"}')
    assert parser.left_open('<think>as {"a": "</think>"}')


def test_many_marks_in_quotation_marks_are_passed_over_once() -> None:
    """Minutes, if the text before each were searched for brackets anew."""
    text = "'</think>' " * 100_000
    assert reasoning_parser("qwen3").split(text, inside=True) == (text, None)


def test_an_unknown_parser_is_a_setting_s_mistake() -> None:
    with pytest.raises(ConfigError, match=r"'qwen'; did you mean 'qwen3'\?; available: deepseek_r1, deepseek_v3"):
        reasoning_parser("qwen")
