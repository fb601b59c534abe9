"""Text and stop strings of sequences, as the engine drives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from infer.core.types.params import SamplingParams
from infer.core.types.request import Request


@pytest.fixture(scope="session")
def answer(make_engine: Any) -> Any:
    """answer(script, **params): what a request gets from a model that says `script`, one character a token."""
    from tokenizers import Tokenizer, decoders, models

    from infer.core.text.tokenizer import Tokenizer as Ours

    letters = ["?", "<e>", "<x>", *"abcdefghijklmnopqrstuvwxyz ", "é"]
    fast = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[], unk_token="?"))
    fast.add_special_tokens(["<e>", "<x>"])
    fast.decoder = decoders.Fuse()
    files = {"tokenizer.json": fast.to_str().encode(), "tokenizer_config.json": b'{"eos_token": "<e>"}'}
    tokenizer = Ours.load(files.get)

    def run(script: str, **params: Any) -> Any:
        ids = [letters.index(c) if c not in "$%" else {"$": 1, "%": 2}[c] for c in script]
        engine = make_engine(num_blocks=100, tokenizer=tokenizer)

        def logits(batch: Any) -> torch.Tensor:
            rows = torch.zeros(batch.num_logits, 64)
            rows[0, ids[int(batch.positions[batch.logit_rows[0]]) - 1]] = 9
            return rows

        engine.runner.run = logits
        engine.add(Request("r", [3, 4], SamplingParams(temperature=0, **{"max_tokens": len(ids), **params}), 0))
        outputs: list[Any] = []
        while engine.num_unfinished:
            outputs += engine.step()
        choice = outputs[0].outputs[0]
        return choice.text, len(choice.token_ids), choice.finish_reason, choice.stop_reason

    return run


@pytest.mark.parametrize(
    ("script", "params", "expected"),
    [
        ("abc", {}, ("abc", 3, "length", None)),
        ("abc$def", {}, ("abc", 4, "stop", None)),
        ("abc%def", {}, ("abc", 4, "stop", 2)),
        ("abc$def", {"ignore_eos": True}, ("abcdef", 7, "length", None)),
        ("abc$def", {"include_stop_str_in_output": True, "skip_special_tokens": False}, ("abc<e>", 4, "stop", None)),
        ("abc$def", {"skip_special_tokens": False}, ("abc", 4, "stop", None)),
        ("abc$def", {"skip_special_tokens": False, "ignore_eos": True}, ("abc<e>def", 7, "length", None)),
        ("abcdef", {"stop_token_ids": [6]}, ("abc", 4, "stop", 6)),
        ("abcdef", {"stop_token_ids": [6], "include_stop_str_in_output": True}, ("abcd", 4, "stop", 6)),
        ("abcdef", {"stop": "cd"}, ("ab", 4, "stop", "cd")),
        ("abcdef", {"stop": ["x", "cd"], "include_stop_str_in_output": True}, ("abcd", 4, "stop", "cd")),
        ("abcdef", {"stop": ["cde", "d"]}, ("abc", 4, "stop", "d")),
        ("abcdef", {"stop": "zz"}, ("abcdef", 6, "length", None)),
        ("abcdef", {"stop": "ef"}, ("abcd", 6, "stop", "ef")),
        ("ab$", {"stop": "ab"}, ("", 2, "stop", "ab")),
        ("aab$", {"stop": "b<"}, ("aab", 4, "stop", None)),
        ("ababab", {"stop": "ab", "min_tokens": 3}, ("ab", 4, "stop", "ab")),
        ("ababab", {"stop": "ab", "min_tokens": 2}, ("ab", 4, "stop", "ab")),
        ("ababab", {"stop": "bab", "min_tokens": 3}, ("a", 4, "stop", "bab")),
        ("abc", {"detokenize": False}, ("", 3, "length", None)),
        ("caf" + "é", {"stop": "é"}, ("caf", 4, "stop", "é")),
        # Which ending counts where several fall together, and what ignore_eos and min_tokens leave.
        ("abc$", {}, ("abc", 4, "stop", None)),
        ("abc%", {}, ("abc", 4, "stop", 2)),
        ("abc$", {"stop_token_ids": [1]}, ("abc", 4, "stop", None)),
        ("abc%d", {"stop_token_ids": [2]}, ("abc", 4, "stop", 2)),
        ("abc$de", {"stop_token_ids": [1], "ignore_eos": True}, ("abc", 4, "stop", 1)),
        ("abc%de", {"stop_token_ids": [2], "ignore_eos": True}, ("abc", 4, "stop", 2)),
        ("abc%de", {"ignore_eos": True}, ("abcde", 6, "length", None)),
        ("abcdabcd", {"stop_token_ids": [6], "min_tokens": 5}, ("abc?abc", 8, "stop", 6)),
        ("abcd", {"stop_token_ids": [6]}, ("abc", 4, "stop", 6)),
        ("abcdef", {"max_tokens": 3, "stop": "c"}, ("ab", 3, "stop", "c")),
        ("abcdef", {"max_tokens": 3, "stop": "d"}, ("abc", 3, "length", None)),
        ("abcdef", {"stop": ["def", "bcd", "cd"]}, ("a", 4, "stop", "bcd")),
        ("abcdef", {"stop": ["abcdef", "ef", "f"]}, ("", 6, "stop", "abcdef")),
        ("abcd$", {"stop": "cd", "stop_token_ids": [6]}, ("abc", 4, "stop", 6)),
        ("xabyab", {"stop": "ab", "include_stop_str_in_output": True}, ("xab", 3, "stop", "ab")),
    ],
)
def test_text_and_ending(answer: Any, script: str, params: dict[str, Any], expected: Any) -> None:
    assert answer(script, **params) == expected
