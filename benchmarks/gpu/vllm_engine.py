"""Does the `vllm` engine keep its promises on the real package and a GPU? Written after vLLM 0.33; NOT RUN YET.

    python -m benchmarks.gpu.vllm_engine --model Qwen/Qwen3-0.6B

Checks, each a line `ok` or `FAILED`, exit code 1 if one failed:

- ids: prompt ids are the tokenizer's own, a finished answer ends in a stop token, text is the ids decoded;
- draws: 8 samples of one question are distinct, the same key gives the same answer alone;
- thinking: the template's switch decides whether the think block is open;
- context: what cannot fit is refused before anything is drawn;
- log-probabilities: recorded rows agree with `score` of the same ids, and both with transformers' forward in float32
  to what bfloat16 can hold (0.1 nats in the median, the drawn token's own rank within the top k of the other);
- alignment: the mean log-probability of drawn tokens at offset 0 beats offsets -1 and +1 by 1 nat;
- rate: tokens a second at 256 requests, beside a bare `LLM.generate` of the same prompts and lengths.

Needs an environment in which vllm is installed beside this package (its pins differ; `pip install vllm`, then
`pip install --no-deps -e .` and what imports then ask for).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

from distill.core.errors import DistillError
from distill.core.protocols import Completion, Keep, Request, ScoreRequest, TokenLogprobs
from distill.core.records import Message, Sampling
from distill.engines import vllm as engine_module
from distill.engines.vllm import VllmEngine
from distill.text.chat import render_prompt

QUESTIONS = [(Message("user", f"What is {a}*{b}?"),) for a in (3, 17, 231) for b in (5, 48)]
HOT = Sampling(temperature=0.6, top_p=0.95, max_tokens=256)
REQUESTS = 256
"""Of the rate."""


def main() -> int:
    """Run every check; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--context", type=int, default=4096)
    arguments = parser.parse_args()
    engine = engine_module.build(engine_module.Config(context=arguments.context, max_logprobs=64), arguments.model)
    failed = 0
    for check in (ids, draws, thinking, context, log_probabilities, rate):
        try:
            said = check(engine)
            print(f"ok      {check.__name__}: {said}")
        except AssertionError as error:
            failed += 1
            print(f"FAILED  {check.__name__}: {error}")
    engine.close()
    return int(failed > 0)


def draw(engine: VllmEngine, requests: list[Request]) -> dict[str, Completion]:
    """The completions by key."""
    drawn = {completion.key: completion for completion in engine.generate(requests)}
    assert sorted(drawn) == sorted(request.key for request in requests), "one completion per request"
    assert all(c.error is None for c in drawn.values()), {c.error for c in drawn.values()}
    return drawn


def ids(engine: VllmEngine) -> str:
    """Prompt ids, stop tokens, text."""
    drawn = draw(engine, [Request(f"key-{i}", question, HOT) for i, question in enumerate(QUESTIONS)])
    for i, question in enumerate(QUESTIONS):
        got, prompt = drawn[f"key-{i}"], render_prompt(engine.tokenizer, question)
        assert (got.prompt_ids, got.prefill_ids) == (prompt.prompt_ids, prompt.prefill_ids), "prompt ids differ"
        assert got.completion_ids, "nothing was drawn"
        stopped = got.completion_ids[-1] in engine.stops
        assert stopped == (got.finish_reason == "stop"), f"{got.finish_reason} with last id {got.completion_ids[-1]}"
        assert got.text == engine._decode(got.completion_ids[: -1 if stopped else None]), "text is not the ids decoded"
    return f"{sum(c.finish_reason == 'stop' for c in drawn.values())} of {len(drawn)} answers ended by a stop token"


def draws(engine: VllmEngine) -> str:
    """Distinct samples, stable by key."""
    requests = [Request(f"same-{i}", QUESTIONS[0], HOT) for i in range(8)]
    first, alone = draw(engine, requests), draw(engine, requests[:1])
    distinct = len({c.completion_ids for c in first.values()})
    assert distinct >= 6, f"{distinct} distinct of 8"
    same = first["same-0"].completion_ids == alone["same-0"].completion_ids
    return f"{distinct} of 8 distinct; the same answer alone: {'yes' if same else 'no (not promised)'}"


def thinking(engine: VllmEngine) -> str:
    """The template's switch."""
    opened = {}
    for wanted in (True, False):
        sampling = Sampling(temperature=0.0, max_tokens=4, thinking=wanted)
        (got,) = engine.generate([Request("switch", QUESTIONS[0], sampling)])
        opened[wanted] = got.opened
    return f"thinking on opens the block: {opened[True]}, off: {opened[False]}"


