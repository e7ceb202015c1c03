"""Rows that are drawn side by side: prompts in, one token a row and step, finished rows out.

Shapes: B rows, T prompt tokens, N drawn tokens, V vocabulary entries, K recorded entries.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.core.protocols import TokenLogprobs
from distill.core.records import Sampling
from distill.core.shards import narrow
from distill.decoding.cache import Layers, RowCache
from distill.decoding.draw import HEAD, Settings, draw, logprobs, rank
from distill.decoding.steady import Shapes

PROMPT_MULTIPLE = 16
"""A prompt is padded to a multiple of this: a width that depends on its own length alone."""


class Stepper(Protocol):
    """A model as a batch needs it."""

    device: torch.device
    shapes: Shapes

    def read(self, ids_BT: Tensor) -> Layers:
        """Keys and values of whole prompts, padded on the right."""

    def step(self, feed_B: Tensor, cache: RowCache) -> Tensor:
        """Feed one token a row where the cache points; float32 logits [B, V] of the next, on a device with float64."""

    def ends(self, ids_B: Tensor) -> Tensor:
        """Which of the drawn ids end an answer, bool [B]."""


@dataclass
class Row:
    """One answer to draw. `fed` is all before its first new token, at least one id; `limit` how many may be drawn."""

    fed: tuple[int, ...]
    limit: int
    sampling: Sampling
    noise: np.random.Generator
    started_s: float = 0.0
    ids: tuple[int, ...] = ()
    logprobs: TokenLogprobs | None = None
    tag: Any = field(default=None)
    """The caller's own."""


