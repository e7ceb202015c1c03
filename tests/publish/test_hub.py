"""Faults of the Hub in words, without secrets, and only those."""

from __future__ import annotations

import logging

import pytest

from distill.core.errors import DistillError
from distill.publish import hub


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("PUT https://s3.example/x/y?X-Amz-Signature=abc&part=1 failed", "PUT https://s3.example/x/y?... failed"),
        ("token hf_abcdefghijKLMNOP is wrong", "token ... is wrong"),
        ("two\n  lines ?", "two lines ?"),
        ("nothing secret", "nothing secret"),
    ],
)
def test_messages_are_one_line_without_secrets(text: str, kept: str) -> None:
    assert hub.clean(text) == kept


def test_what_huggingface_hub_logs_has_no_signed_address(caplog: pytest.LogCaptureFixture) -> None:
    hub.api()
    hub.api()
    (handler,) = logging.getLogger("huggingface_hub").handlers
    assert len([one for one in handler.filters if type(one).__name__ == "_Discreet"]) == 1
    record = logging.LogRecord("huggingface_hub.x", 30, "", 0, "PUT %s", ("http://s/part?X-Signature=abc",), None)
    assert handler.filter(record)
    assert record.getMessage() == "PUT http://s/part?..."


def test_a_bug_is_no_fault_of_the_hub() -> None:
    def work() -> None:
        raise KeyError("url")

    with pytest.raises(KeyError):
        hub.patiently("publish", "you/x", work)


def test_a_bug_in_answer_to_a_fault_is_still_a_bug() -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    def work() -> None:
        try:
            raise OfflineModeIsEnabled("offline")
        except OfflineModeIsEnabled:
            raise KeyError("url")  # noqa: B904  # on purpose: the context is no cause

    with pytest.raises(KeyError):
        hub.patiently("publish", "you/x", work)


def test_a_fault_that_was_wrapped_is_found() -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    def work() -> None:
        try:
            raise OfflineModeIsEnabled("offline")
        except OfflineModeIsEnabled as error:
            raise RuntimeError("Error while uploading 'x' to the Hub.") from error

    with pytest.raises(DistillError, match="publish you/x: HF_HUB_OFFLINE is set; unset it"):
        hub.patiently("publish", "you/x", work)


@pytest.mark.parametrize(
    ("told", "word"),
    [("Consistency check failed: 3 of 4", "network"), ("Invalid metadata in README.md.\n- no", "does not accept")],
)
def test_faults_without_a_class_of_their_own(monkeypatch: pytest.MonkeyPatch, told: str, word: str) -> None:
    monkeypatch.setattr(hub, "WAITS_S", ())

    def work() -> None:
        raise (OSError if told.startswith("C") else ValueError)(told)

    with pytest.raises(DistillError, match=word):
        hub.patiently("pull", "you/x", work)
