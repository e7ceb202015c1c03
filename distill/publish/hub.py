"""The Hub as publish and pull meet it: huggingface_hub's client, patience with it, and its faults in one line.

Who we are is huggingface_hub's own affair (`hf auth login`, HF_TOKEN): no token passes through this package.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from distill.core.errors import DistillError
from distill.core.stage import say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Between tries of a request that failed in a way that may pass, where the Hub does not say how long."""
LONGEST_WAIT_S = 300.0
"""If the Hub asks for more patience than this, it is the person's to decide."""
SILENCE_S = 300.0
"""A connection on which nothing moves for so long is given up; huggingface_hub itself would wait for ever."""

PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may well succeed."""

REFUSED = ("LFS batch API returned errors", "Invalid metadata in README.md", "The file is too large to be downloaded")
CUT_OFF = "Consistency check failed"
"""How huggingface_hub begins those faults for which it has no class of its own."""

SECRET = re.compile(r"hf_\w{8,}|(?<=[?&])[^\s\"'<>]+")
"""A token, and the query of an address: storage addresses are signed there."""


def api() -> HfApi:
    """huggingface_hub's client, with its login and its endpoint (HF_ENDPOINT)."""
    from huggingface_hub import HfApi

    for handler in logging.getLogger("huggingface_hub").handlers:
        if not any(isinstance(present, _Discreet) for present in handler.filters):
            handler.addFilter(_Discreet())
    return HfApi(library_name="reasoning-distill")


def patiently(doing: str, where: str, work: Callable[[], T]) -> T:
    """What `work` gives, tried again where that may help. Raises DistillError, one line, for a fault of the Hub or of
    the way to it; any other exception passes.

    `doing` and `where` name the work and the repository for that line.
    """
    from huggingface_hub import get_session

    for wait_s in (*WAITS_S, None):
        try:
            get_session().timeout = SILENCE_S
            return work()
        except Exception as error:
            fault = _fault(error)
            if fault is None:
                raise
            asked_s = _asked_wait_s(fault)
            if wait_s is None or not _may_pass(fault) or (asked_s or 0) > LONGEST_WAIT_S:
                raise DistillError(explain(fault, doing, where)) from error
            pause_s = wait_s if asked_s is None else asked_s
            say(f"{doing} {where}: {_short(fault)}; trying again in {pause_s:g} s")
            time.sleep(pause_s)
    raise AssertionError("the last try has no wait, so it returns or raises")


def explain(fault: Exception, doing: str, where: str) -> str:
    """The fault in one line: what, where, and what to do about it."""
    return f"{doing} {where}: {_short(fault)}; {_remedy(fault, where)}"


def status_of(fault: Exception) -> int | None:
    """HTTP status of the answer, None where there was none."""
    response = getattr(fault, "response", None)
    return None if response is None else int(response.status_code)


def not_found(error: BaseException) -> bool:
    """Whether the Hub says that there is no such repository, or none that this login may see."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return False
    return isinstance(error, RepositoryNotFoundError) or status_of(_fault(error) or Exception()) == 404


def clean(text: str) -> str:
    """One line without tokens and without queries of addresses."""
    return SECRET.sub("...", " ".join(text.split()))


class _Discreet(logging.Filter):
    """huggingface_hub logs addresses that it tries again; those of the storage are signed."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = SECRET.sub("...", record.getMessage()), ()
        return True


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from: uploads run in threads, whose faults arrive wrapped."""
    while error is not None:
        yield error
        error = error.__cause__


def _fault(error: BaseException) -> Exception | None:
    """The fault of the Hub or of the way to it that lies behind an exception; None if it is another kind."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    found = list(_chain(error))
    for kinds in ((HfHubHTTPError,), (LocalTokenNotFoundError, OfflineModeIsEnabled), (_transport_faults(),)):
        for one in found:
            if isinstance(one, kinds) and isinstance(one, Exception):
                return one
    told = str(error)
    return error if isinstance(error, (ValueError, OSError)) and told.startswith((*REFUSED, CUT_OFF)) else None


def _transport_faults() -> type[Exception]:
    """What the HTTP library raises without an answer: its own base class, of httpx or (from huggingface_hub 2 on)
    httpx2.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def _may_pass(fault: Exception) -> bool:
    status = status_of(fault)
    if status is not None:
        return status in PASSING
    return isinstance(fault, _transport_faults()) or str(fault).startswith(CUT_OFF)


def _asked_wait_s(fault: Exception) -> float | None:
    """How long the Hub asks us to wait: `Retry-After`, or the reset of its rate limit."""
    response = getattr(fault, "response", None)
    if response is None or status_of(fault) not in PASSING:
        return None
    after = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*", response.headers.get("Retry-After", ""))
    used_up = re.search(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", response.headers.get("RateLimit", ""))
    reset = used_up if status_of(fault) == 429 else None  # the header comes with every answer
    return float(after[1]) if after else float(reset[1]) + 1 if reset else None


def _short(fault: Exception) -> str:
    """What happened, in a few words."""
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    status = status_of(fault)
    if status is not None:
        said, wait_s = clean(getattr(fault, "server_message", None) or "")[:160], _asked_wait_s(fault)
        told = [*([said] if said else []), *([f"wait {wait_s:g} s"] if wait_s else [])]
        return f"the Hub answers {status}" + (f" ({'; '.join(told)})" if told else "")
    if isinstance(fault, LocalTokenNotFoundError):
        return "not logged in"
    if isinstance(fault, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(fault, _transport_faults()):
        return f"the Hub cannot be reached ({clean(str(fault))[:160] or type(fault).__name__})"
    return clean(str(fault))[:300]


def _remedy(fault: Exception, where: str) -> str:
    """What to do about it."""
    from huggingface_hub import errors

    again = "what has arrived is kept, the same command goes on from there"
    if isinstance(fault, errors.LocalTokenNotFoundError):
        return "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(fault, errors.OfflineModeIsEnabled):
        return "unset it to use the Hub"
    if isinstance(fault, errors.GatedRepoError):
        return f"ask for access to {where} on its page"
    status = status_of(fault)
    if isinstance(fault, errors.RepositoryNotFoundError):
        status = 404  # to somebody without a login the Hub answers 401 for what is private or not there
    remedies = {
        401: "the token is missing or no longer valid: log in with `hf auth login`, or set HF_TOKEN",
        403: f"this login may not do that with {where}: it needs a token that can write there (`hf auth whoami`)",
        404: f"there is no {where}, or this login may not see it: check the name, and the login (`hf auth whoami`)",
        409: "another change of the repository is under way: try again in a minute",
        412: "somebody changed the repository meanwhile: run the command again, it looks anew",
        413: "the Hub takes no more at once: publish fewer formats, or to several repositories",
        429: f"wait, then run the command again; {again}",
    }
    if status in remedies:
        return remedies[status]
    if status is not None and status >= 500:
        return f"the Hub has trouble, see https://status.huggingface.co; {again}"
    if status is not None:
        return "the Hub does not accept this; its own words are above"
    if _may_pass(fault):
        return f"check the network (and HF_ENDPOINT, if it is set); {again}"
    return "the Hub does not accept this"
