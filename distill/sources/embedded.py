"""Generated arithmetic and algebra word problems: products, equations, shops and distances.

Every problem comes with the reasoning a careful pupil would write, one single step a line
(`17*20=340`), so the same generator feeds the embedded models' recipes and the pipeline.

Five pools share no operands, by construction: a problem's *cores* (what its numbers say, with order,
wording and extras stripped: `17*23` and `23*17` are one core, and so are `3 pens at 12, 4 cups at 25`
and `4 hours at 25, 3 hours at 12`) are hashed, and a problem belongs to a pool only if all its cores do.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from distill.core.config import Settings
from distill.core.errors import ConfigError
from distill.core.records import Message, Problem, Split, problem_id

POOLS = {"teacher": 35, "base": 20, "sampling": 25, "dev": 5, "test": 15}
"""Share of all cores in percent. `teacher` and `base` train the embedded models, the rest is for users."""

KINDS = ("product", "equation", "shop", "distance")
LEVELS = (1, 2, 3)

NAMES = ("Tom", "Mia", "Ben", "Ana", "Sam", "Eva", "Max", "Lea")
GOODS = ("pens", "cups", "books", "lamps", "bags", "rings", "maps", "hats")
VEHICLES = ("A train", "A car", "A bus", "A truck")
_ASK_PRODUCT = ("What is {}?", "Compute {}.", "Find the value of {}.")
_ASK_EQUATION = ("Solve {}, then find {}.", "If {}, what is {}?", "Given that {}, find {}.")


class Config(Settings):
    """Settings of the `embedded` source; how many problems it gives are `train`, `dev` and `test` beside it."""

    seed: int = 0
    """Which problems of each pool are drawn."""


SPLIT_POOLS: dict[Split, tuple[str, int]] = {"train": ("sampling", 1500), "dev": ("dev", 100), "test": ("test", 500)}
"""The pool of each split, and how many problems it has unless told otherwise. Splits share no operands."""


def own_split(config: Config) -> bool:
    """The pools are the split."""
    del config
    return True


def build(config: Config, counts: Mapping[Split, int | None]) -> list[Problem]:
    """The problems of all splits, train first. Kinds and levels come in equal parts."""
    problems = []
    for split, (pool, usual) in SPLIT_POOLS.items():
        wanted = counts[split]
        n = usual if wanted is None else wanted
        try:
            items = draw(pool, n, config.seed)
        except ValueError as error:
            raise ConfigError(f"problems: `{split}: {n}` is more than the embedded source has ({error})") from error
        for item in items:
            messages = (Message("user", item.question),)
            problems.append(
                Problem(
                    id=problem_id(messages),
                    messages=messages,
                    gold=item.gold,
                    split=split,
                    domain=item.kind,
                    source="embedded",
                    licence="Apache-2.0",
                    level=str(item.level),
                    reference_reasoning=trace(item)[0],
                )
            )
    return problems


@dataclass(frozen=True)
class Item:
    """One generated problem with its worked solution.

    `steps` are the lines of the reference reasoning, each `a op b=c` in whole numbers; the last one's
    result is `gold`, which is neither in the question nor the result of an earlier step.
    """

    kind: str
    level: int
    question: str
    gold: str
    cores: tuple[str, ...]
    steps: tuple[str, ...]


def pool_of(core: str) -> str:
    """The one pool a core belongs to: a hash decides, so no list has to be kept."""
    point = int.from_bytes(hashlib.blake2b(core.encode(), digest_size=8).digest(), "big") % 100
    for pool, share in POOLS.items():
        point -= share
        if point < 0:
            return pool
    raise AssertionError("pool shares do not add up to 100")


def draw(pool: str, n: int, seed: int) -> list[Item]:
    """`n` different problems of one pool, kinds and levels in equal parts. The same arguments give the same list.

    Raises ValueError for an unknown pool, or when the pool cannot give so many different questions.
    """
    seen: set[str] = set()
    items: list[Item] = []
    misses = 0
    for item in stream(pool, seed):
        if len(items) == n:
            break
        if item.question in seen:
            misses += 1
            if misses > 20 * n + 1000:
                raise ValueError(f"pool {pool!r} ran dry after {len(items)} different problems of {n}")
            continue
        seen.add(item.question)
        items.append(item)
    return items


def stream(pool: str, seed: int) -> Iterator[Item]:
    """Problems of one pool without end (repeats are possible), cycling through kinds and levels."""
    if pool not in POOLS:
        raise ValueError(f"no pool {pool!r}; pools: {', '.join(POOLS)}")
    rng = random.Random(f"{pool}/{seed}")
    while True:
        for level in LEVELS:
            for kind in KINDS:
                yield _draw_one(pool, kind, level, rng)


def trace(item: Item) -> tuple[str, str]:
    """Reference reasoning (one step a line) and final answer: `("17*20=340\\n...", "Answer: \\\\boxed{391}")`."""
    return "\n".join(item.steps), answer(item.gold)


def answer(gold: str) -> str:
    """The final answer's text."""
    return f"Answer: \\boxed{{{gold}}}"


