"""One file elsewhere, by its URL: what it is, its bytes by ranges, and errors in our words.

Credentials are found by the libraries themselves (environment, their own files, the machine's role) and never pass through here.
What fails for a moment is tried again, a bounded number of times, each time longer after; that is said.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import Absent, ConfigError, InferError, OutputError
from .url import SCHEMES, redacted, scheme_of, shown

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How often something is tried, and the seconds before it is tried again, which double.
TRIES = 6
FIRST_PAUSE_S = 0.5
#: Seconds without a byte after which a connection counts as dead.
TIMEOUT_S = 60.0
#: What tells one version of an object from another, by the name that a store gives it.
_VERSIONS = (
    "ETag", "etag", "Content-MD5", "md5Hash", "blob_id", "generation", "VersionId", "LastModified", "last_modified", "mtime", "created",
)  # fmt: skip
_ACCESS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role; FSSPEC_S3_ANON=true for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or AZURE_STORAGE_CONNECTION_STRING",
    "http": "a URL with user:password@, or a signed one",
    "hf": "HF_TOKEN, or hf auth login",
}
_FAMILY = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "https": "http"}


class Store:
    """
    Args:
        url: of a file, a folder or a pattern.
        what: what messages call it ("input", "output").

    Nothing is asked of the network by construction. Raises ConfigError for a scheme that is not served, or whose package is missing.
    """

    def __init__(self, url: str, what: str) -> None:
        self.url = url
        self.scheme = scheme_of(url)
        self.family = _FAMILY.get(self.scheme, self.scheme)
        self.what = what
        self.name = f"{what} {shown(url)!r}"
        self._stop = threading.Event()
        self.fs, self.path = _open(url, self.scheme, self.name)

    def stop(self) -> None:
        """Nothing is tried again from now on: whoever waits is not waited for."""
        self._stop.set()

    def info(self) -> dict[str, Any]:
        """What the store says of the file as it is now. Raises Absent, InferError."""
        found = self.trying("looked at", self._info)
        if found.get("type") == "directory":
            raise Absent(f"{self.name} is a folder; name a file")
        return found

    def find(self) -> dict[str, Any] | None:
        """As `info`; None where there is no such file."""
        try:
            return self.info()
        except Absent:
            return None

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, all of them. Raises InferError."""
        if start >= end:
            return b""
        return self.trying("read", lambda: self._read(start, end))

    def has_ranges(self) -> bool:
        """True if a part of the file can be read. Of a web server that is found out by asking for a byte."""
        if self.family != "http":
            return True
        from fsspec.asyn import sync

        async def ask() -> bool:
            session = await self.fs.set_session()
            async with session.get(self.fs.encode_url(self.path), headers={"Range": "bytes=0-0"}) as response:
                response.raise_for_status()
                return response.status == 206  # the body of another answer is not read

        return self.trying("read", lambda: bool(sync(self.fs.loop, ask)))

    def trying(self, how: str, call: Callable[[], T]) -> T:
        """`call`, again where it fails for a moment; `how` is for messages: the file cannot be …

        Raises Absent, ConfigError where there is no access, OutputError for all else.
        """
        pause, tries = FIRST_PAUSE_S, 0
        while True:
            try:
                return call()
            except InferError:
                raise
            except Exception as found:
                error = _root(found)
                tries += 1
                if (known := self._permanent(error, how)) is not None:
                    raise known from None
                if tries >= TRIES:
                    raise OutputError(
                        f"{self.name} cannot be {how}: {_why(error)} ({tries} tries); go on with --resume once it can"
                    ) from None
                log.warning(
                    "%s cannot be %s: %s; trying again in %.3g s (try %d of %d)", self.name, how, _why(error), pause, tries + 1, TRIES
                )
                if self._stop.wait(pause):
                    raise OutputError(f"{self.name} cannot be {how}: {_why(error)}") from None
                pause *= 2

    def _info(self) -> dict[str, Any]:
        self.fs.invalidate_cache()
        found: dict[str, Any] = self.fs.info(self.path)
        return found

    def _read(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.cat_file(self.path, start=start, end=end)
        if len(data) < end - start:
            raise ShortBody(f"{len(data):,} of {end - start:,} bytes came")
        return data

    def _permanent(self, error: Exception, how: str) -> InferError | None:
        """Our error for what trying again does not help with; None for what it may."""
        status, kind = _status(error), type(error).__name__
        if isinstance(error, (FileNotFoundError, NotADirectoryError)) or status in (404, 410):
            where = "there is no such bucket, or none that can be seen" if _NO_BUCKET.search(str(error)) else "there is no such object"
            return Absent(f"{self.name} cannot be {how}: {where}")
        if isinstance(error, IsADirectoryError):
            return Absent(f"{self.name} is a folder; name a file")
        if isinstance(error, PermissionError) or status in (401, 403) or kind in _NO_ACCESS:
            access = _ACCESS.get(self.family, "")
            return ConfigError(
                f"{self.name} cannot be {how}: no access ({_why(error)})" + (f"; credentials are looked for in {access}" if access else "")
            )
        if status is not None and 400 <= status < 500 and status not in (408, 409, 425, 429):
            return OutputError(f"{self.name} cannot be {how}: {_why(error)}")
        if isinstance(error, (ValueError, TypeError, NotImplementedError, ImportError)) and not isinstance(error, OSError):
            return OutputError(f"{self.name} cannot be {how}: {_why(error)}")
        return None


class ShortBody(OSError):
    """Fewer bytes came than were promised."""


#: What libraries say where the place of the object is what is missing.
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|(bucket|container) does not exist", re.IGNORECASE)
#: Names of errors of libraries that lack credentials, which are not imported to say so.
_NO_ACCESS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound", "DefaultCredentialsError",
     "ClientAuthenticationError", "GatedRepoError", "LocalTokenNotFoundError", "TokenRetrievalError", "SSOTokenLoadError"}
)  # fmt: skip


