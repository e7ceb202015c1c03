"""Brings the domains to a mixture: caps a domain, or shares of all, drawn without bias."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from distill.core.config import Settings, digest
from distill.core.protocols import Noted, Selection
from distill.core.records import Trace


class Config(Settings):
    """Settings of the `domains` filter: `{domains: {caps: {code: 9}}}` or `{domains: {shares: {math: 3, code: 1}}}`."""

    caps: dict[str, NonNegativeInt] = Field(default={})
    """Most traces of each domain named; others are not limited."""
    shares: dict[str, Annotated[float, PositiveFloat]] = Field(default={})
    """Parts of the whole, as weights: the largest set in these proportions is drawn, and domains not named go."""

    @model_validator(mode="after")
    def _one_way(self) -> Config:
        if bool(self.caps) == bool(self.shares):
            raise ValueError("give `caps` or `shares`, one of them")
        return self


def build(config: Config) -> Selection:
    """The filter."""
    return _Domains(config)


class _Domains:
    def __init__(self, config: Config) -> None:
        self.config = config

    def note(self, trace: Trace) -> str:
        """Its domain."""
        return trace.domain

    def reject(self, noted: Sequence[Noted]) -> Mapping[int, str]:
        """What goes over a domain's limit, by a hash of the key: no trace is preferred for what it says."""
        by_domain: dict[str, list[int]] = defaultdict(list)
        for place, trace in enumerate(noted):
            by_domain[trace.note].append(place)
        limits = self._limits({domain: len(places) for domain, places in by_domain.items()})
        gone: dict[int, str] = {}
        for domain, places in by_domain.items():
            ranked = sorted(places, key=lambda at: digest(["domains", noted[at].key]))
            gone |= dict.fromkeys(ranked[limits[domain] :], f"over the limit of {domain or 'no domain'}")
        return gone

    def _limits(self, sizes: Mapping[str, int]) -> Mapping[str, int]:
        if self.config.caps:
            return {domain: min(size, self.config.caps.get(domain, size)) for domain, size in sizes.items()}
        weights = self.config.shares
        whole = min(sizes.get(domain, 0) / weight for domain, weight in weights.items())
        return {domain: int(whole * weights.get(domain, 0.0) + 1e-9) for domain in sizes}
