"""The option `samples` of `idx`, with files in the format of Kuzushiji-MNIST."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from ni_framework.errors import RunError
from tests.standard.test_image_datasets import build_data_from, idx_bytes


def write_kuzushiji(folder: Path) -> None:
    """Writes files like those of Kuzushiji-MNIST: 5 + c training images of class c, each image with its own uniform grey."""
    for prefix, labels in (("train", np.repeat(np.arange(10), np.arange(5, 15))), ("t10k", np.arange(10))):
        images = np.tile((2 * np.arange(len(labels), dtype=np.uint8))[:, None, None], (1, 28, 28))
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels.astype(np.uint8))))


def load_subsample(folder: Path, options: str) -> tuple[list[int], list[int]]:
    """Returns the numbers of the training images, computed from their greys, and their labels."""
    split = build_data_from(f"{{use: idx, root: {folder}, image: [1, 8, 8], {options}}}").open()["train"]
    batch = split.batch(torch.arange(len(split)), None)
    assert batch.inputs.shape == (len(split), 1, 8, 8)
    return batch.inputs.mean(dim=(1, 2, 3)).add(1).mul(255 / 4).round().int().tolist(), batch.targets["class"].tolist()


def test_all_samples_are_read(tmp_path: Path) -> None:
    write_kuzushiji(tmp_path)
    numbers, labels = load_subsample(tmp_path, "samples: null")
    assert numbers == list(range(95))
    assert labels == np.repeat(np.arange(10), np.arange(5, 15)).tolist()


def test_few_samples_of_each_class(tmp_path: Path) -> None:
    """Each class has the same number; samples depend on the draw only, and the test split is complete."""
    write_kuzushiji(tmp_path)
    all_labels = np.repeat(np.arange(10), np.arange(5, 15))
    numbers, labels = load_subsample(tmp_path, "samples: 3")
    assert labels == np.repeat(np.arange(10), 3).tolist() == all_labels[numbers].tolist()
    assert len(set(numbers)) == 30
    assert numbers == load_subsample(tmp_path, "samples: 3, draw: 0")[0]
    assert set(numbers) < set(load_subsample(tmp_path, "samples: 4")[0])
    assert len(set(numbers) ^ set(load_subsample(tmp_path, "samples: 3, draw: 1")[0])) > 10
    assert len(build_data_from(f"{{use: idx, root: {tmp_path}, samples: 3}}").open()["test"]) == 10
    with pytest.raises(RunError, match=r"ubyte\.gz: contains 5 images of class 0, but `samples` is 6"):
        load_subsample(tmp_path, "samples: 6")
