"""Tiny random models that are real to every library: a folder with weights, tokenizer, template and generation config.

The tokenizer and the template are of the embedded models' kind (byte-level BPE, Qwen2's split, R1's template that opens
the thinking), so what holds here holds there; only the weights are noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.embedded import BEGIN, CHAT_TEMPLATE, END, PAD, make_tokenizer

CORPUS = (
    "What is 17*23? Compute the product step by step.",
    "17*20=340\n17*3=51\n340+51=391\n</think>\n\nThe answer is \\boxed{391}.",
    "Tom buys 3 pens at 12 coins each and 4 cups at 25 coins each. How much is left of 200 coins?",
    "Solve 3x+7=22, then find 5x-3. A train drives 4 hours at 85 km per hour, how far is it?",
)
"""What the tiny tokenizer learns its merges from."""


def make_tiny_model(
    folder: Path,
    *,
    architecture: str = "qwen3",
    seed: int = 0,
    vocab: int = 320,
    padded_vocab: int | None = None,
    hidden: int = 64,
    feed_forward: int = 128,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    context: int = 512,
    tied: bool = True,
    template: str = CHAT_TEMPLATE,
    scale: float = 0.2,
    **config: Any,
) -> Path:
    """Write a random float32 `qwen3`, `llama` or `qwen2` model of `vocab` (300 or more) entries; return its folder.

    `padded_vocab` gives the model more embedding rows than the tokenizer has entries, as many real models have.
    `scale` is the standard deviation of the weights: at 0.2 the next-token distributions are neither flat nor one-hot.
    `config` goes to the architecture's configuration as it is (`rope_parameters=...`, `attention_bias=True`).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    tokenizer = tiny_tokenizer(folder, vocab=vocab, template=template, qwen2=architecture == "qwen2")
    if architecture != "qwen2":
        config = {"head_dim": head_dim, **config}
    settings = AutoConfig.for_model(
        architecture,
        vocab_size=padded_vocab or len(tokenizer),
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        initializer_range=scale,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **config,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    return folder


def tiny_tokenizer(folder: Path, *, vocab: int = 320, template: str = CHAT_TEMPLATE, qwen2: bool = False) -> Any:
    """Write the tokenizer files of a tiny model into `folder`, and give the loaded tokenizer.

    `qwen2` adds what transformers gives every folder of that type, whatever its files say: a normaliser and one token.
    """
    from tokenizers.normalizers import NFC
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = make_tokenizer(CORPUS, vocab)
    special = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    if qwen2:
        tokenizer.normalizer = NFC()
        special["unk_token"] = "<|endoftext|>"
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
