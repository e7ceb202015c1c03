"""Training tests compare bits, and the models are tiny: one thread is both exact and fastest."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
