"""`probe`: what this teacher really returns, seen in a dozen small calls before money is spent on it.

One question is asked as the experiment would ask it; then some tiny ones, each changing one setting, show whether the
server honours that setting, as far as can be seen from outside. Nothing of it enters the ledger.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast

from distill.core import fingerprint
from distill.core.config import Settings, digest
from distill.core.errors import ConfigError, DistillError
from distill.core.models import is_embedded, looks_local, resolve
from distill.core.protocols import Completion, Engine, Request
from distill.core.records import Message, Problem, ReasoningKind, Sampling
from distill.core.stage import Report, say
from distill.text.think import THINK, Dialect, Split, split_think
from teachers import family
from teachers.family import Family
from teachers.rounds import Manner, as_asked
from teachers.sample import Config as SampleConfig
from teachers.settings import Config as TeacherConfig

QUESTION = "What is 17 + 25?"
VARIED = "Write down twenty random English words."
"""What the tiny calls ask: its continuation has many likely beginnings, so that other seeds give other texts."""

FIRST_TOKENS = 1024
"""Longest answer to the question; reasoning about a sum is shorter, or too long to be waited for."""

TINY_TOKENS = 32
"""Longest answer of a tiny call."""

FEW_TOKENS = 8
"""Longest answer of a call that is only to be refused or not."""

PLAIN_TOKENS = 256
"""Longest answer to the question without thinking."""

ASKED_LOGPROBS = (128, 20, 5, 1)
"""How many log-probabilities a token are asked for, until the server gives them."""

MOST_CALLS = 12 + len(ASKED_LOGPROBS)
MOST_TOKENS = FIRST_TOKENS + 9 * TINY_TOKENS + PLAIN_TOKENS + FEW_TOKENS * (1 + len(ASKED_LOGPROBS))

PROMPT_TOKENS = 128
"""What a call's prompt has about, system prompt included."""

UNKNOWN = "distill_probe_unknown_setting"

STOP_TOKEN = re.compile(r"(?:<\|[^<>|\s]{1,40}\|>|<\uff5c[^<>\uff5c]{1,40}\uff5c>|</s>|<end_of_turn>|<eos>)\s*$")
"""A stop token's text at the end of an answer, where a server forgot to take it off."""

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details")

Word = Literal["honoured", "ignored", "refused", "not sent", "cannot be seen"]


@dataclass(frozen=True)
class Seen:
    """What was seen of one setting, and why it is thought so."""

    word: Word
    why: str = ""


@dataclass(frozen=True)
class Reasoning:
    """Where reasoning arrives, what it is worth, and how the rest of that answer looks."""

    where: Literal["field", "inline", "hidden", "nowhere"]
    note: str
    kind: ReasoningKind
    answer: str
    finished: bool
    stop_token: str = ""
    """A stop token whose text the server left at the answer's end."""


@dataclass(frozen=True)
class Logprobs:
    """How many log-probabilities a token come, whether tokens are named by id, and what keeps them from being used."""

    top: int = 0
    named: bool = False
    note: str = ""
    why_not: str = ""


@dataclass
class Probe:
    """Calls to one teacher, and what they took."""

    engine: Engine
    manner: Manner
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    heard: list[dict[str, Any]] = field(default_factory=list)
    """Raw replies to the last call, of an engine that speaks HTTP."""

    def ask(self, question: str, tag: str, sampling: Sampling) -> Completion:
        """One call. The tag stands for the sample's key: the same tag asks with the same seed.

        A fault of the server comes back as a completion with `error`.
        """
        problem = Problem(id=tag, messages=(Message("user", question),), gold=None, split="train")
        asked = as_asked(problem, system=self.manner.system, instruction=self.manner.instruction)
        self.calls += 1
        self.heard.clear()
        request = Request(digest(["probe", tag]), asked.messages, sampling)
        try:
            (completion,) = self.engine.generate([request])
        except ConfigError:
            raise
        except DistillError as error:  # what would end a run is one finding of a probe
            completion = Completion(request.key, "", "error", None, None, None, 0, 0, False, error=str(error))
        self.prompt_tokens += completion.prompt_tokens
        self.completion_tokens += completion.completion_tokens
        return completion

    def tiny(self, tag: str, **changed: Any) -> Completion:
        """A tiny call: drawn freely, but for what is changed."""
        sampling = self.manner.sampling
        free = replace(
            sampling,
            temperature=None if sampling.temperature is None else 1.0,
            top_p=None if sampling.top_p is None else 1.0,
            top_k=0,
            max_tokens=TINY_TOKENS,
            top_logprobs=0,
        )
        return self.ask(VARIED, tag, replace(free, **changed))

    @property
    def choice(self) -> dict[str, Any]:
        """The raw reply's answer; empty where the engine speaks no HTTP."""
        choices = self.heard[-1].get("choices") if self.heard else None
        return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}

    @property
    def context(self) -> int | None:
        """Tokens of prompt and answer together, where the engine knows."""
        known = getattr(getattr(self.engine, "sender", self.engine), "context", None)
        return known if isinstance(known, int) else None

    def room(self, sampling: Sampling, most: int) -> int:
        """Tokens that an answer to the question may have."""
        limit = min(sampling.max_tokens, most)
        room: Any = getattr(self.engine, "room", None)
        return limit if room is None else min(limit, room([Message("user", QUESTION)], sampling.thinking))


