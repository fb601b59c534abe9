"""Hosts that may be asked for media, and the addresses that their names may stand for.

A name that is allowed may be made to stand for any address by whoever runs its domain, and a redirect may lead anywhere; so each hop is
looked at anew, and the address that was looked at is the one that is connected to.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from ..errors import RecordError
from .policy import ANY_HOST

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}
#: Addresses of IPv4 written as IPv6 ones (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """One hop: what is asked of whom.

    `named`: the host is in the list by its name, not by "*".
    """

    scheme: str
    host: str
    port: int
    path: str
    named: bool

    @property
    def url(self) -> str:
        """As it is shown: without the query, which may hold a secret."""
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path.partition('?')[0]}"


def target_of(url: str, domains: Sequence[str], param: str) -> Target:
    """What a URL asks for. Raises RecordError: media_error for what is no URL, media_refused for a host that is not allowed."""
    if any(ord(char) <= 32 or char == "\\" or ord(char) == 127 for char in url):
        raise RecordError("media_error", f"{param} is no URL: it has spaces, control characters or backslashes", param=param)
    try:
        parts = urlsplit(url)
        host, port = _host(parts), parts.port
    except (ValueError, UnicodeError) as error:
        raise RecordError("media_error", f"{param} is no URL: {error}", param=param) from None
    if parts.scheme.lower() not in _PORTS:
        raise RecordError("media_refused", f"{param} leads to {parts.scheme}:, and only http and https are fetched", param=param)
    if not host:
        raise RecordError("media_error", f"{param} is a URL without a host", param=param)
    if parts.username is not None or parts.password is not None:
        raise RecordError("media_refused", f"{param} has a user's name or password in it, and those are sent nowhere", param=param)
    scheme = parts.scheme.lower()
    port = port if port is not None else _PORTS[scheme]
    shown = f"[{host}]" if ":" in host else host
    named = bool({shown, f"{shown}:{port}"} & {one.rstrip(".") for one in domains})
    if not named and ANY_HOST not in domains and f"{ANY_HOST}:{port}" not in domains:
        told = f"; allowed: {', '.join(domains)}" if domains else ""
        message = f"{param} leads to {shown}: --allowed-media-domains {shown} lets media be fetched from there{told}"
        raise RecordError("media_refused", message, param=param)
    path = parts.path or "/"
    return Target(scheme, shown, port, f"{path}?{parts.query}" if parts.query else path, named)


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").rstrip(".")
    return host if host.isascii() else host.encode("idna").decode("ascii")


def addresses_of(target: Target, param: str) -> list[tuple[int, tuple[object, ...]]]:
    """(family, socket address) of each address of its host, if all of them may be asked. Raises RecordError.

    Addresses of this machine, and those that only this network knows, need a host that is named: an address or "localhost" for this
    machine, any name for a private network.
    """
    host = target.host.strip("[]")
    try:
        found = socket.getaddrinfo(host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RecordError("media_error", f"{target.url}: the host cannot be found ({why})", param=param, retryable=True) from None
    for _, _, _, _, address in found:
        if wrong := _refusal(ipaddress.ip_address(str(address[0]).partition("%")[0]), host, named=target.named):
            message = f"{target.url}: {host} is {address[0]}, {wrong}"
            raise RecordError("media_refused", message, param=param)
    return [(family, address) for family, _, _, _, address in found]


def _refusal(address: Address, host: str, *, named: bool) -> str:
    """What is wrong with asking this address, or ""."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _refusal(inner, host, named=named)
    if named and (host == "localhost" or _is_address(host)):
        return ""  # it was meant
    if address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast:
        return "an address of this machine or its link; name that address in --allowed-media-domains if it is meant"
    if (not address.is_global or address.is_reserved) and not named:
        return "a private address; name the host in --allowed-media-domains if it is meant"
    return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
