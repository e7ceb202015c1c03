"""How fast a model folder becomes a GGUF file, beside llama.cpp's own tools and beside plain copying.

    python -m benchmarks.export --llama LLAMA_CPP [--convert-python PYTHON] [--shapes 0.5b 1.5b] [--threads 2]
    python -m benchmarks.export --memory 7b

LLAMA_CPP is a llama.cpp checkout with `build/bin/llama-quantize`; PYTHON runs its `convert_hf_to_gguf.py`. Models have
random bf16 weights of a Qwen2.5 shape and GPT-2's vocabulary (`--vocabulary`, a vocabulary-only GGUF file), since the
converter only takes tokenizers that it knows. Every arm is a process of its own and ends with the file on disk
(fsync); the page cache is warm; arms take turns, and the fastest of `--rounds` counts. Peers: the converter for F16,
BF16 and Q8_0, converter then `llama-quantize` for Q4_K_M; the limit is a copy of as many bytes as are read and written.
`--memory` writes Q4_K_M of a large shape and reports the writer's peak of anonymous memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SHAPES = {
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 50304},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151936},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151936},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 152064},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
            "num_key_value_heads": 8, "tie_word_embeddings": False, "vocab_size": 128256},
}  # fmt: skip
"""Qwen2.5's and (70b) Llama 3's shapes, from the models' config.json; as Qwen3, a type whose tokenizer transformers
loads as it is."""

TYPES = ("bf16", "f16", "q8_0", "q4_k_m")


@dataclass(frozen=True)
class Took:
    """What one process took. `anonymous_gib` is its peak of memory that is not a mapped file, 50 looks a second."""

    wall_s: float
    cpu_s: float
    anonymous_gib: float


def tensors(shape: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Qwen3 model's tensors."""
    hidden, wide, kv = shape["hidden_size"], shape["intermediate_size"], shape["num_key_value_heads"]
    head = hidden // shape["num_attention_heads"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape["vocab_size"], hidden)}
    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, rows in (("q", hidden), ("k", kv * head), ("v", kv * head)):
            found[f"{at}.self_attn.{name}_proj.weight"] = (rows, hidden)
        found[f"{at}.self_attn.q_norm.weight"] = found[f"{at}.self_attn.k_norm.weight"] = (head,)
        found[f"{at}.self_attn.o_proj.weight"] = (hidden, hidden)
        found[f"{at}.mlp.gate_proj.weight"] = found[f"{at}.mlp.up_proj.weight"] = (wide, hidden)
        found[f"{at}.mlp.down_proj.weight"] = (hidden, wide)
        found[f"{at}.input_layernorm.weight"] = found[f"{at}.post_attention_layernorm.weight"] = (hidden,)
    found["model.norm.weight"] = (hidden,)
    if not shape["tie_word_embeddings"]:
        found["lm_head.weight"] = (shape["vocab_size"], hidden)
    return found


def make_model(folder: Path, name: str, vocabulary: Path | None) -> Path:
    """A model folder of random bf16 weights, written tensor by tensor in files of at most 4 GB.

    `vocabulary` None gives it the embedded models' tokenizer, which llama.cpp's converter does not know.
    """
    shape, draw = SHAPES[name], np.random.default_rng(0)
    folder.mkdir(parents=True)
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "torch_dtype": "bfloat16",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "eos_token_id": 50256,
        "bos_token_id": 50256, "head_dim": shape["hidden_size"] // shape["num_attention_heads"], **shape,
    }  # fmt: skip
    if vocabulary is not None:
        write_tokenizer(folder, vocabulary)
    else:
        config |= copy_embedded_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config))
    noise = (draw.standard_normal(1 << 22, np.float32) * 0.02).view(np.uint32) >> 16
    block = noise.astype(np.uint16)  # bf16's bits; repeated, shifted, for every tensor
    groups: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for entry in tensors(shape).items():
        n_bytes = 2 * int(np.prod(entry[1]))
        if size and size + n_bytes > 4e9:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += n_bytes
    weight_map = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors" if len(groups) > 1 else "model.safetensors"
        _write_safetensors(folder / file, group, block)
        weight_map |= {name: file for name, _ in group}
    if len(groups) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def _write_safetensors(path: Path, group: list[tuple[str, tuple[int, ...]]], block: Any) -> None:
    header, at = {}, 0
    for name, shape in group:
        end = at + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    said = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for place, (_, shape) in enumerate(group):
            left, start = int(np.prod(shape)), 7919 * place % len(block)
            while left:
                part = block[start : start + left]
                file.write(part.tobytes())
                left, start = left - len(part), 0


