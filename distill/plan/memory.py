"""Bytes of one training process, moment by moment, from the shape of the model and the settings.

What is counted is what the code in students/ makes torch hold: the weights, what autograd saves of each layer, what the
chunked head loss allocates, gradients and AdamW's moments. tests/plan/test_memory.py counts the same in torch, on the
real modules at real sizes without their data. Not counted is what the allocator and CUDA add: `gpus.reserve`.

The letters are those of `shapes`; T is the tokens of a forward pass. Everything is bytes unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from distill.plan.shapes import LINEAR, ModelShape

Sharding = Literal["ddp", "fsdp2", "zero3"]

TILE_BYTES = 160 << 20
"""Most bytes of logits at a time in students/head_loss.py; a test holds the two numbers together."""

PART_BYTES = 16 << 20
"""Most bytes of them that a CPU has in float32 at a time, there."""

SWEEP_ROWS, SWEEP_ENTRIES = 1024, 4096
"""Largest tile of a frozen head at T = 1, in students/vocabulary_tiles.py."""

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in NF4: 4 bits, an 8-bit scale to every 64 weights, a float32 scale to every 256 of those (QLoRA, arXiv
2305.14314, section 3)."""


@dataclass(frozen=True)
class Adapter:
    """A low-rank adapter on the named linear layers of every block."""

    rank: int
    targets: tuple[str, ...] = LINEAR
    dropout: bool = False
    dora: bool = False
    nf4: bool = False
    """Whether the base is held in 4 bits."""

    def parameters(self, shape: ModelShape) -> int:
        """Trained entries."""
        sizes = [shape.linear[name] for name in self.targets]
        return shape.num_hidden_layers * sum(self.rank * (i + o) + (o if self.dora else 0) for i, o in sizes)


@dataclass(frozen=True)
class Training:
    """One process of a training. `half` is 16-bit arithmetic under autocast; full weights are float32 all the same."""

    shape: ModelShape
    adapter: Adapter | None
    half: bool
    tokens: int
    """Of a forward pass, padding included."""
    longest: int
    """Of its longest sequence."""
    checkpointing: bool
    accumulates: bool
    """Whether an optimizer step has several forward passes."""
    square_mask: bool = False
    """Whether attention is given a mask of longest x longest: packed sequences on SDPA."""
    top_k: int = 0
    """Ids a token that the teacher gives; 0 without a teacher."""
    loss_temperature: float = 1.0
    live_teacher: ModelShape | None = None
    processes: int = 1
    sharding: Sharding = "ddp"
    cpu: bool = False

    @property
    def sharded(self) -> bool:
        """Whether weights, gradients and moments are divided among the processes."""
        return self.processes > 1 and self.sharding != "ddp"

    @property
    def trained(self) -> int:
        """Entries that are trained."""
        return self.shape.parameters if self.adapter is None else self.adapter.parameters(self.shape)


def peak(training: Training) -> tuple[str, dict[str, float]]:
    """The moment that needs most, and what it is made of (bytes by name)."""
    at = moments(training)
    worst = max(at, key=lambda name: sum(at[name].values()))
    return worst, {name: size for name, size in at[worst].items() if size}


def moments(training: Training) -> Mapping[str, dict[str, float]]:
    """What is held at the moments of a step that can be its peak."""
    stays, all_gradients = held(training) | _gathered(training), gradients(training)
    cast = copies(training)
    layer_cast = cast / training.shape.num_hidden_layers
    layer = {
        "recomputed layer": _layer_saved(training) if training.checkpointing else 0,
        "gradients on the way": _layer_gradients(training) + _waiting(training),
    }
    passing = stays | {"gradients": all_gradients if training.accumulates else 0, "activations": saved(training)}
    # Without accumulation a layer's gradients come as its activations go; the embeddings' come last.
    late = all_gradients - (0 if training.accumulates or training.adapter is not None else 4 * training.shape.embedding)
    return {
        "the loss": passing | {"weights in 16 bit": cast, "head and loss": head_loss(training)},
        "the head's gradient": passing
        | {
            "weights in 16 bit": 0 if training.checkpointing else cast,
            "gradients on the way": _head_gradient(training),
        },
        "the last layer's backward pass": passing
        | {"weights in 16 bit": layer_cast if training.checkpointing else cast}
        | layer,
        "the first layer's backward pass": stays | {"gradients": late, "weights in 16 bit": layer_cast} | layer,
        "the embeddings' gradient": stays
        | {"gradients": all_gradients, "gradients on the way": _embedding_gradients(training)},
        "the optimizer's step": stays | {"gradients": all_gradients},
    }


