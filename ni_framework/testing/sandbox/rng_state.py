"""The global generators of random numbers, which no component may move."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def generators() -> dict[str, Any]:
    """Their states by name, in a form that can be compared."""
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's global generator": str(np.random.get_state()),
        "python's global generator": random.getstate(),
    }
