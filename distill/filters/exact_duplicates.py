"""Keeps one of several traces of a problem that say the same, word for word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from distill.core.config import Settings, digest
from distill.core.protocols import Noted, Selection
from distill.core.records import Trace


class Config(Settings):
    """The `exact_duplicates` filter has no settings."""


def build(config: Config) -> Selection:
    """The filter."""
    del config
    return _ExactDuplicates()


class _ExactDuplicates:
    def note(self, trace: Trace) -> bytes:
        """Whether it was not graded correct (one byte), and a hash of what it says, white space aside."""
        reasoning = None if trace.reasoning is None else " ".join(trace.reasoning.split())
        said = digest([trace.problem_id, reasoning, " ".join(trace.answer.split())])
        return bytes([trace.verdict != "correct"]) + bytes.fromhex(said[:32])

    def reject(self, noted: Sequence[Noted]) -> Mapping[int, str]:
        """The copy that is kept is a correct one where there is one, then the one of the smallest key."""
        copies: dict[bytes, list[int]] = defaultdict(list)
        for place, trace in enumerate(noted):
            copies[trace.note[1:]].append(place)
        kept = {min(same, key=lambda at: (noted[at].note[:1], noted[at].key)) for same in copies.values()}
        return {place: "same text as another" for same in copies.values() for place in same if place not in kept}
