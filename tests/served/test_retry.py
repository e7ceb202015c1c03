"""What servers ask for in their headers, what their refusals mean, and how waits are spread."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.served.faults import ENDS_RUN, RETRIED, masked, message_of, refused
from distill.served.retry import Backoff, retry_after_s

NOW_S = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sunday, 01-Mar-26 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun Mar  1 12:00:30 2026"}, 30.0),
        ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_both_forms_of_retry_after(headers, seconds):
    assert retry_after_s(headers, NOW_S) == (None if seconds is None else pytest.approx(seconds))


@given(st.integers(0, 10**6))
def test_a_date_is_the_seconds_until_then(ahead_s):
    date = format_datetime(datetime.fromtimestamp(NOW_S + ahead_s, UTC), usegmt=True)

    assert retry_after_s({"retry-after": date}, NOW_S) == pytest.approx(ahead_s)


@given(st.text(max_size=40))
def test_no_header_breaks_it(text):
    waited = retry_after_s({"retry-after": text, "retry-after-ms": text}, NOW_S)

    assert waited is None or waited >= 0


@given(st.integers(1, 2000), st.integers(0, 2**32))
def test_backoff_stays_below_its_bound(failures, seed):
    backoff = Backoff(first_s=0.5, cap_s=20.0, draw=random.Random(seed))

    assert 0.0 <= backoff.wait_s(failures) <= min(20.0, 0.5 * 2.0 ** min(failures - 1, 60))


def test_backoff_is_spread_over_the_whole_range():
    backoff = Backoff(first_s=1.0, cap_s=8.0, draw=random.Random(0))

    waits = [backoff.wait_s(9) for _ in range(400)]

    assert min(waits) < 0.4
    assert max(waits) > 7.6
    assert sum(waits) / len(waits) == pytest.approx(4.0, abs=0.4)


@pytest.mark.parametrize(
    ("body", "said", "code"),
    [
        ({"error": {"message": "no such\nmodel", "code": "model_not_found"}}, "no such model", "model_not_found"),
        ({"error": "rate limited"}, "rate limited", ""),
        ({"message": "bad", "type": "BadRequestError", "code": 400}, "bad", "400"),
        ([{"error": {"code": 400, "message": "no thinking here"}}], "no thinking here", "400"),
        ({"detail": "Not Found"}, "Not Found", ""),
        ({"detail": [{"loc": ["body", "seed"], "msg": "extra"}, {"msg": "short"}]}, "body.seed: extra; short", ""),
        ("plain", "plain", ""),
    ],
)
def test_the_server_s_own_words_are_found(body, said, code):
    assert message_of(json.dumps(body).encode()) == (said, code)


def test_a_page_of_html_and_a_long_text_become_a_line():
    page = b"<html><head><style>p {}</style></head><body><h1>502 Bad\n Gateway</h1></body></html>"

    assert message_of(page)[0] == "502 Bad Gateway"
    assert len(message_of(b"x" * 10_000)[0]) <= 300


@given(st.binary(max_size=200))
def test_no_error_body_breaks_it(content):
    text = str(refused(500, {}, content))

    assert "\n" not in text


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["error", "message", "detail", "code", "msg", "loc"]), inner, max_size=3),
                    max_leaves=8))  # fmt: skip
def test_no_shape_of_an_error_breaks_it(body):
    assert "\n" not in str(refused(400, {}, json.dumps(body).encode()))


def test_which_statuses_are_tried_again():
    assert {408, 409, 425, 429, 500, 502, 503, 504} <= RETRIED
    assert {401, 403, 404} <= ENDS_RUN
    for status in range(400, 600):
        fault = refused(status, {"retry-after": "3"}, b"{}")
        assert not (fault.again and fault.ends_run)
        assert fault.again == (status in RETRIED)
        assert fault.retry_after_s == (3.0 if fault.again else None)
        assert fault.kind == str(status)


def test_a_quota_that_is_spent_is_no_busy_minute():
    spent = refused(429, {}, json.dumps({"error": {"message": "m", "code": "insufficient_quota"}}).encode())

    assert (spent.again, spent.ends_run) == (False, True)
    assert refused(429, {}, b"{}").again


@pytest.mark.parametrize(("status", "bill"), [(400, "nothing"), (429, "nothing"), (503, "nothing"), (500, "nothing"),
                                              (502, "worst"), (504, "worst"), (524, "worst")])  # fmt: skip
def test_what_a_refused_try_may_cost(status, bill):
    assert refused(status, {}, b"{}").bill == bill


KEY = "sk-proj-abcdefghijklmnop"


@pytest.mark.parametrize("echo", [KEY, f"Bearer {KEY}", "sk-proj-abcdefgh", "mnop is wrong", KEY * 2, f"'{KEY[4:]}'"])
def test_an_echoed_key_is_masked(echo):
    text = masked(f"wrong key: {echo}.", [KEY])

    assert not any(KEY[i : i + 8] in text for i in range(len(KEY) - 7))
    assert text.startswith("wrong key: ")


@given(st.text(min_size=1, max_size=30), st.text(max_size=60))
def test_a_secret_never_comes_through(secret, around):
    text = masked(f"{around}{secret}{around}", [secret])

    assert secret not in text or secret in "***"


def test_a_refusal_masks_the_key():
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()

    assert str(refused(401, {}, body, [KEY])) == "401: Incorrect API key provided: ***"
