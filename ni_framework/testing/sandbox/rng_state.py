"""The global random generators, which components must not use."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def rng_states() -> dict[str, Any]:
    """Returns the states of the global generators by name, as values that can be compared."""
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's global generator": str(np.random.get_state()),
        "python's global generator": random.getstate(),
    }