def held(training: Training) -> dict[str, float]:
    """Weights and moments, which stay."""
    shape, adapter = training.shape, training.adapter
    share = training.processes if training.sharded else 1
    wide = 2 if training.half else 4
    stays: dict[str, float] = {}
    if adapter is None:
        stays["weights"] = 4 * shape.parameters / share
        stays["AdamW's moments"] = 8 * shape.parameters / share
    else:
        # Norms of a 4-bit base are float32 (distill/nf4.py); TRL turns the adapter on such a base to bf16.
        rest = wide * (shape.embedding + shape.head + shape.biases) + (4 if adapter.nf4 else wide) * shape.norms
        base = (NF4_BYTES if adapter.nf4 else wide) * shape.linear_weights + rest
        stays["weights"] = base / share
        stays["adapter"] = _adapter_width(training) * training.trained / share
        stays["AdamW's moments"] = 2 * _adapter_width(training) * training.trained / share
    if training.live_teacher is not None:
        stays["live teacher"] = wide * training.live_teacher.parameters
    return stays


def _adapter_width(training: Training) -> int:
    """Bytes of an adapter's entry."""
    return 2 if training.adapter is not None and training.adapter.nf4 and training.half else 4


def gradients(training: Training) -> float:
    """Gradients of all that is trained. DDP holds them a second time, in the buckets that it sends."""
    width = 4 if training.adapter is None else _adapter_width(training)
    if training.processes == 1:
        return width * training.trained
    return width * training.trained * (1 / training.processes if training.sharded else 2)


def _gathered(training: Training) -> dict[str, float]:
    """What a sharded run puts together for a while: this layer's weights and the next one's, embeddings and head; and
    a layer's gradients before they are divided, in both widths. No test counts these: it takes several GPUs.
    """
    if not training.sharded:
        return {}
    shape = training.shape
    width = 2 if training.half else 4
    layer = shape.linear_weights / shape.num_hidden_layers
    weights = 2 * layer * (NF4_BYTES if training.adapter is not None and training.adapter.nf4 else width)
    grads = layer * (width + 4) if training.adapter is None else 0
    return {"gathered weights": weights + width * (shape.embedding + shape.head), "gathered gradients": grads}


def _residual(training: Training) -> int:
    """Bytes of an entry of the stream between the layers: that of the weights, which add to it."""
    return 4 if not training.half or (training.adapter is None and not training.sharded) else 2


def saved(training: Training) -> float:
    """What autograd keeps of all layers at the end of the backbone, and what surrounds them."""
    shape, t, width = training.shape, training.tokens, _residual(training)
    layer = width * shape.hidden_size * t if training.checkpointing else _layer_saved(training)
    trained_norm = width * shape.hidden_size if training.adapter is None else 0
    last_norm = 4 * shape.hidden_size + trained_norm + width * shape.hidden_size
    rotary = 2 * shape.head_dim * width * training.longest
    mask = training.longest**2 if training.square_mask and training.checkpointing else 0  # an input of every layer
    if training.adapter is not None and not training.checkpointing:
        last_norm -= 4 * shape.hidden_size  # the first norm stands before anything that trains, and keeps nothing
    return layer * shape.num_hidden_layers + last_norm * t + rotary + mask


def _layer_saved(training: Training) -> float:
    """What autograd keeps of one layer for its backward pass, checkpointing aside."""
    shape, adapter = training.shape, training.adapter
    h, q, k, f = shape.hidden_size, shape.query, shape.key, shape.intermediate_size
    a = 2 if training.half else 4
    r = _residual(training)
    keys = q if training.square_mask else k  # with a mask, keys and values are repeated for each query head
    # A norm keeps its input in float32 and, where its weight trains, what it scales.
    norms = 2 * h * (4 + (r if adapter is None else 0)) + 8
    attention = a * (2 * q + 2 * keys) + 4 * shape.num_attention_heads
    if shape.qk_norm:
        attention += (q + k) * (4 + (a if adapter is None else 0))
        attention += 4 * (shape.num_attention_heads + shape.num_key_value_heads)
    feed_forward = 3 * a * f  # the gate, its SiLU, and what it gates
    # Attention makes numbers of a bool mask, layer by layer, and keeps them.
    mask = a * training.longest**2 if training.square_mask else 0
    return training.tokens * (norms + attention + feed_forward + _inputs(training)) + mask


