"""How to run what was published: the form it was trained in, and commands with the settings it was measured with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distill.publish.contents import ROOT, Contents
from distill.publish.markdown import Markdown, block, inline, joined

SAMPLED = ("temperature", "top_p", "top_k")
LLAMA_CPP = {"temperature": "--temp", "top_p": "--top-p", "top_k": "--top-k"}
"""Options of llama-cli (https://github.com/ggml-org/llama.cpp, tools/main/README.md)."""
LIMIT = 1024
"""Longest answer in the examples, where nothing was measured."""
MESSAGES = [{"role": "user", "content": "What is 17*23?"}]
UNRUN = " (written to its documentation, not run by us)"


@dataclass(frozen=True)
class Way:
    """One way to run it."""

    name: str
    remark: Markdown
    code: Markdown


def drawing(settings: Mapping[str, Any]) -> str:
    """Sampling settings in words: `greedily`, or `with temperature 0.6 and top_p 0.95`."""
    if settings.get("temperature") == 0:
        return "greedily"
    parts = [f"{name} {settings[name]:g}" for name in SAMPLED if settings.get(name)]
    return f"with {joined(parts)}" if parts else "with its own defaults"


def form(contents: Contents) -> Markdown:
    """How it thinks, and how it is to be drawn."""
    release, drawn = contents.release, contents.drawn()
    said = []
    if release.thinks:
        opened = "in the prompt" in (release.training.get("thinking_opens") or {})
        ending = "; its chat template opens the block" if opened else ""
        said.append(f"It thinks between `<think>` and `</think>` before it answers{ending}.")
    else:
        said.append("It was trained to answer without thinking: give its chat template `enable_thinking=False`.")
    if drawn.get("temperature") is not None:
        limit = f", at most {drawn['max_tokens']:,} tokens an answer" if drawn.get("max_tokens") else ""
        said.append(f"The results below were drawn {inline(drawing(drawn))}{limit}; use the same.")
    if drawn.get("instruction"):
        said.append(f"Questions were put with the instruction “{inline(drawn['instruction'])}”.")
    if release.context:
        said.append(f"Its context is {release.context:,} tokens.")
    return Markdown(" ".join(said))


def ways(contents: Contents) -> Iterator[Way]:
    """Commands for transformers, vLLM, llama.cpp and Ollama, as far as their files lie in this repository."""
    places = {file.what: contents.places[file.name] for file in reversed(contents.files)}
    if places.get("model") == ROOT:
        yield Way("transformers", Markdown(""), block(_transformers(contents), "python"))
        yield Way("vLLM", Markdown(UNRUN), block(_vllm(contents), "python"))
    if "adapter" in places:
        yield Way("The adapter, with peft", Markdown(""), block(_peft(contents, places["adapter"]), "python"))
    for file in contents.ggufs()[:1]:
        name = contents.places[file.name]
        yield Way("llama.cpp", Markdown(UNRUN), block(_llama_cpp(contents, name), "sh"))
        if file.name in contents.modelfiles:
            yield Way("Ollama", Markdown(UNRUN), block(_ollama(contents, name, contents.modelfiles[file.name]), "sh"))


def _transformers(contents: Contents) -> str:
    return "\n".join(
        (
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'name = "{contents.id}"',
            "tokenizer = AutoTokenizer.from_pretrained(name)",
            'model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")',
            *_generation(contents),
        )
    )


def _peft(contents: Contents, place: str) -> str:
    base = contents.release.base
    inside = "" if place == ROOT else f", subfolder={json.dumps(place)}"
    return "\n".join(
        (
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'name = "{contents.id}"',
            f"tokenizer = AutoTokenizer.from_pretrained(name{inside})",
            f'base = AutoModelForCausalLM.from_pretrained({json.dumps(base.name if base else "BASE")}, dtype="auto")',
            f"model = PeftModel.from_pretrained(base, name{inside})",
            *_generation(contents),
        )
    )


def _generation(contents: Contents) -> list[str]:
    drawn = contents.drawn()
    form = "" if contents.release.thinks else ", enable_thinking=False"
    sampled = "".join(f", {name}={drawn[name]:g}" for name in SAMPLED if drawn.get(name))
    greedy = drawn.get("temperature") == 0
    how = "do_sample=False" if greedy else f"do_sample=True{sampled}"
    return [
        f"messages = {json.dumps(MESSAGES)}",
        "inputs = tokenizer.apply_chat_template(",
        f'    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True{form}',
        ")",
        f"output = model.generate(**inputs, max_new_tokens={drawn.get('max_tokens') or LIMIT}, {how})",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))',
    ]


def _vllm(contents: Contents) -> str:
    drawn = contents.drawn()
    length = f", max_model_len={contents.release.context}" if contents.release.context else ""
    asked = [f"{name}={drawn[name]:g}" for name in SAMPLED if drawn.get(name)]
    if drawn.get("temperature") == 0:
        asked = ["temperature=0"]
    limit = f"max_tokens={drawn.get('max_tokens') or LIMIT}"
    form = "" if contents.release.thinks else ', chat_template_kwargs={"enable_thinking": False}'
    return "\n".join(
        (
            "from vllm import LLM, SamplingParams",
            "",
            f'model = LLM("{contents.id}"{length})',
            f"sampling = SamplingParams({', '.join([*asked, limit])})",
            f"messages = {json.dumps(MESSAGES)}",
            f"print(model.chat(messages, sampling{form})[0].outputs[0].text)",
        )
    )


def _llama_cpp(contents: Contents, name: str) -> str:
    drawn = contents.drawn()
    flags = "".join(f" {flag} {drawn[key]:g}" for key, flag in LLAMA_CPP.items() if drawn.get(key) is not None)
    limit = drawn.get("max_tokens") or LIMIT
    return f"hf download {contents.id} {name} --local-dir .\nllama-cli -m {name} --jinja{flags} -n {limit}"


def _ollama(contents: Contents, name: str, modelfile: str) -> str:
    model = contents.id.partition("/")[2].lower()
    return (
        f"hf download {contents.id} {name} {modelfile} --local-dir .\n"
        f"ollama create {model} -f {modelfile}\nollama run {model}"
    )
