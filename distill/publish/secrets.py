"""What must not leave the machine: tokens and keys, paths of this machine, addresses of servers that are not public."""

from __future__ import annotations

import ipaddress
import re
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from distill.core.models import looks_local
from distill.text.private import secret

_PATH = re.compile(
    r"(?<![\w./:<-])(?:~|/(?:home|root|Users|mnt|media|tmp|var|data|srv|opt|scratch|workspace|work|private))/[\w.@+-]"
    r"|(?<![\w])[A-Za-z]:\\(?:Users|Documents and Settings)\\"
)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>`\\)\]}]+", re.IGNORECASE)
_LOCAL_ENDS = (".local", ".localhost", ".internal", ".intranet", ".lan", ".home", ".corp", ".private", ".cluster.local")
"""Names that no public server has (RFC 6762, RFC 8375 and what organisations use)."""

CUT_URL = "(address left out)"


def private(text: str) -> str | None:
    """Kind of the first thing in a text that must not go out, or None. Never the find itself."""
    if kind := secret(text):
        return kind
    if any(_credentials(url) for url in _URL.findall(text)):
        return "URL with a password"
    if any(_is_private(url) for url in _URL.findall(text)):
        return "address of a private server"
    if _PATH.search(text):
        return "path of a machine"
    return None


def shareable(value: Any) -> Any:
    """The same JSON value for others to read: paths are cut to their last part, URLs of private servers left out.

    A text with a secret in it is left out whole.
    """
    if isinstance(value, dict):
        return {key: shareable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [shareable(one) for one in value]
    if not isinstance(value, str):
        return value
    if secret(value) or any(_credentials(url) for url in _URL.findall(value)):
        return "(left out)"
    value = _URL.sub(lambda found: CUT_URL if _is_private(found.group()) else found.group(), value)
    if "\n" not in value and " " not in value and _PATH.match(value):
        return last_part(value)
    return re.sub(rf"(?:{_PATH.pattern})[^\s\"'<>`]*", lambda found: last_part(found.group()), value)


def model_name(name: str) -> str:
    """What a model is called in public: its Hub id or embedded name; of a path the last part."""
    return last_part(name) if looks_local(name) and "/" in name else shareable(name)


def last_part(path: str) -> str:
    """The last part of a path of any system."""
    return PurePath(path.replace("\\", "/").rstrip("/")).name or "(path left out)"


def _credentials(url: str) -> bool:
    try:
        return bool(urlsplit(url).password)
    except ValueError:
        return False


def _is_private(url: str) -> bool:
    """Whether a URL names a server that others cannot reach: a private address, or a name without a public ending."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower().rstrip(".")
    except ValueError:
        return True  # no URL that anybody can open; better left out than sent
    if parts.scheme == "file":
        return True
    if parts.scheme not in ("http", "https", "ws", "wss", "grpc", "tcp") or not host:
        return False
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_ENDS)
