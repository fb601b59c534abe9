"""Labels as tokens: both spellings, what cannot be told apart, and no probability counted twice."""

from __future__ import annotations

import math
from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.text.labels import MAX_LABELS, LabelSet, Ways, checked, ends_with_blank, log_sum
from infer.core.types.label_scores import LabelScores


@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma", "metaspace"])
def test_a_label_is_tokenized_as_behind_other_text(toys: Any, kind: str) -> None:
    """What the model reads of prompt and label together is what it would read of them as one text."""
    tokenizer = toys[kind]
    labels = LabelSet.of(["hello", "a b"], tokenizer)
    for prompt, after_blank in (("world:", False), ("world:\n", True)):
        before = tokenizer.encode(prompt, add_special_tokens=False)
        ways = labels.ways(after_blank=after_blank)
        texts = {tokenizer.decode([*before, *way], skip_special_tokens=False) for way in ways.tokens}
        spelled = {prompt + blank + label for label in labels.labels for blank in (("",) if after_blank else ("", " "))}
        assert texts == {tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=False) for text in spelled}


def test_blanks(byte_tokenizer: Any) -> None:
    labels = LabelSet.of(["a", " b"], byte_tokenizer)
    assert labels.otherwise.tokens == ((97,), (32, 97), (32, 98))
    assert labels.otherwise.owners == (0, 0, 1)
    assert labels.after_blank.tokens == ((97,), (32, 98))
    assert labels.longest == 2
    assert ends_with_blank(byte_tokenizer.encode("a\n"), byte_tokenizer)
    assert ends_with_blank(byte_tokenizer.encode("a "), byte_tokenizer)
    assert not ends_with_blank(byte_tokenizer.encode("a"), byte_tokenizer)


@pytest.mark.parametrize(
    ("labels", "code", "said"),
    [
        ([], "invalid_value", "is empty"),
        (["a", ""], "invalid_value", "label '' is empty"),
        (["a", "  "], "invalid_value", "label '  ' is blank"),
        (["a", "b", "a"], "invalid_value", "'a' is there twice"),
        (["a", " a"], "invalid_value", "' a' is there twice"),
        (["a", 1], "invalid_type", "a list of strings"),
        ("ab", "invalid_type", "a list of strings"),
        ([str(i) for i in range(10_000)], "invalid_value", f"10,000 labels; at most {MAX_LABELS:,}"),
    ],
)
def test_labels_that_are_none(labels: Any, code: str, said: str) -> None:
    with pytest.raises(RecordError, match=said) as caught:
        checked(labels)
    assert (caught.value.code, caught.value.param) == (code, "labels")


def test_a_label_without_tokens_or_with_those_of_another(toys: Any, byte_tokenizer: Any) -> None:
    class Silent:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return byte_tokenizer.encode(text.lower().replace("#", ""), add_special_tokens=add_special_tokens)

    silent: Any = Silent()
    with pytest.raises(RecordError, match="'#' has no tokens"):
        LabelSet.of(["a", "#"], silent)
    with pytest.raises(RecordError, match="'a' and 'A' are written with the same tokens"):
        LabelSet.of(["a", "A"], silent)


def test_what_goes_on_as_a_longer_label_does_not_count_for_the_shorter() -> None:
    ways = Ways.of([[(1,)], [(1, 0)], [(1, 0, 0)], [(2,)]], ["1", "10", "100", "2"])
    assert ways.longer == ((1,), (2,), (), ())
    found = ways.logprobs([math.log(p) for p in (0.5, 0.3, 0.1, 0.2)])
    assert [math.exp(value) for value in found] == pytest.approx([0.2, 0.2, 0.1, 0.2])
    assert ways.logprobs([math.log(0.5), math.log(0.5), -math.inf, -math.inf]) == [
        -math.inf,
        pytest.approx(math.log(0.5)),
        -math.inf,
        -math.inf,
    ]


def test_a_label_has_the_sum_of_its_spellings() -> None:
    ways = Ways.of([[(1,), (3, 1)], [(2,), (3, 2)]], ["a", "b"])
    assert [math.exp(value) for value in ways.logprobs([math.log(p) for p in (0.1, 0.4, 0.2, 0.05)])] == pytest.approx([0.5, 0.25])
    assert log_sum([-math.inf, -math.inf]) == -math.inf
    assert log_sum([-1000.0, -1000.0]) == pytest.approx(-1000 + math.log(2))


def test_scores() -> None:
    scores = LabelScores.of(["a", "b", "c"], [math.log(p) for p in (0.1, 0.3, 0.1)])
    assert scores is not None
    assert scores.best_first == ("b", "a", "c")
    assert scores.label_mass == pytest.approx(0.5)
    assert [scores.probs[label] for label in "abc"] == pytest.approx([0.2, 0.6, 0.2])
    calibrated = LabelScores.of(["a", "b"], [math.log(0.1), math.log(0.3)], [math.log(0.05), math.log(0.6)])
    assert calibrated is not None
    assert calibrated.best_first == ("a", "b")
    assert calibrated.probs["a"] == pytest.approx(2 / 2.5)
    assert calibrated.label_mass == pytest.approx(0.4)
    assert LabelScores.of(["a"], [-math.inf]) is None