def run(sections: Mapping[str, Settings]) -> Report:
    """Probe the teacher of one arm of an experiment. Raises DistillError if its first call fails."""
    teacher = cast(TeacherConfig, sections["teacher"])
    sample = cast(SampleConfig, sections.get("sample") or SampleConfig())
    manner = sample.manner(teacher)
    found = family.family_of(teacher)
    say(f"probe     terms: {found.notice}")
    prices = manner.teacher.prices
    money = "" if prices is None else f", about {prices.of(MOST_CALLS * PROMPT_TOKENS, MOST_TOKENS):.2g} in money"
    say(f"probe     at most {MOST_CALLS} calls and {MOST_TOKENS:,} tokens of answers{money}; none enters the ledger")
    probe = Probe(manner.teacher.build(), manner)
    sender: Any = getattr(probe.engine, "sender", None)
    if hasattr(sender, "heard"):
        sender.heard = lambda _body, reply: probe.heard.append(reply)
    try:
        return _report(probe, teacher, sample, found, sections.get("student"))
    finally:
        probe.engine.close()


def _report(
    probe: Probe, teacher: TeacherConfig, sample: SampleConfig, found: Family, student: Settings | None
) -> Report:
    sampling = probe.manner.sampling
    limit = probe.room(sampling, FIRST_TOKENS)
    first = probe.ask(QUESTION, "question", replace(sampling, max_tokens=limit, top_logprobs=0))
    if first.finish_reason == "error":
        raise DistillError(f"probe: teacher {teacher.model} gives no answer: {first.error}")
    reasoning = _reasoning(probe, first)
    given = isinstance(probe.heard[-1].get("usage"), dict) if probe.heard else None
    logprobs = _logprobs(probe, found)
    drawn = probe.tiny("seed 1")
    seen = {
        "seed": _seed(probe, drawn),
        "temperature": _temperature(probe, drawn),
        "top_p": _narrow(probe, "top_p", 1e-6),
        "top_k": _narrow(probe, "top_k", 1),
        "max_tokens": _max_tokens(drawn),
        "unknown setting": _unknown(probe, teacher.served),
        "thinking off": _thinking(probe, reasoning, sample.manner(teacher, thinking=False)),
    }
    what, why_not = _allows(probe, reasoning, logprobs, student)
    ids = [name for name, there in (("prompt", first.prompt_ids), ("answer", first.completion_ids)) if there]
    if logprobs.named and not first.completion_ids:
        ids.append("answer, with log-probabilities")
    tokenizer = probe.engine.identity.tokenizer
    prices = probe.manner.teacher.prices
    cost = None if prices is None else prices.of(probe.prompt_tokens, probe.completion_tokens)
    usage = {None: "counted here", True: "as the server says", False: "estimated: the server says nothing"}[given]
    context = "" if probe.context is None else " fits" if sampling.max_tokens < probe.context else " does not fit"
    rows = [
        ("teacher", teacher.model, f"engine {probe.engine.name}, family {found.name}"),
        ("reasoning", {"field": "in a field of its own"}.get(reasoning.where, reasoning.where), reasoning.note),
        ("answer", reasoning.answer or "-", _ending(reasoning, limit)),
        ("token ids", " and ".join(ids) or "none", f"tokenizer {tokenizer}" if tokenizer else "tokenizer not known"),
        ("log-probabilities", f"top {logprobs.top}" if logprobs.top else "none", logprobs.note),
        ("usage", f"{first.prompt_tokens:,} + {first.completion_tokens:,} tokens", usage),
        ("context", probe.context or "not known", f"max_tokens {sampling.max_tokens:,}{context}"),
        *((name, item.word, item.why) for name, item in seen.items()),
        ("allows", what, f"no KL: {why_not}" if why_not else ""),
    ]
    spent = f"{probe.calls} calls, {probe.prompt_tokens:,} + {probe.completion_tokens:,} tokens"
    money = "price unknown" if cost is None else f"{cost:.4g} in money"
    return Report(
        summary=f"{teacher.model} allows {what}; the probe took {spent} ({money})",
        rows=[{"what": name, "found": shown, "note": note} for name, shown, note in rows],
        data={
            "model": teacher.model,
            "family": found.name,
            "terms": found.notice,
            "reasoning": asdict(reasoning),
            "token_ids": {"prompt": bool(first.prompt_ids), "answer": bool(first.completion_ids) or logprobs.named},
            "logprobs": asdict(logprobs),
            "usage_given": given,
            "context": probe.context,
            "settings": {name: asdict(item) for name, item in seen.items()},
            "kl": not why_not,
            "kl_why_not": why_not,
            "calls": probe.calls,
            "prompt_tokens": probe.prompt_tokens,
            "completion_tokens": probe.completion_tokens,
            "cost": cost,
        },
    )


