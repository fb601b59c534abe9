"""Formats: what they let through conforms to them, by the libraries that know."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from infer.core.sampling.grammar.formats import FORMATS
from infer.core.sampling.grammar.regex import normalized

CHECKER = Draft202012Validator.FORMAT_CHECKER

GOOD = {
    "date": ["2024-02-29", "2000-02-29", "2023-12-31", "0001-01-01"],
    "time": ["23:59:59Z", "00:00:00.5+01:30"],
    "date-time": ["2024-02-29T00:00:00Z"],
    "duration": ["P1Y2M3DT4H5M6S", "P2W", "PT0S"],
    "email": ["a.b+c@d.example"],
    "hostname": ["localhost", "a-1.example.org"],
    "ipv4": ["0.0.0.0", "255.249.199.9"],
    "ipv6": ["::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1:2::7:8"],
    "json-pointer": ["", "/a~0b/~1"],
    "relative-json-pointer": ["0#", "1/a", "10"],
    "uri": ["http://a.example:80/b?c=d#e", "mailto:a@b", "urn:x:y"],
    "uri-reference": ["", "../a", "//h/p", "?q", "a:b"],
    "uri-template": ["http://a/{b,c*}{?d:3}"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
}
BAD = {
    "date": ["2023-02-29", "1900-02-29", "2024-02-30", "2024-04-31", "0000-01-01", "2024-1-01"],
    "time": ["24:00:00Z", "23:59:60Z", "12:00:00", "12:00Z"],
    "date-time": ["2023-02-29T00:00:00Z", "2024-01-01 00:00:00Z"],
    "duration": ["P", "PT", "1Y", "P1Y1D"],
    "email": ["a", "@b", "a@", "a..b@c"],
    "hostname": ["-a", "a-", "a..b", "a_b", ""],
    "ipv4": ["01.2.3.4", "256.1.1.1", "1.2.3", "1.2.3.4.5"],
    "ipv6": ["1:2:3:4:5:6:7", "1::2::3", "12345::", ":1", "1:2:3:4:5:6:7:8::"],
    "json-pointer": ["a", "/~2"],
    "relative-json-pointer": ["/a", "01", "100"],
    "uri": ["a", "//h", "http://a b"],
    "uri-reference": ["a b", "%zz"],
    "uri-template": ["{", "{}"],
    "uuid": ["123e4567e89b12d3a456426614174000"],
}


@pytest.mark.parametrize("name", FORMATS)
def test_examples(name: str) -> None:
    normalized(FORMATS[name])
    assert {t: re.fullmatch(FORMATS[name], t) is not None for t in GOOD[name]} == dict.fromkeys(GOOD[name], True)
    assert {t: re.fullmatch(FORMATS[name], t) is not None for t in BAD[name]} == dict.fromkeys(BAD[name], False)
    assert all(CHECKER.conforms(text, name) for text in GOOD[name])


@settings(max_examples=30)
@given(st.data())
def test_what_is_let_through_conforms(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["date", "date-time", "ipv4", "ipv6", "uuid", "email"]))
    text = data.draw(st.from_regex(re.compile(FORMATS[name], re.ASCII), fullmatch=True))
    assert CHECKER.conforms(text, name), text