def _inputs(training: Training) -> float:
    """Inputs that the linear layers of a block keep, a token: shared where no cast makes each its own copy."""
    shape, adapter = training.shape, training.adapter
    h, q, f = shape.hidden_size, shape.query, shape.intermediate_size
    a = 2 if training.half else 4
    if adapter is None:
        if _residual(training) == a:
            return a * (2 * h + f)  # one copy for q, k, v; one for gate and up; attention's output is kept by itself
        return a * (5 * h + f)
    fed = {name: shape.linear[name][0] for name in adapter.targets}
    low = a * adapter.rank * len(fed)
    each = training.half and _adapter_width(training) == 4  # peft casts to float32, autocast casts back: one each
    if each:
        kept = sum(fed.values())
    else:
        first, second = LINEAR[:3], LINEAR[4:6]
        kept = (h if set(first) & set(fed) else 0) + (h if set(second) & set(fed) else 0)
        kept += f if "down_proj" in fed else 0
    if adapter.dropout:
        dropped = sum(fed.values())
        kept = max(kept, dropped) + (q if "o_proj" in fed and not each else 0)
        low += dropped  # a mask of one byte each, as CUDA's dropout keeps it
    outputs = sum(shape.linear[name][1] for name in fed) if adapter.dora else 0
    return a * (kept + 2 * outputs) + low


def copies(training: Training) -> float:
    """16-bit copies of float32 weights that autocast keeps until the forward pass ends."""
    if not training.half or training.sharded:
        return 0
    if training.adapter is None:
        return 2 * training.shape.linear_weights
    return 2 * training.trained if _adapter_width(training) == 4 else 0


def head_loss(training: Training) -> float:
    """What the chunked head and loss of students/head_loss.py allocate, for T trained tokens at most."""
    shape, t = training.shape, training.tokens
    a, r = 2 if training.half else 4, _residual(training)
    rows = t * shape.hidden_size * (r + a + (a if r != a else 0))  # the trained rows, their gradient, and a cast
    teacher = t * (training.top_k * 12 + 8) if training.top_k else 0
    if training.live_teacher is not None:
        teacher += t * training.live_teacher.hidden_size * a
    if training.adapter is not None and training.live_teacher is None and training.loss_temperature == 1.0:
        tile = min(SWEEP_ROWS, t)
        width = 4 + (a if training.half else 0)  # of a logit: exact, and as the product makes it
        return rows + teacher + tile * (min(SWEEP_ENTRIES, shape.vocab_size) * width + 3 * 4 * shape.hidden_size)
    logits, exact = min(TILE_BYTES, t * shape.vocab_size * a), 0
    if training.half:
        exact = min(PART_BYTES if training.cpu else TILE_BYTES, t * shape.vocab_size * 4)
    weight = 0
    if training.adapter is None:
        kept = training.half and t <= 2 * shape.hidden_size  # then all rows stay, and the gradient is one product
        logits = t * shape.vocab_size * a if kept else logits
        weight = a if kept else 4 + (a if training.half else 0)
        weight += a if r != a else 0  # the weight's own cast
    return rows + teacher + logits + exact + weight * shape.embedding


def _head_gradient(training: Training) -> float:
    """The trained head's gradient on its way from the forward pass, where it is made, to its place."""
    if training.adapter is not None:
        return 0
    return (6 if training.half else 4) * training.shape.embedding


def _waiting(training: Training) -> float:
    """A trained head's gradient that waits for that of the embeddings, where the two are one."""
    waits = training.adapter is None and training.shape.tie_word_embeddings
    return 4 * training.shape.embedding if waits else 0


def _layer_gradients(training: Training) -> float:
    """Gradients on their way through the feed-forward, less what it has freed by then."""
    h, f = training.shape.hidden_size, training.shape.intermediate_size
    if training.adapter is None:
        each = 2 * f - 2 * h if training.half else 8 * f - 12 * h
    elif not training.half:
        each = 8 * f - 8 * h
    elif _adapter_width(training) == 4:
        # peft feeds an adapter float32, so its input's gradient comes back in it
        each = (6 if set(LINEAR[4:]) & set(training.adapter.targets) else 4) * f + 4 * h
    else:
        each = 2 * f + 2 * h
    whole = 0  # bytes an entry of a layer's largest matrix that is made for a while
    if training.adapter is not None:
        # DoRA takes the length of the whole sum of base and adapter, in float32 and in six steps.
        whole = (2 if training.adapter.nf4 else 0) + (24 if training.adapter.dora else 0)
    return training.tokens * max(each, 0) + whole * h * f


def _embedding_gradients(training: Training) -> float:
    """The embeddings' gradient as it is made, beside its place; where they are the head, with that and their sum."""
    if training.adapter is not None:
        return 0
    parts = (2 if training.shape.tie_word_embeddings else 0) + (1 if training.accumulates else 0)
    return parts * 4 * training.shape.embedding