def readable(item: Item) -> list[str]:
    """The steps of `item` that can be read off its question: every operand stands there, or is a part of one.

    These are its single steps; each of the others needs an earlier result.
    """
    results: set[str] = set()
    steps = []
    for step in item.steps:
        operands, result = step.split("=")
        if not results & set(re.split(r"[-+*/]", operands)):
            steps.append(step)
        results.add(result)
    return steps


def one_step_question(kind: str, step: str, rng: random.Random) -> str:
    """A question in the words of `kind` that `step` alone answers: for `12*3=36`, "Tom buys 3 pens at 12 coins ..."."""
    a, sign, b = re.split(r"([-+*/])", step.split("=")[0])
    ask = rng.choice(("What is {}?", "Compute {}.", "Find the value of {}."))
    name, (one, two) = rng.choice(NAMES), rng.sample(GOODS, 2)
    who = rng.choice(VEHICLES)
    if kind == "equation":
        left = {"*": f"{b}x", "+": f"x+{b}", "-": f"x-{b}", "/": f"{b}x={a}"}[sign]
        if sign == "/":
            return rng.choice((f"Solve {left}.", f"If {left}, what is x?", f"Given that {left}, find x."))
        if sign in "+-" and rng.random() < 0.5:
            left = f"x{'-' if sign == '+' else '+'}{b}={a}"
            return rng.choice((f"Solve {left}.", f"If {left}, what is x?", f"Given that {left}, find x."))
        return rng.choice((f"If x={a}, what is {left}?", f"Given that x={a}, find {left}."))
    if kind == "shop" and sign == "*":
        return rng.choice(
            (
                f"{name} buys {b} {one} at {a} coins each. How much is that?",
                f"{name} wants {b} {one} for {a} coins each. What is the total cost?",
            )
        )
    if kind == "shop" and sign == "+":
        ask = rng.choice(("How much is that?", "What is the total cost?"))
        return f"{name} buys {one} for {a} coins and {two} for {b} coins. {ask}"
    if kind == "shop" and sign == "-":
        ask = rng.choice((f"How much is left of {a} coins?", f"What is the change from {a} coins?"))
        return f"{name} buys {one} for {b} coins. {ask}"
    if kind == "distance" and sign == "*":
        drives = f"{who} {rng.choice(('drives', 'travels', 'goes'))} {b} hours at {a} km per hour."
        return f"{drives} {rng.choice(('How far does it get?', 'How many km is that?'))}"
    if kind == "distance" and sign == "+":
        if rng.random() < 0.5:
            return f"{who} drives {a} km, then {b} km. {rng.choice(('How far does it get?', 'How many km is that?'))}"
        return f"Two cars drive towards each other at {a} and {b} km per hour. How fast do they close in?"
    if kind == "distance" and sign == "-":
        if rng.random() < 0.5:
            return f"Two cars are {a} km apart and drive {b} km towards each other. How far apart are they?"
        rest = (f"How far is it still to a town {a} km away?", f"How much is left of a trip of {a} km?")
        return f"{who} drives {b} km. {rng.choice(rest)}"
    return ask.format(f"{a}{sign}{b}")


