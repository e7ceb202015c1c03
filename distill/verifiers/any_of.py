"""Correct if one of several verifiers says so: `{any_of: [choice, exact]}`."""

from __future__ import annotations

from distill.verifiers._several import Several, SeveralVerifier

VERSION = 1


class Config(Several):
    """Settings of the `any_of` verifier."""


def build(config: Config) -> SeveralVerifier:
    """The verifier: asked in order, the first that finds an answer correct decides; else the strongest objection."""
    return SeveralVerifier("any_of", VERSION, config, stops_at_correct=True)
