"""Addresses of servers and data bases that may have credentials in them: written without them,
asked with them.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request

# The second form has a slash in its password, which data bases allow, and no number of a port.
_USER = re.compile(r"://(?:[^/\s]*|[^/\s:]*:(?!\d+/)\S*)@")
_FIELD = re.compile(r"([?&][^=&\s]*(?:password|secret|token)=)[^&\s]*", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """A text whose addresses have no user, password or token, as it may be printed, logged and
    linked.
    """
    return _FIELD.sub(r"\1***", _USER.sub("://", text))


def first_line(error: BaseException) -> str:
    """What an exception says, short and without credentials."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("(raised as a result of") and lines[1:]:  # SQLAlchemy's, of itself
        del lines[0]
    return without_credentials(lines[0])[:200].rstrip(".:")


def split_credentials(address: str) -> tuple[str, str, str]:
    """An address without credentials, its user ("" if it names none), and the password.

    Raises:
        ValueError: it is no address.
    """
    parts = urlsplit(address)
    credentials, _, host = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    return urlunsplit(parts._replace(netloc=host)), unquote(user), unquote(password)


def request(
    address: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Request:
    """A request to an address, whose credentials are in its header: urllib takes them for a part of
    the host's name.

    Raises:
        ValueError: it is no address.
    """
    bare, user, password = split_credentials(address)
    made = Request(bare, data, dict(headers or {}))
    if user and not made.has_header("Authorization"):
        basic = b64encode(f"{user}:{password}".encode()).decode()
        made.add_unredirected_header("Authorization", f"Basic {basic}")  # to no other server
    return made
