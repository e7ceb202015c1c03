"""Personal data and secrets in a text, by their written form. Reasons name the kind, never the find."""

from __future__ import annotations

import ipaddress
import re

# Prefixes as their issuers document them. The marks before each pattern: a text without any of them has none of that
# kind, and looking for them is much faster than the pattern.
_SECRETS = {
    "private key": (("-----BEGIN ",), r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    "AWS access key": (("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "GitHub token": (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"\b(?:gh[pousr]_[0-9A-Za-z]{36,}|github_pat_[0-9A-Za-z_]{60,})\b",
    ),
    "Hugging Face token": (("hf_",), r"\bhf_[0-9A-Za-z]{30,}\b"),
    "OpenAI or Anthropic key": (("sk-",), r"\bsk-(?:proj-|ant-|svcacct-)?[0-9A-Za-z_-]{20,}"),
    "Google API key": (("AIza",), r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "Slack token": (("xox",), r"\bxox[abeprs]-[0-9A-Za-z-]{10,}"),
    "Stripe key": (("k_live_",), r"\b[rs]k_live_[0-9A-Za-z]{20,}\b"),
    "JSON web token": (("eyJ",), r"\beyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}"),
}
_EMAIL = re.compile(r"\b[0-9A-Za-z][0-9A-Za-z._%+-]{0,63}@((?:[0-9A-Za-z-]{1,63}\.){1,8}[A-Za-z]{2,24})\b")
_CARD_NUMBER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|(?:6011|65\d\d|64[4-9]\d)\d{12}"
)
_CARD = re.compile(r"(?<![\d.])(?:\d[ -]?){12,18}\d(?![\d.])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,4})?\b")
_PHONE = re.compile(r"(?<![\w+])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]\d{2,8}){1,4}(?!\w)")
_PHONE_DIGITS = range(8, 16)  # E.164 allows 15
_IP = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_SECRET = {kind: (marks, re.compile(pattern)) for kind, (marks, pattern) in _SECRETS.items()}

RESERVED_ENDS = (".example", ".test", ".invalid", ".localhost", "example.com", "example.org", "example.net")
"""Names that belong to nobody (RFC 2606)."""


def secret(text: str) -> str | None:
    """Kind of the first secret that is found, or None."""
    for kind, (marks, pattern) in _SECRET.items():
        if any(mark in text for mark in marks) and pattern.search(text):
            return kind
    return None


def personal(text: str) -> str | None:
    """Kind of the first personal datum that is found, or None.

    Card numbers and IBANs count only with a right check digit, addresses only outside reserved and private ranges:
    long numbers are common in mathematics.
    """
    if "@" in text and any(not domain.lower().endswith(RESERVED_ENDS) for domain in _EMAIL.findall(text)):
        return "e-mail address"
    if any(_luhn(re.sub(r"\D", "", match)) for match in _CARD.findall(text)):
        return "payment card number"
    if any(_iban(match.replace(" ", "")) for match in _IBAN.findall(text)):
        return "bank account number"
    if "+" in text and any(sum(char.isdigit() for char in match) in _PHONE_DIGITS for match in _PHONE.findall(text)):
        return "telephone number"
    return "network address" if any(_public(match) for match in _IP.findall(text)) else None


def _luhn(digits: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1), on numbers of an issuer's first digits and length."""
    if not _CARD_NUMBER.fullmatch(digits):
        return False
    doubled = (int(d) * 2 if n % 2 else int(d) for n, d in enumerate(reversed(digits)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _iban(text: str) -> bool:
    """ISO 13616: the rotated number modulo 97 is 1."""
    if not 15 <= len(text) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def _public(text: str) -> bool:
    try:
        return ipaddress.IPv4Address(text).is_global
    except ipaddress.AddressValueError:
        return False