def version_of(info: dict[str, Any]) -> dict[str, str]:
    """What tells this version of an object from another one: its size, and its tag or time."""
    return {"size": str(info.get("size")), **{name: str(info[name]) for name in _VERSIONS if info.get(name) not in (None, "")}}


def _open(url: str, scheme: str, name: str) -> tuple[Any, str]:
    for package in ("fsspec", SCHEMES[scheme]):
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(f"{name}: {scheme}:// needs the package {package}: pip install 'infer-jsonl[cloud]'")
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(url, **_options(scheme))
    except ImportError as error:
        raise ConfigError(f"{name}: {scheme}:// needs a package that is missing ({error}): pip install 'infer-jsonl[cloud]'") from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{name} is not understood: {_why(error)}") from None
    if scheme in ("s3", "s3a"):
        fs.retries = 1  # it is tried again here, where it is said
    return fs, path


def _options(scheme: str) -> dict[str, Any]:
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
        # Sizes and ranges are of the file as it is, not of what a server makes of it for the way.
        return {"client_kwargs": {"timeout": timeout, "headers": {"Accept-Encoding": "identity"}}, "use_listings_cache": False}
    if scheme in ("s3", "s3a"):
        config: dict[str, Any] = {"connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S}
        if not (os.environ.get("AWS_MAX_ATTEMPTS") or os.environ.get("AWS_RETRY_MODE")):
            config["retries"] = {"total_max_attempts": 1}
        return {"config_kwargs": config, "use_listings_cache": False}
    return {"use_listings_cache": False} if scheme not in ("file", "memory") else {}


def _root(error: Exception) -> Exception:
    """What is behind an error that a library calls a missing file: of a web server, whatever it answered."""
    cause = error.__cause__
    missing = isinstance(error, FileNotFoundError) and not isinstance(cause, (LookupError, FileNotFoundError))
    if missing and isinstance(cause, Exception) and _status(cause) not in (404, 410):
        return cause
    return error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error tells of, if it does."""
    if error is None:
        return None
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return found if isinstance(found, int) else None
    for value in (error, response):
        for name in ("status", "status_code", "code"):
            found = getattr(value, name, None)
            if isinstance(found, str) and found.isdigit():
                found = int(found)
            if isinstance(found, int) and 100 <= found < 600:
                return found
    return _status(error.__cause__) if isinstance(error, OSError) else None


def _why(error: Exception) -> str:
    """A library's error in one line without secrets."""
    text = " ".join(redacted(str(error)).split())
    kind = type(error).__name__
    if not text:
        return "it took too long" if isinstance(error, TimeoutError) or "Timeout" in kind else kind
    return text if len(text) <= 300 else text[:299] + "…"
