"""The command's parameters with a record's own on top."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import ConfigError, RecordError
from infer.core.jobs.tasks import CompletionOptions, GenerateTask
from infer.core.jobs.tasks.defaults import Defaults
from infer.core.types.params import SamplingParams
from infer.core.types.structured import StructuredOutputsParams


def test_the_same_mix_is_the_same_object() -> None:
    defaults = Defaults(SamplingParams(top_k=5), has_tokenizer=True)
    assert defaults.with_fields({}, None) is defaults.params
    first = defaults.with_fields({"logit_bias": {"5": 1.5}, "top_p": 0.5}, None)
    assert defaults.with_fields({"logit_bias": {"5": 1.5}, "top_p": 0.5}, None) is first
    assert (first.top_k, first.logit_bias) == (5, {5: 1.5})
    assert defaults.with_fields({"logit_bias": {"5": 2}, "top_p": 0.5}, None).logit_bias == {5: 2.0}


@pytest.mark.parametrize(("a", "b"), [(1, True), (1, 1.0), (0, False)])
def test_what_only_looks_the_same_is_not(a: Any, b: Any) -> None:
    """1, 1.0 and true are equal in Python, and not the same in a record."""
    defaults = Defaults(SamplingParams(), has_tokenizer=True)

    def outcome(value: Any) -> Any:
        try:
            return repr(defaults.with_fields({"seed": value}, None))
        except RecordError as error:
            return error.message

    assert outcome(a) != outcome(b)


def test_a_mix_that_is_wrong_is_wrong_every_time() -> None:
    defaults = Defaults(SamplingParams(), has_tokenizer=True)
    for _ in range(2):
        with pytest.raises(RecordError, match="top_p must be above 0"):
            defaults.with_fields({"top_p": 0}, None)
        with pytest.raises(RecordError, match="seed must be at least"):
            defaults.with_fields({"seed": 2**70}, None)


def test_many_mixes_do_not_pile_up() -> None:
    defaults = Defaults(SamplingParams(), has_tokenizer=True)
    for seed in range(3000):
        assert defaults.with_fields({"seed": seed}, None).seed == seed
    long = ["x" * 10_000]
    assert defaults.with_fields({"stop": long}, None).stop == tuple(long)
    assert len(defaults._mixes) <= 1024
    assert sum(map(len, defaults._mixes)) < 1 << 20


def test_unconstrained_takes_the_default_constraint_away() -> None:
    defaults = Defaults(SamplingParams(structured_outputs=StructuredOutputsParams(regex="a")), has_tokenizer=True)
    free = defaults.with_fields({}, None, unconstrained=True)
    assert free == SamplingParams()
    assert defaults.with_fields({}, None, unconstrained=True) is free
    assert defaults.with_fields({}, None) is defaults.params


class TestTokenIds:
    """An answer that has no text has its tokens."""

    def test_without_a_tokenizer(self) -> None:
        defaults = Defaults(SamplingParams(), has_tokenizer=False)
        assert defaults.params.return_token_ids
        assert defaults.with_fields({"top_k": 1}, None).return_token_ids
        assert defaults.with_fields({"return_token_ids": False}, None).return_token_ids

    def test_without_detokenizing(self) -> None:
        defaults = Defaults(SamplingParams(), has_tokenizer=True)
        assert not defaults.params.return_token_ids
        assert defaults.with_fields({"detokenize": False}, None).return_token_ids

    @pytest.mark.parametrize("given", [{"stop": "x"}, {"bad_words": ["x"]}, {"structured_outputs": {"regex": "a"}}], ids=str)
    def test_what_needs_text_is_refused_at_once(self, given: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=f"^{next(iter(given))} needs a tokenizer, and with skip_tokenizer_init there is none$"):
            GenerateTask(CompletionOptions(defaults=SamplingParams(**given)), None, max_model_len=10)
