"""What can go wrong with one try, and what follows from it: another try, a failed answer, or the end of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from distill.served.retry import retry_after_s

Bill = Literal["nothing", "worst", "usage"]
"""What a failed try may cost: nothing, the worst case that was reserved for it, or the usage that came with it."""

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
"""Statuses that another try may mend. 409 is a lock at some hosts, 52x are Cloudflare's, 529 is an overload."""

ENDS_RUN = {401, 402, 403, 404, 405}
"""Statuses that every other request would get as well: wrong key, no credit, not allowed, no such model or path."""

GATEWAY = {408, 502, 504, 520, 522, 524}
"""Said by something between, which lost the server: that may have answered, and billed."""

SPENT = {"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"}
"""Codes of a 429 that waiting does not mend."""

LONGEST_MESSAGE = 300
"""Characters of a server's message that are kept."""

LEAST_SECRET = 8
"""Shortest piece of a secret that is masked."""


class Fault(Exception):
    """One try failed. `kind` is for counting, the text for people: the server's own words where it said any.

    `again` says whether another try may mend it, `ends_run` whether every other request would meet the same,
    `at_endpoint` whether another endpoint might have answered. `unreachable`: nothing was listening.
    `usage` (prompt, completion tokens) is what the failed reply itself said it cost. `where` is the endpoint's URL.
    """

    def __init__(
        self,
        kind: str,
        text: str,
        *,
        again: bool = True,
        ends_run: bool = False,
        at_endpoint: bool = False,
        unreachable: bool = False,
        bill: Bill = "worst",
        usage: tuple[int, int] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.where = ""
        self.kind, self.again, self.ends_run, self.at_endpoint = kind, again, ends_run, at_endpoint
        self.unreachable, self.bill, self.usage, self.retry_after_s = unreachable, bill, usage, retry_after_s


def refused(status: int, headers: dict[str, str], content: bytes, secrets: Sequence[str] = ()) -> Fault:
    """The fault that an HTTP status other than 200 stands for. `headers` in lower case.

    Refused tries cost nothing. So does a 500: it is the server's own word that there is no answer, and usage, which is
    what providers bill, comes with answers only. A gateway's word (502, 504 ...) says nothing of what lies behind it,
    so it may cost the worst case.
    """
    text, code = message_of(content)
    text = masked(f"{status}: {text}" if text else f"{status} without a word", secrets)
    spent = status == 429 and code in SPENT
    again = status in RETRIED and not spent
    return Fault(
        str(status),
        text,
        again=again,
        ends_run=status in ENDS_RUN or spent,
        at_endpoint=status >= 500,
        bill="worst" if status in GATEWAY else "nothing",
        retry_after_s=retry_after_s(headers) if again else None,
    )


def message_of(content: bytes) -> tuple[str, str]:
    """(what the server said in one line, its error code or "") of an error body in any of the usual shapes."""
    try:
        body: Any = json.loads(content)
    except ValueError:
        text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", content[:4000].decode(errors="replace"), flags=re.S)
        return _line(text), ""
    while isinstance(body, list) and body:  # Gemini wraps its errors in a list
        body = body[0]
    if not isinstance(body, dict):
        return _line(str(body)), ""
    error = body.get("error", body)
    if not isinstance(error, dict):
        return _line(str(error)), ""
    said = next((error[name] for name in ("message", "detail", "msg", "error") if error.get(name)), None)
    if isinstance(said, list):  # FastAPI's list of what is wrong where
        said = "; ".join(_complaint(item) for item in said[:3])
    return _line(str(said if said is not None else error)), str(error.get("code") or error.get("type") or "")


def _complaint(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    place = item.get("loc")
    where = ".".join(map(str, place)) if isinstance(place, list) else ""
    return f"{where}: {item.get('msg', item)}" if where else str(item.get("msg", item))


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 3] + "..."


def masked(text: str, secrets: Sequence[str]) -> str:
    """The text without the secrets, and without pieces of them that a server may have echoed."""
    for secret in secrets:
        if len(secret) < LEAST_SECRET:
            text = text.replace(secret, "***") if secret else text
            continue
        at = 0
        while at <= len(text) - LEAST_SECRET:
            end = at + LEAST_SECRET
            if text[at:end] not in secret:
                at += 1
                continue
            while end < len(text) and text[at : end + 1] in secret:
                end += 1
            text = f"{text[:at]}***{text[end:]}"
            at += 3
    return text
