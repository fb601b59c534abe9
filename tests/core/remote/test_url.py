"""Names of files elsewhere, and that no secret in one is ever shown."""

from __future__ import annotations

import pytest

from infer.core.errors import ConfigError
from infer.core.remote.url import base_name, is_remote, place, redacted, scheme_of, shown

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a?b.jsonl", "s3://bucket/a?b.jsonl"),
        (f"https://me:{SECRET}@host:8080/a.jsonl", "https://host:8080/a.jsonl"),
        (f"https://{SECRET}@host/a.jsonl", "https://host/a.jsonl"),
        (f"https://host/a.jsonl?X-Amz-Signature={SECRET}&x=1", "https://host/a.jsonl?…"),
        (f"s3://key:{SECRET}@bucket/a.jsonl", "s3://bucket/a.jsonl"),
        ("abfs://container@account.dfs.core.windows.net/a.jsonl", "abfs://container@account.dfs.core.windows.net/a.jsonl"),
    ],
)
def test_what_is_shown(url: str, expected: str) -> None:
    assert shown(url) == expected
    assert place(url) == expected.removesuffix("?…")


def test_two_signatures_are_one_place() -> None:
    assert place("https://host/a.jsonl?sig=1") == place("https://u:p@host/a.jsonl?sig=2")


@pytest.mark.parametrize(
    "text",
    [
        f"404, message='Not Found', url='https://me:{SECRET}@host/a?b=c'",
        f"cannot connect to https://host/a?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
        f"AuthenticationFailed: Signature={SECRET}",
        f"abfs://a:{SECRET}@b/c and s3://k:{SECRET}@b/c",
    ],
)
def test_messages_of_libraries_tell_no_secret(text: str) -> None:
    assert SECRET in text
    assert SECRET not in redacted(text)


def test_a_message_without_secrets_stays() -> None:
    text = "The specified bucket does not exist (http://127.0.0.1:9000/bucket)"
    assert redacted(text) == text


def test_names() -> None:
    assert is_remote("s3://a/b")
    assert not is_remote("a/b")
    assert not is_remote("C:\\x")
    assert base_name("s3://b/c/out.jsonl.gz") == "out.jsonl.gz"
    assert base_name("s3://b/c/") == ""
    assert scheme_of("S3://b/c") == "s3"
    with pytest.raises(ConfigError, match="ftp:// is not served; known are s3://"):
        scheme_of("ftp://a/b")