def _draw_one(pool: str, kind: str, level: int, rng: random.Random) -> Item:
    while True:
        match kind:
            case "product":
                question, cores, steps = _product(level, rng, pool)
            case "equation":
                question, cores, steps = _equation(level, rng)
            case "shop":
                question, cores, steps = _shop(level, rng, pool)
            case _:
                question, cores, steps = _distance(level, rng)
        if any(pool_of(core) != pool for core in cores):
            continue
        gold = steps[-1].split("=")[1]
        known = set(re.findall(r"\d+", question)) | {step.split("=")[1] for step in steps[:-1]}
        if gold not in known and int(gold) > 0:
            return Item(kind, level, question, gold, tuple(cores), tuple(steps))


_Draft = tuple[str, list[str], list[str]]  # question, cores, steps


def _by_parts(a: int, b: int) -> list[str]:
    """17*23 by tens and units of the second factor."""
    tens, units = b - b % 10, b % 10
    return [f"{a}*{tens}={a * tens}", f"{a}*{units}={a * units}", f"{a * tens}+{a * units}={a * b}"]


def pair_core(a: int, b: int) -> str:
    return f"{min(a, b)}*{max(a, b)}"


def sum_core(*pairs: tuple[int, int]) -> str:
    return "+".join(sorted(pair_core(*pair) for pair in pairs))


def _no_tens(rng: random.Random, low: int, high: int) -> int:
    """A number between `low` and `high`, both included, that is no multiple of ten."""
    while True:
        if (number := rng.randint(low, high)) % 10:
            return number


