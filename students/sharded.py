"""Students whose weights are spread over processes: FSDP2, and DeepSpeed's ZeRO-3 (unverified).

accelerate's FSDP2 makes groups of what is gathered together: each layer, the embeddings, and the last norm with the
head. A group's weights are whole while one of its modules is called, and parts (DTensors) at any other time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distill.core.errors import DistillError

KINDS = ("FSDP", "DEEPSPEED")
"""accelerate's `distributed_type` of sharded models."""


def is_sharded(accelerator: Any) -> bool:
    """Whether a process has but a part of the weights."""
    return accelerator.distributed_type.value in KINDS


def prepare(accelerator: Any, head: nn.Module) -> None:
    """Make accelerate's settings fit the loss, before it wraps the model.

    Gradients are summed over processes in float32, and the loss is not cast to half precision on its way out of the
    model. Raises DistillError for a head that cannot be taken apart.
    """
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        raise DistillError(
            f"the student's output head is a {type(head).__name__}, which cannot be spread over processes; train with "
            "DDP (`--launch N`), or on one process"
        )
    if accelerator.distributed_type.value == "DEEPSPEED" and head.weight.requires_grad:
        raise DistillError(
            "under DeepSpeed's ZeRO-3 the gradient of a trained output head does not pass through the loss; train an "
            "adapter (`student.adapter: lora`), or use FSDP2 (configs/accelerate/fsdp2.yaml)"
        )
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and accelerator.mixed_precision != "no":
        from torch.distributed.fsdp import MixedPrecisionPolicy

        half = {"bf16": torch.bfloat16, "fp16": torch.float16}[accelerator.mixed_precision]
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)


def plain_head(head: nn.Module) -> nn.Module:
    """A sharded head, inside its own call, as the plain `nn.Linear` of the same tensors that it stands for.

    FSDP2 gives the head another class, which the loss would take for a module it does not know, and calling it again
    would gather its weights again.
    """
    plain = nn.Linear(1, 1, bias=head.bias is not None, device="meta")
    plain.weight, plain.bias = head.weight, head.bias  # type: ignore[assignment]  # Parameters while it is called
    return plain


def whole(accelerator: Any, wrapped: Any, core: Any) -> tuple[Any, dict[str, torch.Tensor] | None] | None:
    """The model with all its weights on the CPU, in process 0; None in the others. All have to call this.

    `wrapped` is what accelerate made of the model, `core` the transformers model in it. Of a model with an adapter it
    is the model and, apart from it, the gathered weights.
    """
    weights = accelerator.get_state_dict(wrapped)
    if not accelerator.is_main_process:
        return None
    model = accelerator.unwrap_model(wrapped)
    if model is not core:
        return model, weights
    with torch.device("meta"):
        shell = type(core)(core.config)
    shell.load_state_dict(weights, assign=True)
    shell.tie_weights()
    return shell, None
