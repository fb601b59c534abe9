"""EBNF grammars by the texts they mean, each character by itself."""

from __future__ import annotations

import pytest
from llguidance import LLMatcher, LLTokenizer

from infer.core.errors import RecordError
from infer.core.sampling.grammar.ebnf import MAX_RULES, to_lark

BYTES = LLTokenizer("byte")


def matches(grammar: str, text: str) -> bool:
    made = LLMatcher(BYTES, f"start: root\n{to_lark(grammar)}", log_level=0)
    assert not made.is_error(), made.get_error()
    return made.consume_tokens(list(text.encode())) and made.is_accepting()


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "a" | b\nb ::= "\\x41\\u00e9\\U0001F600"', ["a", "Aé😀"], ["b", "A"]),
        ('root ::= a.b | a-b\na.b ::= "x"\na-b ::= "y"', ["x", "y"], ["a.b"]),
        ('root ::= [a-z]{2,3} [^\\n"]? [\\]\\-^]', ["ab]", "abcx^", "ab-"], ["a]", 'ab"]']),
        ("root ::= [-a] [a-] [a\\-c]", ["a-c", "-a-"], ["ab-"]),
        ('root ::= "a" # one\n | "b" # another\n # more\n', ["a", "b"], ["ab"]),
        ('root ::= ("a"\n "b")*', ["", "ab", "abab"], ["a"]),
        ('root::=("a" "b"){2}', ["abab"], ["ab", "ababab"]),
        ('root ::= "a"{0} "b"{1,}', ["b", "bb"], ["ab", ""]),
        ('root ::= ""', [""], ["a"]),
        ('root ::= list\nlist ::= list "," item | item\nitem ::= [0-9]+', ["1", "12,3"], ["1,"]),
        ('root ::= "(" root ")" | ""', ["", "(())"], ["(()"]),
        # Parts that begin and end alike: a lexer that takes the longest would lose these.
        ('root ::= ("a" | "ab") [bc]', ["ab", "ac", "abc", "abb"], ["a", "abbb"]),
        ('root ::= [a-z]+ "end"', ["end" * 2, "xend"], ["end"]),
        ("root ::= digit digit? digit\ndigit ::= [0-9]", ["12", "123"], ["1", "1234"]),
    ],
)
def test_meaning(grammar: str, good: list[str], bad: list[str]) -> None:
    assert {t: matches(grammar, t) for t in good + bad} == {**dict.fromkeys(good, True), **dict.fromkeys(bad, False)}


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('main ::= "a"', "no rule root"),
        ("root ::= nowhere", "'nowhere' is not defined"),
        ('root ::= "a"\nroot ::= "b"', "line 2, column 6: rule 'root' is defined twice"),
        ("root ::= [a-", "a ] is missing"),
        ('root ::= "a', 'a " is missing'),
        ('root ::= "a\nb"', 'a " is missing'),
        ("root ::= []", "an empty class"),
        ("root ::= [b-a]", "runs backwards"),
        ("root ::= [\\d]", "unknown escape \\d"),
        ('root ::= "\\u12"', "hexadecimal"),
        ('root ::= "\\ud800"', "not a Unicode character"),
        ('root ::= "a" |', "something is expected"),
        ("root ::= ", "something is expected"),
        ('root ::= ("a"', "a ) is missing"),
        ('root ::= "a" (= "b")', "lookahead"),
        ('root ::= "a"{3,1}', "below the lower"),
        ('root ::= "a"{x}', "begins a count"),
        ('root ::= "a"{99999}', "repetitions"),
        ('root ::= "a"**', "a rule's name is expected"),
        ('root ::= TagDispatch("a")', "'TagDispatch' is not defined"),
        ("root ::= " + "(" * 70 + '"a"' + ")" * 70, "nested deeper"),
        ("".join(f'r{i} ::= "a"\n' for i in range(MAX_RULES + 1)), "more than 5000 rules"),
    ],
)
def test_refusals(grammar: str, message: str) -> None:
    with pytest.raises(RecordError) as error:
        to_lark(grammar)
    assert error.value.code == "grammar_error"
    assert message in error.value.message


def test_names_do_not_meet() -> None:
    assert matches('root ::= r1 start\nr1 ::= "x"\nstart ::= "y"', "xy")
    assert to_lark('root ::= "a"', "g1_").startswith("g1_root: ")


def test_comments_of_signs_alone() -> None:
    """Read in one way only; each sign more must not double the ways."""
    rule = "#" * 5000
    grammar = f"{rule}\nroot ::= item {rule}\n  | item item # twice\n{rule} items {rule}\n\nitem ::= [a-z] {rule}"
    assert matches(grammar, "ab")
    with pytest.raises(RecordError, match="is not defined"):
        to_lark(f"root ::= a {rule}\nb ::= a")
