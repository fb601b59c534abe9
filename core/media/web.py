"""Bytes out of `http:` and `https:` URLs: from allowed hosts, within a time and a size, each redirect checked as if it were the first URL.

Goes to the hosts directly: proxies are not used, nor cookies, nor passwords of .netrc.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import urljoin

from ..errors import RecordError
from .addresses import Target, addresses_of, target_of

#: Redirects that are followed.
_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Answers after which the same may succeed another time.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CHUNK = 1 << 16


def fetch(url: str, *, domains: Sequence[str], max_bytes: int, timeout: float, param: str) -> bytes:
    """The bytes at a URL.

    Args:
        domains: see `MediaPolicy`.
        timeout: seconds for all of it, redirects too.

    Raises RecordError: media_refused for a host that is not allowed and for more bytes than may be, media_error for whatever else goes
    wrong; retryable where it may go well another time.
    """
    ends = time.monotonic() + timeout
    target = target_of(url, domains, param)
    for _ in range(_MOST_REDIRECTS + 1):
        try:
            found = _ask(target, ends, max_bytes, param)
        except RecordError:
            raise
        except TimeoutError:
            message = f"{target.url}: not all of it had come after {timeout:g} s (media_timeout)"
            raise RecordError("media_error", message, param=param, retryable=True) from None
        except ssl.SSLError as error:
            why = error.reason or str(error)
            raise RecordError("media_error", f"{target.url}: no safe connection ({why})", param=param) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RecordError("media_error", f"{target.url}: {_told(error)}", param=param, retryable=True) from None
        if isinstance(found, bytes):
            return found
        following = target_of(urljoin(_full(target), found), domains, param)
        if target.scheme == "https" and following.scheme == "http":
            raise RecordError("media_refused", f"{target.url} leads from https to http, to {following.url}", param=param)
        target = following
    raise RecordError("media_error", f"{url[:200]}: more than {_MOST_REDIRECTS} redirects", param=param)


def _ask(target: Target, ends: float, max_bytes: int, param: str) -> bytes | str:
    """The bytes, or where the answer leads to. Raises RecordError, OSError, HTTPException."""
    connection = _Connection(target, ends, param)
    try:
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "infer", "Connection": "close"}
        connection.request("GET", target.path, headers=headers)
        answer = connection.getresponse()
        location = answer.getheader("Location")
        if answer.status in _REDIRECTS and location:
            return location
        if answer.status != 200:
            message = f"{target.url}: the server answers {answer.status} {answer.reason}".rstrip()
            raise RecordError("media_error", message, param=param, retryable=answer.status in _PASSING)
        if (coding := answer.getheader("Content-Encoding", "identity").lower()) not in ("identity", ""):
            raise RecordError("media_error", f"{target.url}: the server sends it packed ({coding}), which was not asked for", param=param)
        return _body(answer, target, max_bytes, param)
    finally:
        connection.end()


def _body(answer: http.client.HTTPResponse, target: Target, max_bytes: int, param: str) -> bytes:
    said = answer.length
    if said is not None and said > max_bytes:
        message = f"{target.url} has {said:,} bytes, more than the {max_bytes:,} of max_media_bytes"
        raise RecordError("media_refused", message, param=param)
    data = bytearray()
    while chunk := answer.read(_CHUNK):
        data += chunk
        if len(data) > max_bytes:
            message = f"{target.url} has more than the {max_bytes:,} bytes of max_media_bytes"
            raise RecordError("media_refused", message, param=param)
    if said is not None and len(data) < said:
        message = f"{target.url} ended after {len(data):,} of {said:,} bytes"
        raise RecordError("media_error", message, param=param, retryable=True)
    return bytes(data)


class _Connection(http.client.HTTPConnection):
    """A connection to the addresses that were checked, with one time at which all of it ends."""

    def __init__(self, target: Target, ends: float, param: str) -> None:
        super().__init__(target.host.strip("[]"), target.port)
        self.sock: Any = None
        self._target, self._ends, self._param = target, ends, param
        self._opened: socket.socket | None = None

    def connect(self) -> None:
        found: OSError = OSError("it has no address")
        for family, address in addresses_of(self._target, self._param):
            one = socket.socket(family, socket.SOCK_STREAM)
            try:
                one.settimeout(_left(self._ends))
                one.connect(address)
                if self._target.scheme == "https":
                    one = _context().wrap_socket(one, server_hostname=self._target.host.strip("[]"))
            except OSError as error:
                one.close()
                found = error
                continue
            self._opened, self.sock = one, _Timed(one, self._ends)
            return
        raise found

    def end(self) -> None:
        """Closes it, whoever still reads."""
        self.close()
        if self._opened is not None:
            self._opened.close()


class _Timed:
    """A socket each of whose operations ends at one time: a server that sends a byte now and then cannot go on for ever."""

    def __init__(self, one: socket.socket, ends: float) -> None:
        self._socket, self._ends = one, ends

    def sendall(self, data: Any) -> None:
        self._socket.settimeout(_left(self._ends))
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Incoming(self._socket, self._ends))

    def close(self) -> None:
        """Nothing: the answer is still to be read, and `_Connection.end` closes it."""


class _Incoming(io.RawIOBase):
    """The bytes that come in on a socket, until a time."""

    def __init__(self, one: socket.socket, ends: float) -> None:
        self._socket, self._ends = one, ends

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._ends))
        return self._socket.recv_into(buffer)


def _left(ends: float) -> float:
    """Seconds that are left. Raises TimeoutError where none are."""
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _full(target: Target) -> str:
    return f"{target.scheme}://{target.host}:{target.port}{target.path}"


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _told(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return f"it ended after {len(error.partial):,} bytes of a part that was to be longer"
    if isinstance(error, http.client.HTTPException):
        return f"the server does not answer in HTTP ({type(error).__name__})"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
