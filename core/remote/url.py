"""Names of files elsewhere (`s3://bucket/in.jsonl`), and what may be shown of them: never a password, never a signature."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from ..errors import ConfigError

#: Schemes and the package that serves each, beside fsspec itself; None: fsspec alone.
SCHEMES: dict[str, str | None] = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
    "file": None,
    "memory": None,
}
#: Those that can be written.
WRITABLE = frozenset(SCHEMES) - {"http", "https", "hf"}
#: In their URLs a `?` begins a query; anywhere else it is a character of the name.
_WITH_QUERY = frozenset({"http", "https"})

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
#: Any URL in a message of a library.
_IN_TEXT = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>]+")
#: What signed requests carry, where it is quoted without its URL.
_SECRETS = re.compile(
    r"(?i)\b(x-amz-(?:signature|credential|security-token)|signature|sig|authorization|aws_secret_access_key|sas_token|token)(\s*[=:]\s*)[^\s&'\",)]+"
)


def is_remote(name: str) -> bool:
    """True for a URL, rather than the name of a local file."""
    return _SCHEME.match(name) is not None


def scheme_of(url: str) -> str:
    """The scheme in small letters. Raises ConfigError for one that is not served."""
    found = _SCHEME.match(url)
    assert found is not None, url
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        raise ConfigError(f"{shown(url)!r}: {scheme}:// is not served; known are {', '.join(f'{one}://' for one in SCHEMES)}")
    return scheme


def place(url: str) -> str:
    """The URL without user, password and query: it is the same for every signature, and tells no secret."""
    scheme = url.partition("://")[0].lower()
    if scheme not in _WITH_QUERY:
        return _without_password(url)
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def shown(url: str) -> str:
    """The URL as messages, journals and reports may show it."""
    bare = place(url)
    return f"{bare}?…" if url.partition("://")[0].lower() in _WITH_QUERY and urlsplit(url).query else bare


def shown_name(name: str) -> str:
    """The name of a file, here or elsewhere, as it may be shown."""
    return shown(name) if is_remote(name) else name


def redacted(text: str) -> str:
    """A library's message without the secrets that may be in it."""
    return _SECRETS.sub(r"\1\2…", _IN_TEXT.sub(lambda found: _redacted_url(found[0]), text))


def base_name(url: str) -> str:
    """The last part of the path, which tells format and compression; empty for a folder."""
    return place(url).rpartition("/")[2]


def _redacted_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    rest, query, _ = rest.partition("?")
    return _without_password(f"{scheme}://{rest}") + ("?…" if query else "")


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    user, at, after = host.rpartition("@")
    # abfs://CONTAINER@ACCOUNT is no user; whatever has a colon is.
    if at and (":" in user or scheme.lower() in _WITH_QUERY):
        host = after
    return f"{scheme}{separator}{host}{slash}{path}"