def _ending(reasoning: Reasoning, limit: int) -> str:
    if reasoning.stop_token:
        return f"the server leaves its stop token `{reasoning.stop_token}` in the text"
    return "finished" if reasoning.finished else f"cut after {limit} tokens"


# ---- what comes back


def _reasoning(probe: Probe, first: Completion) -> Reasoning:
    dialect = probe.manner.teacher.dialect
    split = split_think(
        first.text, opened=first.opened, thinker=first.opened, dialect=dialect, apart=first.reasoning
    )  # fmt: skip
    kind: ReasoningKind = first.reasoning_kind or dialect.kind or ("full" if split.reasoning is not None else "none")
    if split.reasoning is None:
        kind = "hidden" if kind in ("hidden", "summary") else "none"
    where, note = _where(first, dialect, split, kind)
    if where == "field":
        message = probe.choice.get("message") or {}
        note = " and ".join(f"`{name}`" for name in REASONING_FIELDS if message.get(name))
    other = _other_family(first.text, dialect)
    if other is not None:
        where, note = "nowhere", f"the text looks like family `{other}`: set `teacher.family: {other}`"
    if where == "nowhere":
        kind = "none"
    answer = " ".join(split.answer.split())
    shown = answer if len(answer) <= 60 else f"{answer[:57]}..."
    left = STOP_TOKEN.search(split.answer)
    return Reasoning(where, note, kind, shown, first.finish_reason == "stop", left[0].strip() if left else "")


def _where(
    first: Completion, dialect: Dialect, split: Split, kind: ReasoningKind
) -> tuple[Literal["field", "inline", "hidden", "nowhere"], str]:
    if first.reasoning is not None:
        return "field", ""
    if dialect.channels and len(split.parts) > 1:
        return "inline", "channels of harmony"
    if dialect.open and first.text.lstrip().startswith(dialect.open):
        return "inline", f"between {dialect.open} and {dialect.close}"
    opener = "the prompt" if first.opened else "the template"
    if dialect.close and dialect.close in first.text:
        return "inline", f"up to {dialect.close}; {opener} opens the block"
    if first.opened:
        return "inline", f"{opener} opens the block; {dialect.close} did not come in time"
    if kind == "hidden":
        return "hidden", "the provider keeps it; it is billed all the same"
    if dialect.thinker and first.finish_reason == "length":
        return "inline", f"presumably: {dialect.close or 'the final channel'} did not come in time"
    if dialect.thinker:
        return "nowhere", f"without {dialect.close or 'its marks'} every answer of this family counts as unfinished"
    return "nowhere", "all of the text is answer"


