"""Correct if every one of several verifiers says so: `{all_of: [math, {format: {boxed: one}}]}`."""

from __future__ import annotations

from distill.verifiers._several import Several, SeveralVerifier

VERSION = 1


class Config(Several):
    """Settings of the `all_of` verifier."""


def build(config: Config) -> SeveralVerifier:
    """The verifier: asked in order, the first that does not find an answer correct decides."""
    return SeveralVerifier("all_of", VERSION, config, stops_at_correct=False)