def padded(tokens: int) -> int:
    """The width at which a prompt of so many tokens is read."""
    return max(1, -(-tokens // PROMPT_MULTIPLE)) * PROMPT_MULTIPLE


class Batch:
    """Up to `slots` rows with their caches.

    Rows are left-aligned in the cache. A row that has ended leaves a hole, which goes on as an empty row until enough
    have ended for rows from the back to fill the holes and every step to be a multiple shorter.
    """

    def __init__(
        self, model: Stepper, rows: Sequence[Row], slots: int, top_k: int, temperatures: Sequence[float] = ()
    ) -> None:
        """Read the prompts of `rows` (one to `slots`). `top_k` log-probabilities are recorded a token, with their tail
        term at each of the `temperatures` other than 1.
        """
        self.model, self.slots, self.top_k, self.temperatures = model, slots, top_k, tuple(temperatures)
        whole = self._whole(len(rows))
        self.rows: list[Row | None] = [*rows, *[None] * (whole - len(rows))]
        self.alive = len(rows)
        self._state: dict[str, NDArray[Any]] = {
            "length": np.zeros(whole, np.int64), "feed": np.zeros(whole, np.int64), "drawn": np.zeros(whole, np.int64),
            "limit": np.zeros(whole, np.int64), "temperature": np.zeros(whole), "top_p": np.zeros(whole),
            "top_k": np.zeros(whole, np.int64),
        }  # fmt: skip
        now_s = time.monotonic()
        for b, row in enumerate(rows):
            row.started_s = now_s
            drawn = {"length": len(row.fed) - 1, "feed": row.fed[-1], "limit": row.limit}
            how = {name: getattr(row.sampling, name) for name in ("temperature", "top_p", "top_k")}
            for name, value in (drawn | how).items():
                self._state[name][b] = value
        width = min(64, max(row.limit for row in rows))
        self._steps: dict[str, NDArray[Any]] = {
            "noise": np.zeros((whole, width)),
            "ids": np.zeros((whole, width), np.int32),
        }
        if top_k:
            self._steps |= {
                "top_ids": np.zeros((whole, width, top_k), np.int32),
                "top": np.zeros((whole, width, top_k), np.float32),
                "tail": np.zeros((whole, width), np.float32),
                "realised": np.zeros((whole, width), np.float32),
                "tails": np.zeros((whole, width, len(self.temperatures)), np.float32),
            }
        self._fill_noise(0)
        self._settings: Settings | None = None
        self._cache = self._read(rows)

    def step(self) -> list[Row]:
        """Draw one token for every live row; those that ended with it, with their ids and log-probabilities."""
        state, device = self._state, self.model.device
        if int(state["drawn"].max()) == self._steps["ids"].shape[1]:
            self._widen(2 * self._steps["ids"].shape[1])
        multiple = self.model.shapes.span
        span = -(-(int(state["length"].max()) + 1) // multiple) * multiple
        here = (np.arange(len(self.rows)), state["drawn"])
        with torch.inference_mode():
            self._cache.reserve(self.slots, span)
            self._cache.point(torch.from_numpy(state["length"]).to(device), span)
            logits_BV = self.model.step(torch.from_numpy(state["feed"]).to(device), self._cache)
            ranked = rank(logits_BV, max(HEAD, self.top_k))
            where = logits_BV.device
            drawn_B = draw(ranked, self._row_settings(where), torch.from_numpy(self._steps["noise"][here]).to(where))
            if self.top_k:
                got = logprobs(ranked, drawn_B, self.top_k, self.temperatures)
                kept = {
                    "top_ids": got.ids_BK, "top": got.logprobs_BK, "tail": got.tail_B, "realised": got.realised_B,
                    "tails": got.tails_TB.T,
                }  # fmt: skip
                for name, values in kept.items():
                    self._steps[name][here] = values.cpu().numpy()
            ended_B = self.model.ends(drawn_B).cpu().numpy()
            ids_B = drawn_B.cpu().numpy()
        self._steps["ids"][here] = ids_B
        lives_B = np.array([row is not None for row in self.rows])
        state["feed"] = np.where(lives_B, ids_B, 0)
        state["drawn"] += lives_B
        state["length"] += lives_B
        done = [self._end(int(b)) for b in np.flatnonzero(lives_B & (ended_B | (state["drawn"] >= state["limit"])))]
        if done:
            self._close_up()
        return done

    def drawn(self, b: int) -> tuple[int, ...]:
        """What has been drawn of the live row b so far."""
        return tuple(self._steps["ids"][b, : self._state["drawn"][b]].tolist())

    def join(self, other: Batch) -> None:
        """Take over the live rows of another batch; together they are at most `slots`."""
        mine, theirs = self._living(), other._living()
        rows = [self.rows[b] for b in mine] + [other.rows[b] for b in theirs]
        whole = self._whole(len(rows))
        width = max(self._steps["ids"].shape[1], other._steps["ids"].shape[1])
        self._widen(width)
        other._widen(width)
        for held, taken in ((self._state, other._state), (self._steps, other._steps)):
            for name, column in held.items():
                holes = np.zeros((whole - len(rows), *column.shape[1:]), column.dtype)
                held[name] = np.concatenate([column[mine], taken[name][theirs], holes])
        longest = int(self._state["length"].max())
        self._cache.reserve(self.slots, longest)
        self._cache.move(self._index(mine), self._index(range(len(mine))), longest)
        self._cache.put(other._cache.layers(), self._index(theirs), self._index(range(len(mine), len(rows))))
        self.rows = [*rows, *[None] * (whole - len(rows))]
        self.alive = len(rows)
        self._settings = None

    def _read(self, rows: Sequence[Row]) -> RowCache:
        """Read the prompts but for their last token, the same ones once, and give each row its copy."""
        prompts: dict[tuple[int, ...], list[int]] = {}
        for b, row in enumerate(rows):
            prompts.setdefault(row.fed[:-1], []).append(b)
        room = padded(max(len(row.fed) for row in rows)) + 64
        cache: RowCache | None = None
        with torch.inference_mode():
            for width, same in groupby(sorted(prompts, key=len), key=lambda ids: padded(len(ids))):
                group = list(same)
                each = max(1, self.model.shapes.prefill // width)
                for at in range(0, len(group), each):
                    part = group[at : at + each]
                    ids_BT = torch.zeros((len(part), width), dtype=torch.int64)
                    for i, ids in enumerate(part):
                        ids_BT[i, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
                    layers = self.model.read(ids_BT.to(self.model.device))
                    cache = cache or RowCache(layers, self.slots, room)
                    source = self._index(i for i, ids in enumerate(part) for _ in prompts[ids])
                    cache.put(layers, source, self._index(b for ids in part for b in prompts[ids]))
        assert cache is not None, "a batch has at least one row"
        return cache

    def _end(self, b: int) -> Row:
        row = self.rows[b]
        assert row is not None
        row.ids = self.drawn(b)
        if row.sampling.top_logprobs:
            row.logprobs = self._recorded(b, row.sampling)
        self.rows[b] = None
        self.alive -= 1
        for column in self._state.values():
            column[b] = 0
        return row

    def _recorded(self, b: int, sampling: Sampling) -> TokenLogprobs:
        """A row's log-probabilities; entries beyond what it asked for go to its tails."""
        part = {name: column[b, : self._state["drawn"][b]].copy() for name, column in self._steps.items()}
        whole = TokenLogprobs(
            ids_NK=part["top_ids"],
            logprobs_NK=part["top"],
            tail_N=part["tail"],
            realised_N=part["realised"],
            present_N=np.ones(len(part["tail"]), np.bool_),
            tails={
                t: part["tails"][:, place]
                for place, t in enumerate(self.temperatures)
                if t in sampling.logprob_temperatures
            },
        )
        return narrow(whole, sampling.top_logprobs)

    def _close_up(self) -> None:
        """Fill holes with rows from the back, once that makes every step shorter."""
        whole = self._whole(self.alive)
        if whole == len(self.rows):
            return
        movers = [b for b in range(whole, len(self.rows)) if self.rows[b] is not None]
        holes = [b for b in range(whole) if self.rows[b] is None][: len(movers)]
        for held in (self._state, self._steps):
            for name, column in held.items():
                column[holes] = column[movers]
                held[name] = column[:whole]
        for hole, mover in zip(holes, movers, strict=True):
            self.rows[hole] = self.rows[mover]
        del self.rows[whole:]
        self._cache.move(self._index(movers), self._index(holes), int(self._state["length"].max()))
        self._settings = None

    def _whole(self, rows: int) -> int:
        multiple = self.model.shapes.rows
        return max(1, -(-rows // multiple)) * multiple

    def _index(self, places: Iterable[int]) -> Tensor:
        return torch.tensor(list(places), dtype=torch.int64, device=self.model.device)

    def _living(self) -> list[int]:
        return [b for b, row in enumerate(self.rows) if row is not None]

    def _row_settings(self, where: torch.device) -> Settings:
        if self._settings is None:
            columns = (torch.from_numpy(self._state[name]).to(where) for name in ("temperature", "top_p", "top_k"))
            self._settings = Settings(*columns)
        return self._settings

    def _widen(self, width: int) -> None:
        """Make room for `width` drawn tokens a row."""
        had = self._steps["ids"].shape[1]
        if width <= had:
            return
        for name, column in self._steps.items():
            more = np.zeros((column.shape[0], width - had, *column.shape[2:]), column.dtype)
            self._steps[name] = np.concatenate([column, more], axis=1)
        self._fill_noise(had)

    def _fill_noise(self, start: int) -> None:
        noise_BN = self._steps["noise"]
        for b, row in enumerate(self.rows):
            if row is not None and row.sampling.numbers()[0] > 0:
                noise_BN[b, start:] = row.noise.random(noise_BN.shape[1] - start)