def _other_family(text: str, dialect: Dialect) -> str | None:
    """A family whose opening mark the text begins with, where ours has another."""
    start = text.lstrip()
    if dialect.channels or (dialect.open and start.startswith(dialect.open)):
        return None
    if start.startswith("<|channel|>"):
        return "gpt-oss"
    others = ((name, family.load(name).dialect.open) for name in family.names())
    found = next((name for name, mark in others if mark not in ("", THINK.open) and start.startswith(mark)), None)
    return found or ("deepseek-r1" if start.startswith(THINK.open) else None)


def _logprobs(probe: Probe, found: Family) -> Logprobs:
    """Ask for many, then for fewer, until the server gives them."""
    notes: list[str] = []
    for k in ASKED_LOGPROBS:
        completion = probe.tiny("log-probabilities", max_tokens=FEW_TOKENS, top_logprobs=k)
        if completion.finish_reason == "error":
            notes.append(f"{k} refused: {completion.error}")
            continue
        if completion.logprobs is not None:
            n, top = completion.logprobs.ids_NK.shape
            present = int(completion.logprobs.present_N.sum())
            notes.insert(0, f"for {present} of {n} tokens; {k} were asked for")
            return Logprobs(top, True, "; ".join(notes))
        top, named = _raw_logprobs(probe.choice)
        if 0 < top < k and named and k != ASKED_LOGPROBS[-1]:
            notes.append(f"{k} asked for, {top} came")
            continue
        if named and probe.engine.identity.vocab_size is None:
            why = (
                "the teacher's tokenizer is not known: set the engine's `tokenizer` to a folder with its tokenizer.json"
            )
            return Logprobs(top, True, "; ".join(notes), why)
        if top:
            notes.append("tokens come as text, not as ids" if not named else "rows do not fit the tokens")
            return Logprobs(top, named, "; ".join(notes), f"log-probabilities cannot be matched: {notes[-1]}")
        break
    known = f", as is known of {found.title}" if not found.logits else ""
    return Logprobs(note="; ".join(notes), why_not=f"the server gives no log-probabilities{known}")


def _raw_logprobs(choice: dict[str, Any]) -> tuple[int, bool]:
    """(entries of the first token, whether tokens are named by id) of a raw reply; (0, False) where there are none."""
    logprobs = choice.get("logprobs") or {}
    content, tops = logprobs.get("content"), logprobs.get("top_logprobs")
    if isinstance(content, list) and content:
        first: dict[str, Any] = content[0]
        number = first.get("id", first.get("token_id"))
        named = isinstance(number, int) or str(first.get("token")).startswith("token_id:")
        return len(first.get("top_logprobs") or []), named
    if isinstance(tops, list) and tops and isinstance(tops[0], dict):
        return len(tops[0]), all(str(name).startswith("token_id:") for name in tops[0])
    return 0, False


# ---- which settings are honoured


def _seed(probe: Probe, drawn: Completion) -> Seen:
    again, other = probe.tiny("seed 1"), probe.tiny("seed 2")
    unseen = _unseen(drawn, again, other)
    if unseen is not None:
        return unseen
    if _text(drawn) != _text(again):
        return Seen("ignored", "the same seed gave two texts")
    if _text(drawn) == _text(other):
        return Seen("ignored", "two seeds gave the same text: all samples of a problem would be alike")
    return Seen("honoured", "the same seed gave the same text, another seed another")


def _temperature(probe: Probe, drawn: Completion) -> Seen:
    if probe.manner.sampling.temperature is None:
        return Seen("not sent", "the family's interface takes none")
    greedy, again = (probe.tiny(tag, temperature=0.0) for tag in ("seed 1", "seed 2"))
    unseen = _unseen(drawn, greedy, again)
    if unseen is not None:
        return unseen
    if _text(greedy) != _text(again):
        return Seen("ignored", "temperature 0 gave two texts, or the server's arithmetic is not repeatable")
    if _text(greedy) == _text(drawn):
        return Seen("ignored", "temperatures 0 and 1 gave the same text")
    return Seen("honoured", "temperature 0 gave one text, 1 another")


