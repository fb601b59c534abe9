"""Bytes out of `data:` URLs (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from ..errors import RecordError

_SPACES = str.maketrans("", "", " \t\r\n")


def read_data_url(url: str, *, max_bytes: int, param: str) -> tuple[bytes, str]:
    """(what it holds, the media type it names).

    Base64 may be padded or not, in the alphabet of URLs or the other one, and percent-encoded. Raises RecordError: media_refused where it
    is larger than it may be (before it is decoded), media_error where it cannot be read.
    """
    header, comma, payload = url[len("data:") :].partition(",")
    if not comma:
        raise RecordError("media_error", f"{param} is a data: URL without a comma, so it holds nothing", param=param)
    media_type, *options = (one.strip().lower() for one in header.split(";"))
    if "base64" not in options:
        if len(payload) > 3 * max_bytes:
            raise _too_large(param, max_bytes)
        data = unquote_to_bytes(payload)
    else:
        if len(payload) > 4 * max_bytes:  # percent-encoded or in lines it is a little longer than 4/3
            raise _too_large(param, max_bytes)
        if "%" in payload:
            payload = unquote_to_bytes(payload).decode("ascii", "replace")
        text = payload.translate(_SPACES).rstrip("=")
        if len(text) // 4 * 3 > max_bytes:
            raise _too_large(param, max_bytes)
        if "-" in text or "_" in text:
            text = text.replace("-", "+").replace("_", "/")
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise RecordError("media_error", f"{param} is not base64 ({error})", param=param) from None
    if len(data) > max_bytes:
        raise _too_large(param, max_bytes)
    return data, media_type


def _too_large(param: str, max_bytes: int) -> RecordError:
    return RecordError("media_refused", f"{param} is larger than {max_bytes:,} bytes (max_media_bytes)", param=param)
