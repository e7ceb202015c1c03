"""Rejects traces that hold personal data or secrets; the reason names the kind, never the find."""

from __future__ import annotations

from distill.core.config import Settings
from distill.core.protocols import Screen
from distill.core.records import Trace
from distill.text.private import personal, secret


class Config(Settings):
    """Settings of the `private` filter."""

    personal: bool = True
    """Look for e-mail addresses, payment cards, bank accounts, telephone numbers and network addresses."""
    secrets: bool = True
    """Look for private keys and access tokens."""


def build(config: Config) -> Screen:
    """The filter."""
    return _Private(config)


class _Private:
    def __init__(self, config: Config) -> None:
        self.config = config

    def fault(self, trace: Trace) -> str:
        """The kind of the first find, in question, reasoning or answer."""
        texts = (*(message.content for message in trace.messages), trace.reasoning or "", trace.answer)
        for text in texts:
            if self.config.secrets and (kind := secret(text)):
                return f"secret: {kind}"
            if self.config.personal and (kind := personal(text)):
                return f"personal data: {kind}"
        return ""
