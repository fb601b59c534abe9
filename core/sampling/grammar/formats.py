"""String formats of JSON schemas as regular expressions, in the dialect that `regex.normalized` reads.

Each is exact, or narrower than its standard and never wider: no 30th of February, no leap second, no leading zero in an address.
"""

from __future__ import annotations

_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
#: By 4 and not by 100, or by 400; there is no year 0.
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAYS = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8])"
_DATE = f"(?:{_YEAR}-(?:{_DAYS})|{_LEAP_YEAR}-02-29)"
_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = f"{_MINUTE}:[0-5][0-9](?:\\.[0-9]{{1,6}})?(?:Z|[+-]{_MINUTE})"

_COUNT = "[0-9]{1,9}"
_CLOCK = f"T(?:{_COUNT}H(?:{_COUNT}M(?:{_COUNT}S)?)?|{_COUNT}M(?:{_COUNT}S)?|{_COUNT}S)"
_CALENDAR = f"(?:{_COUNT}Y(?:{_COUNT}M(?:{_COUNT}D)?)?|{_COUNT}M(?:{_COUNT}D)?|{_COUNT}D)"

_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_GROUP = "[0-9A-Fa-f]{1,4}"
#: One `::` stands for at least one group: with k groups before it, up to 7 - k follow.
_IPV6 = "|".join(
    [f"{_GROUP}(?::{_GROUP}){{7}}", f"::(?:{_GROUP}(?::{_GROUP}){{0,6}})?"]
    + [f"{_GROUP}(?::{_GROUP}){{{k - 1}}}::(?:{_GROUP}(?::{_GROUP}){{0,{6 - k}}})?" for k in range(1, 7)]
    + [f"{_GROUP}(?::{_GROUP}){{6}}::"]
)

#: Up to 8 labels of up to 30 characters, which stay below the 253 that a name may have.
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,28}[A-Za-z0-9])?"
_HOSTNAME = rf"{_LABEL}(?:\.{_LABEL}){{0,7}}"
#: Up to 64 characters before the @.
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,31}"
_EMAIL = rf"{_ATOM}(?:\.{_ATOM})?@{_HOSTNAME}"

_PLAIN = "(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})"
_CHAR = f"(?:{_PLAIN}|:)"
_PATH = f"(?:/{_CHAR}*)*"
_REST = f"(?:\\?(?:{_CHAR}|[/?])*)?(?:#(?:{_CHAR}|[/?])*)?"
_WITH_HOST = f"//(?:{_HOSTNAME}|\\[(?:{_IPV6})\\])(?::[0-9]{{1,4}})?{_PATH}"
_ABSOLUTE = f"/(?:{_CHAR}+{_PATH})?"
_URI = f"[A-Za-z][A-Za-z0-9+.-]*:(?:{_WITH_HOST}|{_ABSOLUTE}|{_CHAR}+{_PATH}){_REST}"
_REFERENCE = f"{_URI}|(?:{_WITH_HOST}|{_ABSOLUTE}|(?:{_PLAIN}+{_PATH})?){_REST}"
_VARIABLE = "[A-Za-z0-9_]+(?:\\*|:[1-9][0-9]{0,3})?"
_TEMPLATE = f"(?:{_CHAR}|[/?#]|\\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\\}})*"
_POINTER = "(?:/(?:[^~/]|~[01])*)*"

FORMATS = {
    "date": _DATE,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:{_CALENDAR}(?:{_CLOCK})?|{_CLOCK}|{_COUNT}W)",
    "email": _EMAIL,
    "hostname": _HOSTNAME,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]?)(?:#|{_POINTER})",  # jsonschema takes no digit behind a 0
    "time": _TIME,
    "uri": _URI,
    "uri-reference": _REFERENCE,
    "uri-template": _TEMPLATE,
    "uuid": "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
}
