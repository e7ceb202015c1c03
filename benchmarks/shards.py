"""Bytes that logit shards take for each trained token, everything included: shards are written, and files measured.

    python -m benchmarks.shards [--vocab 151936]

The teacher is synthetic: probabilities fall as a power of the rank, with the exponent that gives a wanted entropy. How
many distinct ids the draws fall on depends on the shape of the distribution, which the entropy tells most of.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from distill.core import shards
from distill.core.protocols import Keep, SampledLogprobs, TokenLogprobs
from distill.core.shards import ShardInfo, ShardRows
from distill.decoding.record import recorder

SAMPLE_TOKENS = 240
"""Tokens of a sample: its key, hash and offsets are shared by them."""

SAMPLES = 100
"""Samples of a shard: its header is shared by them. They hold the same rows under other keys."""

BLOCK = 8
"""Rows of the whole vocabulary that exist at a time."""


def logits_of(entropy: float, vocab: int) -> torch.Tensor:
    """Logits -a log(rank), with a such that the distribution has this entropy in nats. float64 [V]."""
    rank_V = torch.arange(1, vocab + 1, dtype=torch.float64).log()
    low, high = 0.0, 60.0
    for _ in range(80):
        middle = (low + high) / 2
        log_p_V = (-middle * rank_V).log_softmax(0)
        low, high = (middle, high) if float(-(log_p_V.exp() * log_p_V).sum()) > entropy else (low, middle)
    return -low * rank_V


def recorded(keep: Keep, entropy: float, vocab: int) -> TokenLogprobs | SampledLogprobs:
    """What is kept of a sample's tokens; each has its own ids."""
    shape_V, noise = logits_of(entropy, vocab), torch.Generator().manual_seed(0)
    keeper = recorder(keep, "benchmark")
    for _ in range(SAMPLE_TOKENS // BLOCK):
        shift = int(torch.randint(vocab, (), generator=noise))
        keeper.add(shape_V.roll(shift).expand(BLOCK, vocab), torch.full((BLOCK,), shift))
    return keeper.rows()


def without_temperatures(got: TokenLogprobs | SampledLogprobs) -> TokenLogprobs | SampledLogprobs:
    """The same where temperature 1 alone was asked for."""
    if isinstance(got, TokenLogprobs):
        return replace(got, tails={})
    return replace(got, logprobs_E=None, normalisers={}, entropies={})


def bytes_a_token(got: TokenLogprobs | SampledLogprobs, keep: Keep, vocab: int, folder: Path) -> float:
    """Size of a shard of `SAMPLES` such samples, over its token rows."""
    info = ShardInfo(
        "m" * 32, "t" * 16, "p" * 16, vocab, keep.top_k, "sampled" if keep.draws else "topk",
        temperatures=(1.0, *keep.temperatures), draws=keep.draws,
        value_dtype="float32" if keep.draws else "float16",
    )  # fmt: skip
    path, ids = folder / "s.safetensors", range(SAMPLE_TOKENS)
    n = shards.write(path, [ShardRows(f"{number:064x}", ids, got) for number in range(SAMPLES)], info)
    return path.stat().st_size / n


def both(keep: Keep, entropy: float, vocab: int, folder: Path) -> tuple[TokenLogprobs | SampledLogprobs, str]:
    """The rows, and the two columns of sizes: without other temperatures, and with T = 2."""
    got = recorded(replace(keep, temperatures=(2.0,)), entropy, vocab)
    plain = bytes_a_token(without_temperatures(got), keep, vocab, folder)
    softer = bytes_a_token(got, replace(keep, temperatures=(2.0,)), vocab, folder)
    return got, f"{plain:.1f} | {softer:.1f}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151_936)
    vocab: int = parser.parse_args().vocab
    with tempfile.TemporaryDirectory() as name:
        print(f"{SAMPLES} samples of {SAMPLE_TOKENS} tokens, {vocab:,} entries; bytes a token\n")
        print("| top k | T = 1 | T = 1 and 2 |\n| --- | --- | --- |")
        for k in (8, 16, 32, 64):
            _, sizes = both(Keep(k), 2.0, vocab, Path(name))
            print(f"| {k} | {sizes} |", flush=True)
        print("\n| entropy, nats | draws | distinct ids | T = 1 | T = 1 and 2 |\n| --- | --- | --- | --- | --- |")
        for entropy in (0.1, 0.5, 1.0, 2.0, 4.0, 8.0):
            for draws in (12, 50, 100):
                got, sizes = both(Keep(draws=draws), entropy, vocab, Path(name))
                assert isinstance(got, SampledLogprobs)
                print(f"| {entropy} | {draws} | {len(got.ids_E) / SAMPLE_TOKENS:.1f} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