def context(engine: VllmEngine) -> str:
    """Too long is refused before anything is drawn."""
    prompt = len(render_prompt(engine.tokenizer, QUESTIONS[0]).ids)
    fits, over = (Sampling(temperature=0.0, max_tokens=engine.context - prompt + more) for more in (0, 1))
    engine._plan([Request("fits", QUESTIONS[0], fits)])
    try:
        next(engine.generate([Request("ok", QUESTIONS[0], HOT), Request("long", QUESTIONS[0], over)]))
    except DistillError as error:
        return str(error)
    raise AssertionError("a request over the context was taken")


def log_probabilities(engine: VllmEngine) -> str:
    """Recorded rows against scored ones and against transformers."""
    k = 20
    sampling = replace(HOT, top_logprobs=k)
    drawn = draw(engine, [Request(f"lp-{i}", question, sampling) for i, question in enumerate(QUESTIONS)])
    asks = [ScoreRequest(c.key, _fed(c), c.completion_ids or ()) for c in drawn.values()]
    scored = dict(engine.score(asks, Keep(k)))
    apart, against, here, before, after = [], [], [], [], []
    for ask in asks:
        recorded, again = drawn[ask.key].logprobs, scored[ask.key]
        assert recorded is not None, "no rows were recorded"
        assert recorded.present_N.all(), f"{(~recorded.present_N).sum()} rows are missing"
        assert recorded.ids_NK.shape == again.ids_NK.shape == (len(ask.completion_ids), k)
        apart += list(np.abs(recorded.realised_N - again.realised_N))
        true_NV = _reference(engine, ask)
        n = np.arange(len(ask.completion_ids))
        against += list(np.abs(recorded.realised_N - true_NV[n, ask.completion_ids]))
        here += list(true_NV[n, ask.completion_ids])
        before += list(true_NV[n[1:], ask.completion_ids[:-1]])
        after += list(true_NV[n[:-1], ask.completion_ids[1:]])
        _masses(recorded)
    median, worst = float(np.median(against)), float(np.max(against))
    assert median < 0.1, f"{median:.3f} nats from transformers in the median"
    assert np.mean(here) > max(np.mean(before), np.mean(after)) + 1, "rows do not stand at their tokens"
    return (
        f"from transformers float32: median {median:.4f}, worst {worst:.3f} nats; from score: worst {np.max(apart):.3f}"
    )


def _fed(completion: Completion) -> tuple[int, ...]:
    return (completion.prompt_ids or ()) + (completion.prefill_ids or ())


def _masses(rows: TokenLogprobs) -> None:
    """Every row's entries and tail have the mass one."""
    mass_N = np.exp(rows.logprobs_NK.astype(np.float64)).sum(1) + np.exp(rows.tail_N.astype(np.float64))
    assert np.abs(mass_N - 1).max() < 1e-2, f"a row has the mass {mass_N[np.abs(mass_N - 1).argmax()]:.4f}"


_MODEL: dict[str, Any] = {}


def _reference(engine: VllmEngine, ask: ScoreRequest) -> Any:
    """Log-probabilities of transformers in float32 on the CPU [N, V]."""
    import torch
    from transformers import AutoModelForCausalLM

    if not _MODEL:
        folder = engine._engine.model_config.model
        _MODEL["model"] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids_1T = torch.tensor([ask.prompt_ids + ask.completion_ids])
    with torch.inference_mode():
        logits_NV = _MODEL["model"](ids_1T).logits[0, len(ask.prompt_ids) - 1 : -1]
    return logits_NV.double().log_softmax(-1).numpy()


def rate(engine: VllmEngine) -> str:
    """Tokens a second against vLLM's own loop, which is fed the same prompts."""
    requests = [Request(f"rate-{i}", QUESTIONS[i % len(QUESTIONS)], HOT) for i in range(REQUESTS)]
    started_s = time.monotonic()
    ours = sum(c.completion_tokens for c in draw(engine, requests).values())
    ours_rate = ours / (time.monotonic() - started_s)
    jobs = engine._plan(requests)
    started_s = time.monotonic()
    for number, job in enumerate(jobs):
        engine._engine.add_request(f"bare-{number}", {"prompt_token_ids": job.fed}, engine._params(job))
    bare = 0
    while engine._engine.has_unfinished_requests():
        bare += sum(len(output.outputs[0].token_ids) for output in engine._engine.step() if output.finished)
    bare_rate = bare / (time.monotonic() - started_s)
    share = ours_rate / bare_rate
    assert share > 0.9, f"{share:.2f} of the bare loop's rate"
    return f"{ours_rate:,.0f} tokens/s, {share:.2f} of a bare loop's {bare_rate:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