def write_tokenizer(folder: Path, vocabulary: Path) -> None:
    """GPT-2's tokenizer, from a vocabulary-only GGUF file."""
    from gguf import GGUFReader

    fields = GGUFReader(vocabulary).fields
    pieces, merges = (fields[f"tokenizer.ggml.{what}"].contents() for what in ("tokens", "merges"))
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": len(pieces) - 1, "content": pieces[-1], "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "vocab": {piece: place for place, piece in enumerate(pieces)}, "merges": merges},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    named = {"tokenizer_class": "GPT2TokenizerFast", "eos_token": pieces[-1], "bos_token": pieces[-1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def copy_embedded_tokenizer(folder: Path) -> dict[str, Any]:
    """The embedded student's tokenizer and template; its special ids, as config.json names them."""
    from distill.core.models import resolve

    student = resolve("embedded-student")
    for path in student.iterdir():
        if "token" in path.name or path.suffix == ".jinja" or path.name == "generation_config.json":
            shutil.copyfile(path, folder / path.name)
    said = json.loads((student / "config.json").read_text())
    return {name: said[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in said}


def run(command: list[str], threads: int) -> Took:
    """Run to the end; raise with its words if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    began_s, before = time.perf_counter(), os.times()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = [0]
    threading.Thread(target=_watch, args=(process.pid, peak), daemon=True).start()
    said, _ = process.communicate()
    wall_s, after = time.perf_counter() - began_s, os.times()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {said[-2000:]}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(wall_s, cpu_s, peak[0] / 2**30)


def _watch(pid: int, peak: list[int]) -> None:
    while True:
        try:
            info = psutil.Process(pid).memory_info()
        except psutil.NoSuchProcess:
            return
        peak[0] = max(peak[0], info.rss - info.shared)
        time.sleep(0.02)


def ours(model: Path, out: Path, kind: str, threads: int) -> list[list[str]]:
    """Our one pass, without the proof."""
    call = f"convert(Path({str(model)!r}), Path({str(out)!r}), {kind!r}, threads={threads})"
    return [[sys.executable, "-c", f"from pathlib import Path; from distill.gguf.convert import convert; {call}"]]


def theirs(model: Path, out: Path, kind: str, threads: int, llama: Path, python: str) -> list[list[str]]:
    """llama.cpp's way: its converter, and for K-quants its quantiser after it."""
    first = out if kind != "q4_k_m" else out.with_suffix(".first")
    way = [[python, str(llama / "convert_hf_to_gguf.py"), str(model), "--outfile", str(first), "--outtype",
            kind if kind != "q4_k_m" else "bf16"]]  # fmt: skip
    if kind == "q4_k_m":
        way.append([str(llama / "build" / "bin" / "llama-quantize"), str(first), str(out), kind, str(threads)])
    return [*way, *synced(out)]


def synced(path: Path) -> list[list[str]]:
    """llama.cpp's tools leave their file to the page cache; ours syncs it, so theirs is synced too."""
    return [[sys.executable, "-c", f"import os; os.fsync(os.open({str(path)!r}, os.O_RDONLY))"]]


def copied(sources: list[Path], out: Path) -> list[list[str]]:
    """The limit: read these files and write them, with fsync."""
    code = (
        "import os, shutil, sys\n"
        "with open(sys.argv[1], 'wb') as out:\n"
        "    for path in sys.argv[2:]:\n"
        "        with open(path, 'rb') as file:\n"
        "            shutil.copyfileobj(file, out, 1 << 24)\n"
        "    out.flush()\n"
        "    os.fsync(out.fileno())\n"
    )
    return [[sys.executable, "-c", code, str(out), *map(str, sources)]]


def timed(way: list[list[str]], threads: int) -> Took:
    """All steps of a way, one after the other."""
    steps = [run(command, threads) for command in way]
    return Took(
        sum(step.wall_s for step in steps), sum(step.cpu_s for step in steps), max(s.anonymous_gib for s in steps)
    )


def speed(args: argparse.Namespace, scratch: Path) -> None:
    """Ratios to llama.cpp and to copying, a line a type."""
    print(f"threads {args.threads}, load {os.getloadavg()[0]:.1f}, fastest of {args.rounds}")
    print("shape  type    ours s  llama.cpp s  copy s  llama.cpp/ours  copy/ours  ours GiB  llama.cpp GiB")
    for name in args.shapes:
        model = make_model(scratch / name, name, args.vocabulary)
        weights = sorted(model.glob("*.safetensors"))
        for kind in args.types:
            best: dict[str, Took] = {}
            for _ in range(args.rounds):
                out = scratch / "out.gguf"
                ways = {
                    "copy": copied(weights, out),
                    "ours": ours(model, out, kind, args.threads),
                    "theirs": theirs(model, out, kind, args.threads, args.llama, args.convert_python),
                }
                for arm, way in ways.items():
                    took = timed(way, args.threads)
                    best[arm] = min(best.get(arm, took), took, key=lambda t: t.wall_s)
                    for left in scratch.glob("out.*"):
                        left.unlink()
            a, b, c = best["ours"], best["theirs"], best["copy"]
            print(
                f"{name:6} {kind:7} {a.wall_s:6.2f}  {b.wall_s:11.2f}  {c.wall_s:6.2f}  {b.wall_s / a.wall_s:14.2f}  "
                f"{c.wall_s / a.wall_s:9.2f}  {a.anonymous_gib:8.2f}  {b.anonymous_gib:13.2f}",
                flush=True,
            )
        shutil.rmtree(model)


def memory(args: argparse.Namespace, scratch: Path) -> None:
    """Peak of the writer on a large shape, beside three times the largest tensor in float32 plus 300 MB."""
    for name in args.memory:
        largest = max(4 * int(np.prod(shape)) for shape in tensors(SHAPES[name]).values()) / 2**30
        allowed = 3 * largest + 300e6 / 2**30
        if name == "70b":
            print(f"{name}: largest tensor {largest:.2f} GiB in fp32, allowed {allowed:.2f} GiB (computed, not run)")
            continue
        model = make_model(scratch / name, name, None)
        took = timed(ours(model, scratch / "out.gguf", "q4_k_m", args.threads), args.threads)
        print(
            f"{name}: largest tensor {largest:.2f} GiB in fp32, allowed {allowed:.2f} GiB, "
            f"peak {took.anonymous_gib:.2f} GiB, {took.wall_s:.0f} s"
        )
        shutil.rmtree(model)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, help="a llama.cpp checkout with build/bin/llama-quantize")
    parser.add_argument("--convert-python", default=sys.executable, help="runs llama.cpp's converter")
    data = Path(os.environ.get("DISTILL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--vocabulary", type=Path, default=data / "tokenizer_vocabs" / "ggml-vocab-gpt-2.gguf")
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), default=["0.5b", "1.5b"])
    parser.add_argument("--types", nargs="*", choices=TYPES, default=list(TYPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", nargs="*", choices=list(SHAPES), help="only the writer's peak memory, on these")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if args.memory:
            memory(args, Path(scratch))
        elif args.llama is None:
            parser.error("--llama names a llama.cpp checkout to compare with; or give --memory")
        else:
            speed(args, Path(scratch))


if __name__ == "__main__":
    main()