def _pool_pair(rng: random.Random, pool: str, first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """Two two-digit factors whose product is in the pool; drawn here so that few problems are thrown away."""
    while True:
        a, b = _no_tens(rng, *first), _no_tens(rng, *second)
        if pool_of(pair_core(a, b)) == pool:
            return a, b


def _product(level: int, rng: random.Random, pool: str) -> _Draft:
    ask = rng.choice(_ASK_PRODUCT)
    if level < 3:
        a, b = _pool_pair(rng, pool, *(((12, 99), (12, 19)) if level == 1 else ((21, 99), (21, 99))))
        return ask.format(f"{a}*{b}"), [pair_core(a, b)], _by_parts(a, b)
    (a, b), (c, d) = (_pool_pair(rng, pool, (12, 49), (12, 49)) for _ in range(2))
    sign = rng.choice("+-")
    if sign == "-" and a * b < c * d:
        (a, b), (c, d) = (c, d), (a, b)
    total = a * b + c * d if sign == "+" else a * b - c * d
    last = f"{a * b}{sign}{c * d}={total}"
    cores = [pair_core(a, b), pair_core(c, d)]
    return ask.format(f"{a}*{b}{sign}{c}*{d}"), cores, [*_by_parts(a, b), *_by_parts(c, d), last]


def _equation(level: int, rng: random.Random) -> _Draft:
    x = rng.randint(*{1: (3, 12), 2: (11, 49), 3: (11, 69)}[level])
    b = rng.randint(1, 30) if level == 1 else rng.randint(10, 99)
    p, q = rng.randint(2, 9), (rng.randint(1, 30) if level == 1 else rng.randint(10, 99))
    if level < 3:
        a = rng.randint(2, 9)
        sign = "+" if level == 1 or a * x <= b else rng.choice("+-")
        c = a * x + b if sign == "+" else a * x - b
        left, core = f"{a}x{sign}{b}={c}", f"{a}x{sign}{b}={c}"
        steps = [f"{c}{'-' if sign == '+' else '+'}{b}={a * x}", f"{a * x}/{a}={x}"]
    else:
        d = rng.randint(2, 5)
        a = rng.randint(d + 2, 9)
        c = (a - d) * x + b
        left, core = f"{a}x+{b}={d}x+{c}", f"{a}x+{b}={d}x+{c}"
        steps = [f"{a}-{d}={a - d}", f"{c}-{b}={c - b}", f"{c - b}/{a - d}={x}"]
    out = "+" if p * x <= q else rng.choice("+-")
    steps += [f"{x}*{p}={p * x}", f"{p * x}{out}{q}={p * x + q if out == '+' else p * x - q}"]
    return rng.choice(_ASK_EQUATION).format(left, f"{p}x{out}{q}"), [core], steps


def _shop(level: int, rng: random.Random, pool: str) -> _Draft:
    name, (one, two) = rng.choice(NAMES), rng.sample(GOODS, 2)
    m, price_2 = rng.randint(2, 9), rng.randint(11, 99)
    if level < 3:
        n, price_1 = rng.randint(2, 9), rng.randint(11, 99)
        steps = [f"{price_1}*{n}={n * price_1}"]
        cores = [sum_core((n, price_1), (m, price_2))]
    else:
        n, price_1 = _pool_pair(rng, pool, (12, 39), (12, 49))
        steps = _by_parts(price_1, n)
        cores = [pair_core(n, price_1)]
    spent = n * price_1 + m * price_2
    steps += [f"{price_2}*{m}={m * price_2}", f"{n * price_1}+{m * price_2}={spent}"]
    buys = rng.choice(
        (
            f"{name} buys {n} {one} at {price_1} coins each and {m} {two} at {price_2} coins each.",
            f"{name} wants {n} {one} for {price_1} coins each and {m} {two} for {price_2} coins each.",
        )
    )
    if level == 1:
        return f"{buys} {rng.choice(('How much is that?', 'What is the total cost?'))}", cores, steps
    paid = (spent // 100 + rng.randint(1, 3)) * 100
    steps.append(f"{paid}-{spent}={paid - spent}")
    ask = rng.choice((f"How much is left of {paid} coins?", f"What is the change from {paid} coins?"))
    return f"{buys} {ask}", cores, steps


def _distance(level: int, rng: random.Random) -> _Draft:
    who = rng.choice(VEHICLES)
    if level == 2:
        u, v, hours = rng.randint(21, 49), rng.randint(21, 49), rng.randint(2, 9)
        gone = (u + v) * hours
        apart = (gone // 10 + rng.randint(1, 30)) * 10
        question = rng.choice(
            (
                f"Two cars are {apart} km apart and drive towards each other at {u} and {v} km per hour."
                f" How far apart are they after {hours} hours?",
                f"Two trains start {apart} km apart and meet head on, one at {u} and one at {v} km per hour."
                f" How many km are between them after {hours} hours?",
            )
        )
        steps = [f"{u}+{v}={u + v}", f"{u + v}*{hours}={gone}", f"{apart}-{gone}={apart - gone}"]
        return question, [f"({min(u, v)}+{max(u, v)})*{hours}"], steps
    legs = [(rng.randint(21, 99), rng.randint(2, 9)) for _ in range(2 if level == 1 else 3)]
    steps = [f"{speed}*{hours}={speed * hours}" for speed, hours in legs]
    total = legs[0][0] * legs[0][1]
    for speed, hours in legs[1:]:
        steps.append(f"{total}+{speed * hours}={total + speed * hours}")
        total += speed * hours
    parts = [f"{hours} hours at {speed} km per hour" for speed, hours in legs]
    drives = f"{who} {rng.choice(('drives', 'travels', 'goes'))} {', then '.join(parts)}."
    if level == 1:
        return f"{drives} {rng.choice(('How far does it get?', 'How many km is that?'))}", [sum_core(*legs)], steps
    trip = (total // 100 + rng.randint(1, 3)) * 100
    steps.append(f"{trip}-{total}={trip - total}")
    ask = rng.choice((f"How far is it still to a town {trip} km away?", f"How much is left of a trip of {trip} km?"))
    return f"{drives} {ask}", [sum_core(*legs)], steps