def _narrow(probe: Probe, name: Literal["top_p", "top_k"], value: float) -> Seen:
    """Whether a limit that leaves only the likeliest token gives one text whatever the seed."""
    if probe.manner.sampling.temperature is None or getattr(probe.manner.sampling, name) is None:
        return Seen("not sent", "the family's interface takes none")
    one, other = (probe.tiny(tag, **{name: value}) for tag in ("seed 1", "seed 2"))
    unseen = _unseen(one, other)
    if unseen is not None:
        return unseen
    if _text(one) != _text(other):
        return Seen("ignored", f"{name} {value:g} gave two texts")
    return Seen("honoured", f"{name} {value:g} gave one text for two seeds")


def _max_tokens(drawn: Completion) -> Seen:
    if drawn.finish_reason == "error":
        return Seen("refused", drawn.error or "")
    came = drawn.completion_tokens
    if came > TINY_TOKENS:
        return Seen("ignored", f"{TINY_TOKENS} tokens were asked for, {came} came and are billed")
    if drawn.finish_reason != "length":
        return Seen("cannot be seen", f"the answer ended by itself after {came} tokens")
    return Seen("honoured", f"cut after {came} tokens")


def _unknown(probe: Probe, served: bool) -> Seen:
    if not served:
        return Seen("not sent", "no server: settings are checked when the file is read")
    arguments = {**probe.manner.sampling.arguments, UNKNOWN: 1}
    completion = probe.tiny("seed 1", max_tokens=FEW_TOKENS, arguments=arguments)
    if completion.finish_reason == "error":
        return Seen("refused", completion.error or "")
    return Seen("ignored", "a misspelt name in `teacher.arguments` would go unnoticed")


def _thinking(probe: Probe, reasoning: Reasoning, plain: Manner) -> Seen:
    """Whether `thinking: false` is listened to; asked only where reasoning came."""
    if reasoning.where not in ("field", "inline") or probe.manner.sampling.thinking is False:
        return Seen("not sent", "no reasoning came that could be switched off")
    limit = probe.room(plain.sampling, PLAIN_TOKENS)
    completion = probe.ask(QUESTION, "question", replace(plain.sampling, max_tokens=limit, top_logprobs=0))
    if completion.finish_reason == "error":
        return Seen("refused", completion.error or "")
    dialect = probe.manner.teacher.dialect
    marks = ["analysis"] if dialect.channels else [mark for mark in (dialect.open, dialect.close) if mark]
    if completion.reasoning or completion.opened or any(mark in completion.text for mark in marks):
        return Seen("ignored", "it thought all the same")
    if completion.finish_reason == "length":
        return Seen("cannot be seen", f"no end within {limit} tokens")
    return Seen("honoured", f"answered in {completion.completion_tokens} tokens")


def _text(completion: Completion) -> str:
    return (completion.reasoning or "") + completion.text


def _unseen(*completions: Completion) -> Seen | None:
    """Why nothing can be said: a call was refused, or gave no text to compare."""
    error = next((item.error for item in completions if item.finish_reason == "error"), None)
    if error is not None:
        return Seen("refused", error)
    if not all(_text(item) for item in completions):
        return Seen("cannot be seen", f"no text within {TINY_TOKENS} tokens")
    return None


# ---- what follows


def _allows(probe: Probe, reasoning: Reasoning, logprobs: Logprobs, student: Settings | None) -> tuple[str, str]:
    """(what may be trained with such answers, why KL may not: empty where it may)."""
    what = {
        "full": "SFT on reasoning and answers",
        "summary": "SFT on answers and summaries of the reasoning",
        "hidden": "SFT on answers only",
        "none": "SFT on answers",
    }[reasoning.kind]
    tokenizer = probe.engine.identity.tokenizer
    why_not = logprobs.why_not
    if not why_not and tokenizer is None:
        why_not = (
            "the teacher's tokenizer is not known: set the engine's `tokenizer` to a folder with its tokenizer.json"
        )
    theirs = None if student is None else _student_tokenizer(str(getattr(student, "model", "")))
    if not why_not and theirs is not None and theirs != tokenizer:
        why_not = "the student of this experiment has another tokenizer"
    return (what if why_not else f"{what}, and KL with the top {logprobs.top}"), why_not


def _student_tokenizer(model: str) -> str | None:
    """Fingerprint of a student that is on this machine; None for one that would have to be fetched."""
    if not looks_local(model) and not is_embedded(model):
        return None
    folder = resolve("embedded-student" if model == "embedded" else model)
    return fingerprint.tokenizer_fingerprint(folder) if folder.is_dir() else None
