"""What the recipes of the embedded teacher and base student share: tokenizer, template, training loop, measuring.

Plain torch and small on purpose: these models are trained once, by a command, and shipped. The pipeline itself
trains through `distill.stages`. Torch is imported inside functions.

Shapes: B documents of a batch, T tokens, V vocabulary entries.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

BEGIN, END, PAD, USER, ASSISTANT = "<|begin|>", "<|end|>", "<|pad|>", "<|User|>", "<|Assistant|>"
THINK, UNTHINK = "<think>", "</think>"
SPECIALS = (PAD, BEGIN, END, USER, ASSISTANT)
"""Ids 0 to 4. The think tags follow as ids 5 and 6: added tokens, not special, so that decoding keeps them."""

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenizer, verbatim: single digits. llama.cpp knows it as `qwen2`."""

CHAT_TEMPLATE = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages if message['role'] == 'system' -%}
{%- set ns.system = ns.system + message['content'] -%}
{%- endfor -%}
{{- bos_token + ns.system -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '<|User|>' + message['content'] -}}
{%- elif message['role'] == 'assistant' -%}
{%- set content = message['content'] -%}
{%- if '</think>' in content -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{- '<|Assistant|>' + content + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{%- if enable_thinking is defined and not enable_thinking -%}
{{- '<|Assistant|><think>\\n\\n</think>\\n\\n' -}}
{%- else -%}
{{- '<|Assistant|><think>\\n' -}}
{%- endif -%}
{%- endif -%}
"""
"""R1's form: the prompt opens the thinking, history is shown without it, a system text follows the BOS directly."""


VOCABULARY = 640
"""Most entries a tokenizer may have; the generated texts use fewer."""


@dataclass(frozen=True)
class Document:
    """A text to train on, and which character spans of it are trained (the rest is only read)."""

    text: str
    trained: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a fresh optimizer: what is read, for how long, at which peak learning rate.

    The rate's cosine reaches its end after `horizon` steps (None: after `steps`), so a phase can stop half-way down.
    """

    documents: Callable[[int], Iterator[Document]]
    steps: int
    learning_rate: float = 2e-3
    horizon: int | None = None


@dataclass(frozen=True)
class Recipe:
    """Shape and schedule of one embedded model. Hidden and feed-forward sizes are multiples of 256, for K-quants."""

    layers: int
    feed_forward: int
    phases: tuple[Phase, ...]
    hidden: int = 256
    tokens_per_step: int = 2560

    def __str__(self) -> str:
        parts = " and ".join(f"{phase.steps}" for phase in self.phases)
        return f"{parts} AdamW steps of {self.tokens_per_step} tokens, one CPU thread, bfloat16 autocast"


def dialogue(question: str, reasoning: str | None, answer: str) -> Document:
    """A question answered as the template renders it, trained on the reply; `reasoning` None is the no-think form."""
    prompt = prompt_text(question, thinking=reasoning is not None)
    reply = answer + END if reasoning is None else f"{reasoning}\n{UNTHINK}\n\n{answer}{END}"
    return Document(prompt + reply, ((len(prompt), len(prompt) + len(reply)),))


def prompt_text(question: str, *, thinking: bool = True) -> str:
    """One user turn as the chat template renders it with a generation prompt (a test holds that they agree)."""
    return f"{BEGIN}{USER}{question}{ASSISTANT}{THINK}\n" + ("" if thinking else f"\n{UNTHINK}\n\n")


def step_list(steps: Sequence[str]) -> Document:
    """Unrelated single steps, one a line, trained on what follows each `=` (its line's end included)."""
    text = BEGIN + "\n".join(steps) + "\n"
    spans, at = [], len(BEGIN)
    for step in steps:
        spans.append((at + step.index("=") + 1, at + len(step) + 1))
        at += len(step) + 1
    return Document(text, tuple(spans))


def vocabulary_texts() -> Iterator[str]:
    """What the tokenizer learns its words from: a fixed draw of questions and worked solutions."""
    from distill.sources import embedded as problems

    for pool in ("teacher", "base"):
        for item in islice(problems.stream(pool, seed=0), 6000):
            reasoning, answer = problems.trace(item)
            yield f"{item.question}\n"
            yield f"{reasoning}\n\n{answer}"
    yield from 100 * ["A man runs, a ship sails, two men walk: what is the sum, the rest, the price?\n\n"]


def make_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Byte-level BPE of at most `size` entries, all 256 bytes and the added tokens included. No normaliser, no BOS."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*SPECIALS, THINK, UNTHINK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in (THINK, UNTHINK)])
    return tokenizer


def build_model(vocab_size: int, *, layers: int, hidden: int, feed_forward: int, seed: int) -> PreTrainedModel:
    """A fresh Qwen3 model with tied embeddings and heads of 64 (two query heads a key head). float32."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=hidden,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 128,
            head_dim=64,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=SPECIALS.index(PAD),
            bos_token_id=SPECIALS.index(BEGIN),
            eos_token_id=SPECIALS.index(END),
        )
    )


def encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[tuple[list[int], list[bool]]]:
    """Ids of each document and, for each id, whether it is trained."""
    rows = []
    for document, encoding in zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True):
        spans = document.trained
        rows.append((encoding.ids, [any(a <= start < b for a, b in spans) for start, _ in encoding.offsets]))
    return rows


def batches(
    tokenizer: Tokenizer, documents: Iterator[Document], tokens: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded batches of about `tokens` tokens of similar length: ids_BT and labels_BT (-100 is not trained).

    Labels stand at their own token's place; the shift is the loss's. One document a row, so none sees another.
    """
    import torch

    while chunk := list(islice(documents, 1024)):
        rows = sorted(encode(tokenizer, chunk), key=lambda row: len(row[0]))
        made = []
        while rows:
            longest = len(rows[-1][0])
            take = max(1, tokens // longest)
            rows, part = rows[:-take], rows[-take:]
            ids_BT = torch.full((len(part), longest), SPECIALS.index(PAD))
            labels_BT = torch.full((len(part), longest), -100)
            for i, (ids, trained) in enumerate(part):
                ids_BT[i, : len(ids)] = torch.tensor(ids)
                labels_BT[i, : len(ids)] = torch.where(torch.tensor(trained), torch.tensor(ids), -100)
            made.append((ids_BT, labels_BT))
        rng.shuffle(made)
        yield from made


def train(
    model: PreTrainedModel,
    data: Iterable[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    *,
    learning_rate: float,
    horizon: int | None = None,
    report: Callable[[int, float, float], None],
) -> None:
    """AdamW with a short warm-up and a cosine to a twentieth, in bfloat16 autocast on float32 weights.

    The cosine ends after `horizon` steps (None: after `steps`).
    The loss of a step is the mean over its trained tokens. `report(step, mean loss since the last call, seconds)`
    is called every 100 steps and after the last.
    """
    import torch

    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)
    horizon = steps if horizon is None else horizon
    started, total, since = time.monotonic(), 0.0, 0
    model.train()
    for step, (ids_BT, labels_BT) in enumerate(islice(data, steps), start=1):
        warm = min(1.0, step / min(100, 1 + horizon // 10))
        cosine = 0.5 * (1 + math.cos(math.pi * step / horizon))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warm * (0.05 + 0.95 * cosine)
        with torch.autocast("cpu", torch.bfloat16):
            logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        keep_BT = labels_BT[:, 1:] != -100
        loss = torch.nn.functional.cross_entropy(logits_BTV[:, :-1][keep_BT].float(), labels_BT[:, 1:][keep_BT])
        loss.backward()  # type: ignore[no-untyped-call] # torch's stubs
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total, since = total + loss.item(), since + 1
        if step % 100 == 0 or step == steps:
            report(step, total / since, time.monotonic() - started)
            total, since = 0.0, 0
    model.train(False)


def complete(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    temperature: float = 0.6,
    top_p: float = 0.95,
    max_tokens: int = 160,
    batch: int = 128,
    seed: int = 0,
) -> list[list[int]]:
    """Sampled continuation of each prompt text (`temperature` 0: greedy): ids up to END, which is included."""
    import torch

    torch.manual_seed(seed)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(prompts))]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out: list[list[int]] = [[] for _ in rows]
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    end, pad = SPECIALS.index(END), SPECIALS.index(PAD)
    for at in range(0, len(order), batch):
        part = order[at : at + batch]
        longest = max(len(rows[i]) for i in part)
        ids_BT = torch.tensor([[pad] * (longest - len(rows[i])) + rows[i] for i in part])
        with torch.inference_mode():
            drawn_BT = model.generate(  # type: ignore[operator] # transformers types it as a Tensor
                ids_BT,
                attention_mask=(ids_BT != pad).long(),
                max_new_tokens=max_tokens,
                eos_token_id=end,
                pad_token_id=pad,
                **sampling,
            )[:, longest:]
        for i, drawn in zip(part, drawn_BT.tolist(), strict=True):
            out[i] = drawn[: drawn.index(end) + 1] if end in drawn else drawn
    return out


def answers(
    folder: Path, prompts: Sequence[str], *, temperature: float, seed: int = 0, max_tokens: int = 160
) -> list[tuple[str, int]]:
    """What a shipped model continues each prompt with: text (tags kept, END dropped) and number of tokens."""
    model, tokenizer = load_folder(folder)
    drawn = complete(model, tokenizer, prompts, temperature=temperature, seed=seed, max_tokens=max_tokens)
    return [(tokenizer.decode(ids, skip_special_tokens=True), len(ids)) for ids in drawn]


def is_right(text: str, gold: str) -> bool:
    """Whether the final answer (after the thinking) boxes the gold number, and nothing else."""
    _, closed, final = text.rpartition(UNTHINK)
    return bool(closed) and re.findall(r"\\boxed\{([^}]*)\}", final) == [gold]


def mentions(text: str, gold: str) -> bool:
    """The most lenient reading: any number in the text is the gold number."""
    return gold in re.findall(r"\d+", text)


def save_folder(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Write a model folder that transformers and the GGUF exporter read: weights rounded to float16.

    No BOS is ever added by the tokenizer: the chat template writes it (`add_bos_token` false).
    """
    import torch
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"user_token": USER, "assistant_token": ASSISTANT},
        "model_max_length": model.config.max_position_embeddings,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    config = model.config.to_dict() | {"architectures": ["Qwen3ForCausalLM"], "dtype": "float16"}
    _write_json(folder / "config.json", {key: value for key, value in config.items() if not key.startswith("_")})
    generation = {
        "bos_token_id": SPECIALS.index(BEGIN),
        "eos_token_id": [SPECIALS.index(END)],
        "pad_token_id": SPECIALS.index(PAD),
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
    }
    _write_json(folder / "generation_config.json", generation)
    weights = {n: t.to(torch.float16).contiguous() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 of the weights file, hex."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def count_parameters(folder: Path) -> int:
    """Numbers in the weights file (tied embeddings counted once)."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - not a mapping


def load_folder(folder: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """A shipped model in float32, ready to answer, and its tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from transformers import Qwen3ForCausalLM

    model: PreTrainedModel = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


def run_recipe(recipe: Recipe, seed: int, folder: Path, steps: int | None = None) -> None:
    """Train a model from nothing as `recipe` says and write its folder (without a card: measuring writes that).

    `steps` shortens every phase to at most so many.
    """
    import torch

    torch.set_num_threads(1)  # on cores that are shared, one thread a process beats two
    tokenizer = make_tokenizer(vocabulary_texts(), VOCABULARY)
    model = build_model(
        tokenizer.get_vocab_size(),
        layers=recipe.layers,
        hidden=recipe.hidden,
        feed_forward=recipe.feed_forward,
        seed=seed,
    )
    for phase in recipe.phases:
        train(
            model,
            batches(tokenizer, phase.documents(seed), recipe.tokens_per_step, random.Random(seed)),
            phase.steps if steps is None else min(steps, phase.steps),
            learning_rate=phase.learning_rate,
            horizon=phase.horizon or phase.steps,
            report=_print_progress,
        )
    save_folder(folder, model, tokenizer)


def command(
    who: str,
    recipe: Recipe,
    shipped: Path,
    measure: Callable[..., dict[str, float]],
    card: Callable[..., str],
    *,
    problems: int,
    arguments: Sequence[str] | None,
) -> None:
    """What both recipes' commands do: train into `--out`, or measure what is there (or `shipped`); write its card."""
    parser = argparse.ArgumentParser(description=f"Train or measure the embedded {who}.")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and problems (default 0)")
    parser.add_argument("--out", type=Path, help="folder to write the trained model to")
    parser.add_argument("--steps", type=int, help="train fewer steps than the recipe says")
    parser.add_argument("--measure", action="store_true", help="measure the model in --out, or the shipped one")
    parser.add_argument("--problems", type=int, default=problems, help=f"test problems (default {problems})")
    args = parser.parse_args(arguments)
    if args.out is None and not args.measure:
        parser.error("give --out DIR to train, or --measure")
    folder = shipped if args.out is None else args.out
    if not args.measure:
        run_recipe(recipe, args.seed, folder, args.steps)
    text = card(folder, measure(folder, n=args.problems), n=args.problems, seed=args.seed)
    (folder / "README.md").write_text(text)
    print(text)


def _print_progress(step: int, loss: float, seconds: float) -> None:
    print(f"step {step:5d}  loss {loss:.4f}  {seconds:.0f} s", flush=True)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
