"""Few samples of each class, from files in the form of Kuzushiji-MNIST."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from ni_framework.errors import RunError
from tests.standard.test_image_datasets import data_of, idx_bytes


def write_kuzushiji(folder: Path) -> None:
    """As Kuzushiji-MNIST comes, with fewer images: of each class c 5 + c to train, all pixels of one grey each."""
    for prefix, labels in (("train", np.repeat(np.arange(10), np.arange(5, 15))), ("t10k", np.arange(10))):
        images = np.tile((2 * np.arange(len(labels), dtype=np.uint8))[:, None, None], (1, 28, 28))
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels.astype(np.uint8))))


def few_of(folder: Path, options: str) -> tuple[list[int], list[int]]:
    """Which training images are there, by their grey, and their labels."""
    split = data_of(f"{{use: idx, root: {folder}, image: [1, 8, 8], {options}}}").open()["train"]
    batch = split.batch(torch.arange(len(split)), None)
    assert batch.inputs.shape == (len(split), 1, 8, 8)
    return batch.inputs.mean(dim=(1, 2, 3)).add(1).mul(255 / 4).round().int().tolist(), batch.targets["class"].tolist()


def test_kuzushiji_is_read_as_small_as_digits(tmp_path: Path) -> None:
    write_kuzushiji(tmp_path)
    numbers, labels = few_of(tmp_path, "samples: null")
    assert numbers == list(range(95))
    assert labels == np.repeat(np.arange(10), np.arange(5, 15)).tolist()


def test_few_samples_of_each_class(tmp_path: Path) -> None:
    """As many of each, with their own labels; always the same of one draw, others of another, and the test part is whole."""
    write_kuzushiji(tmp_path)
    all_labels = np.repeat(np.arange(10), np.arange(5, 15))
    numbers, labels = few_of(tmp_path, "samples: 3")
    assert labels == np.repeat(np.arange(10), 3).tolist() == all_labels[numbers].tolist()
    assert len(set(numbers)) == 30
    assert numbers == few_of(tmp_path, "samples: 3, draw: 0")[0]
    assert set(numbers) < set(few_of(tmp_path, "samples: 4")[0])
    assert len(set(numbers) ^ set(few_of(tmp_path, "samples: 3, draw: 1")[0])) > 10
    assert len(data_of(f"{{use: idx, root: {tmp_path}, samples: 3}}").open()["test"]) == 10
    with pytest.raises(RunError, match=r"ubyte\.gz: holds 5 images of class 0, but `samples` asks for 6"):
        few_of(tmp_path, "samples: 6")
