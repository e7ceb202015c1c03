"""Shapes of models: from a folder's config.json, or from the table of those that the presets name.

Letters in this package: H hidden size, Q and K entries of all query and of all key heads, F feed-forward size, V
vocabulary rows, L layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from distill.core import yaml
from distill.core.errors import ConfigError
from distill.core.models import EMBEDDED, looks_local, resolve

TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""`model_type`s whose layers are known here: grouped-query attention, a gated feed-forward, RMS norms."""

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of one block."""


@dataclass(frozen=True)
class ModelShape:
    """What the sizes of a dense decoder follow from; field for field an entry of config.json."""

    name: str
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    max_position_embeddings: int
    bias: tuple[str, ...] = ()
    """Linear layers that have a bias."""

    @property
    def query(self) -> int:
        """Entries of all query heads (Q)."""
        return self.num_attention_heads * self.head_dim

    @property
    def key(self) -> int:
        """Entries of all key heads, and of all value heads (K)."""
        return self.num_key_value_heads * self.head_dim

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised head by head."""
        return self.model_type == "qwen3"

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block, by name."""
        h, q, k, f = self.hidden_size, self.query, self.key, self.intermediate_size
        return dict(zip(LINEAR, [(h, q), (h, k), (h, k), (q, h), (h, f), (h, f), (f, h)], strict=True))

    @property
    def linear_weights(self) -> int:
        """Entries of the linear layers' matrices, all blocks."""
        return self.num_hidden_layers * sum(i * o for i, o in self.linear.values())

    @property
    def norms(self) -> int:
        """Entries of the norms, all blocks and the last one."""
        block = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        return self.num_hidden_layers * block + self.hidden_size

    @property
    def biases(self) -> int:
        """Entries of the biases, all blocks."""
        return self.num_hidden_layers * sum(self.linear[name][1] for name in self.bias)

    @property
    def embedding(self) -> int:
        """Entries of the embeddings (V x H)."""
        return self.vocab_size * self.hidden_size

    @property
    def head(self) -> int:
        """Entries of the head's own weights: none where it is the embeddings."""
        return 0 if self.tie_word_embeddings else self.embedding

    @property
    def parameters(self) -> int:
        """All of them, each counted once."""
        return self.linear_weights + self.norms + self.biases + self.embedding + self.head

    @property
    def cache_entries(self) -> int:
        """Keys and values that a token leaves in the cache."""
        return 2 * self.num_hidden_layers * self.key


def of_config(config: Mapping[str, Any], name: str) -> ModelShape:
    """The shape that a config.json describes. Raises ConfigError for another kind of model, or a missing entry."""
    config = config.get("text_config") or config
    kind = config.get("model_type")
    if kind not in TYPES:
        raise ConfigError(f"model `{name}`: no plan for the type {kind!r}; known: {', '.join(TYPES)}")
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        biased: tuple[str, ...] = LINEAR[:3] if kind == "qwen2" else ()
        if kind != "qwen2" and config.get("attention_bias"):
            biased = LINEAR[:4]
        if config.get("mlp_bias"):
            biased = (*biased, *LINEAR[4:])
        return ModelShape(
            name=name,
            model_type=kind,
            hidden_size=hidden,
            intermediate_size=int(config["intermediate_size"]),
            num_hidden_layers=int(config["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocab_size=int(config["vocab_size"]),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            max_position_embeddings=int(config["max_position_embeddings"]),
            bias=biased,
        )
    except KeyError as error:
        raise ConfigError(f"model `{name}`: its config.json has no {error}") from None


@cache
def table() -> Mapping[str, ModelShape]:
    """The shapes that come with the package, by the model's name on the Hub."""
    text = resources.files("distill.plan").joinpath("shapes.yaml").read_text(encoding="utf-8")
    return {name: of_config(config, name) for name, config in yaml.parse(text, "shapes.yaml").data.items()}


def shape_of(model: str, revision: str | None = None) -> ModelShape:
    """The shape of a model by name: its folder, the table, the Hub's cache, or its config.json alone from the Hub.

    Raises ConfigError where none of them has it.
    """
    path = Path(model).expanduser()
    if model in EMBEDDED or path.is_dir():
        file = resolve(model) / "config.json"
    elif path.suffix == ".gguf" or looks_local(model):
        raise ConfigError(f"model `{model}`: a plan needs a model folder or a Hub id, for its config.json")
    elif model in table():
        return table()[model]
    else:
        file = _from_hub(model, revision)
    try:
        return of_config(json.loads(file.read_text(encoding="utf-8")), model)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model `{model}`: {file} cannot be read ({error})") from None


def _from_hub(model: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, "config.json", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"model `{model}`: its shape is in no table here and the Hub gives no config.json ({reason}); "
            "name a folder that has one"
        ) from error
