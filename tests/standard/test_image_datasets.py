"""Data sets of image files: reading small files in their formats, and error messages for damaged files."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from ni_framework.contracts import Data
from ni_framework.errors import RecipeError, RunError
from ni_framework.model.compose import build_data
from ni_framework.nn.random import rng_keys
from ni_framework.recipe import loads
from ni_framework.registry.resolve import resolve_config

DATA_RECIPE = """
ni: 1
model: {width: 8, input: {use: patches, image: %s, patch: 1}, iterations: 1, functions: 2, code: 3, type: 3}
data: %s
train: {steps: 1, batch: 2}
"""
SPLIT_SIZES = {"train": 7, "test": 5}
Draw = np.random.Generator


def build_data_from(text: str) -> Data:
    """Builds the data set of a recipe with this `data` key."""
    return build_data(loads(DATA_RECIPE % ("[3, 32, 32]", text), resolve=resolve_config))


def random_images(draw: Draw, count: int, *shape: int) -> np.ndarray:
    return draw.integers(0, 256, (count, *shape), dtype=np.uint8)


def random_labels(draw: Draw, count: int) -> np.ndarray:
    return draw.integers(0, 10, count)


def to_model_range(images: np.ndarray) -> torch.Tensor:
    """Returns bytes [n, Y, X, C] as inputs of a model."""
    return torch.from_numpy(images).movedim(-1, 1).float() / 255 * 2 - 1


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, draw: Draw) -> dict[str, Any]:
    """Writes images of 32 x 32 pixels, which are not resized; images are compressed, and labels have the other file name."""
    written = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = random_images(draw, SPLIT_SIZES[part], 32, 32), random_labels(draw, SPLIT_SIZES[part])
        packed = folder / f"{prefix}-images-idx3-ubyte.gz"
        packed.write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{prefix}-labels.idx1-ubyte").write_bytes(idx_bytes(labels.astype(np.uint8)))
        written[part] = (np.repeat(images[..., None], 3, axis=3), labels)
    return written


def write_svhn(folder: Path, draw: Draw) -> dict[str, Any]:
    written = {}
    for part, count in SPLIT_SIZES.items():
        images, labels = random_images(draw, count, 32, 32, 3), random_labels(draw, count)
        labels[0] = 0
        stored = {"X": np.moveaxis(images, 0, 3), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
        savemat(folder / f"{part}_32x32.mat", stored)
        written[part] = (images, labels)
    return written


def write_cifar10(folder: Path, draw: Draw) -> dict[str, Any]:
    images, labels = random_images(draw, 15, 32, 32, 3), random_labels(draw, 15)
    rows = np.concatenate([labels[:, None].astype(np.uint8), images.transpose(0, 3, 1, 2).reshape(15, -1)], axis=1)
    for number in range(5):
        (folder / f"data_batch_{number + 1}.bin").write_bytes(rows[2 * number : 2 * number + 2].tobytes())
    (folder / "test_batch.bin").write_bytes(rows[10:].tobytes())
    return {"train": (images[:10], labels[:10]), "test": (images[10:], labels[10:])}


def write_mnist_m(folder: Path, draw: Draw) -> dict[str, Any]:
    written = {}
    for part, count in SPLIT_SIZES.items():
        images, labels = random_images(draw, count, 32, 32, 3), random_labels(draw, count)
        (folder / f"mnist_m_{part}").mkdir()
        lines = []
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(folder / f"mnist_m_{part}" / f"{number:08}.png")
            lines.append(f"{number:08}.png {label}\n")
        (folder / f"mnist_m_{part}_labels.txt").write_text("".join(lines))
        written[part] = (images, labels)
    return written


def write_npz(folder: Path, draw: Draw) -> dict[str, Any]:
    written = {part: (random_images(draw, n, 32, 32, 3), random_labels(draw, n)) for part, n in SPLIT_SIZES.items()}
    arrays = {f"{kind}_{part}": array for part, pair in written.items() for kind, array in zip("xy", pair, strict=True)}
    np.savez(folder / "own.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return written


def write_image_folder(folder: Path, draw: Draw) -> dict[str, Any]:
    """Writes ten classes with one image each; a hidden folder and a text file must be ignored."""
    written = {}
    for part, inside in (("train", "train"), ("test", "val")):
        images = random_images(draw, 10, 32, 32, 3)
        for number, image in enumerate(images):
            place = folder / inside / f"class_{number}"
            place.mkdir(parents=True)
            Image.fromarray(image).save(place / "a.PNG")
            (place / "notes.txt").write_text("not an image")
        (folder / inside / ".cache").mkdir()
        written[part] = (images, np.arange(10))
    return written


DATA_FORMATS: dict[str, tuple[Callable[[Path, Draw], dict[str, Any]], str]] = {
    "idx": (write_idx, "{use: idx, root: %s}"),
    "svhn": (write_svhn, "{use: svhn, root: %s}"),
    "cifar10": (write_cifar10, "{use: cifar10, root: %s}"),
    "mnist_m": (write_mnist_m, "{use: mnist_m, root: %s}"),
    "npz": (write_npz, "{use: npz, file: %s/own.npz, classes: 10}"),
    "image_folder": (write_image_folder, "{use: image_folder, root: %s, classes: 10}"),
}


@pytest.mark.parametrize("name", DATA_FORMATS)
def test_images_and_labels_are_read(name: str, tmp_path: Path) -> None:
    """Images are equal to the last bit, and no file is opened before `open`."""
    write, text = DATA_FORMATS[name]
    data = build_data_from(text % tmp_path)
    assert data.shape == (3, 32, 32)
    assert dict(data.tasks) == {"class": 10}
    written = write(tmp_path, np.random.default_rng(0))
    splits = data.open()
    for part, (images, labels) in written.items():
        assert len(splits[part]) == len(images)
        index_B = torch.arange(len(images)).flip(0)
        batch = splits[part].batch(index_B, None)
        torch.testing.assert_close(batch.inputs, to_model_range(images).flip(0), rtol=0, atol=0)
        assert batch.targets["class"].tolist() == labels.tolist()[::-1]


@pytest.mark.parametrize("name", DATA_FORMATS)
def test_error_lists_missing_files(name: str, tmp_path: Path) -> None:
    """It names the expected folder, the files, and the option for another folder."""
    with pytest.raises(RunError) as caught:
        build_data_from(DATA_FORMATS[name][1] % (tmp_path / "nowhere")).open()
    message = str(caught.value)
    assert str(tmp_path / "nowhere") in message
    assert "of the data in the recipe to" in message
    expected = {
        "idx": "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte",
        "svhn": "has no train_32x32.mat, test_32x32.mat; put the files of SVHN, cropped digits there",
        "cifar10": "data_batch_1.bin, data_batch_2.bin",
        "mnist_m": "mnist_m_train, mnist_m_train_labels.txt, mnist_m_test, mnist_m_test_labels.txt",
        "npz": "there is no such file",
        "image_folder": "has no train, test; put the files of your images",
    }
    assert expected[name] in message


BROKEN_DATA_FILES: dict[str, tuple[str, str, bytes | str | None, str]] = {
    "not an idx file": ("idx", "train-labels.idx1-ubyte", b"hello", "is not an IDX file of bytes with 1 dimensions"),
    "idx cut off": (
        "idx",
        "t10k-labels.idx1-ubyte",
        bytes([0, 0, 8, 1, 0, 0, 0, 9, 1]),
        "its header announces [9] bytes, but 1 follow",
    ),
    "idx not compressed": ("idx", "train-images-idx3-ubyte.gz", b"hello", "cannot be read: Not a gzipped file"),
    "idx with too many labels": (
        "idx",
        "t10k-labels.idx1-ubyte",
        idx_bytes(np.zeros(6, np.uint8)),
        "expected a whole number for each of 5 images, not uint8 of shape [6]",
    ),
    "idx with a label too large": (
        "idx",
        "t10k-labels.idx1-ubyte",
        idx_bytes(np.full(5, 10, np.uint8)),
        "has labels from 10 to 10, but 10 classes are numbered from 0 to 9",
    ),
    "not a mat file": ("svhn", "train_32x32.mat", b"x" * 200, "cannot be read as SVHN's arrays X and y"),
    "cifar cut off": (
        "cifar10",
        "data_batch_3.bin",
        b"\0" * 3074,
        "holds 3,074 bytes, not a multiple of 3,073",
    ),
    "cifar empty": ("cifar10", "test_batch.bin", b"", "holds 0 bytes"),
    "list with a path": (
        "mnist_m",
        "mnist_m_test_labels.txt",
        "../a.png 3\n",
        "mnist_m_test_labels.txt:1: expected the name",
    ),
    "list without labels": ("mnist_m", "mnist_m_test_labels.txt", "00000000.png\n", "labels.txt:1: expected the name"),
    "list with a label too long": (
        "mnist_m",
        "mnist_m_test_labels.txt",
        "a.png " + "9" * 5000,
        "labels.txt:1: expected",
    ),
    "list of missing images": (
        "mnist_m",
        "mnist_m_test_labels.txt",
        "a.png 1\nb.png 2\n",
        "lacks a.png and 1 more images",
    ),
    "not an npz file": ("npz", "own.npz", b"PK\3\4nonsense", "cannot be read as a .npz file of numbers"),
    "a class that is only in the test split": ("image_folder", "val/new/a.png", b"", "val/new: is a class that"),
    "a file for a folder": ("image_folder", "test", b"", "test: is not a folder; put the images there"),
    "a class too many": ("image_folder", "train/new/a.png", b"", "contains 11 folders, but the recipe has 10 classes"),
}


@pytest.mark.parametrize("name", BROKEN_DATA_FILES)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    kind, file, content, message = BROKEN_DATA_FILES[name]
    write, text = DATA_FORMATS[kind]
    write(tmp_path, np.random.default_rng(0))
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content or b"")
    with pytest.raises(RunError, match=re.escape(message)):
        build_data_from(text % tmp_path).open()


def test_damaged_image_file(tmp_path: Path) -> None:
    """The error names the file, when a batch needs it."""
    write_image_folder(tmp_path, np.random.default_rng(0))
    path = tmp_path / "train" / "class_3" / "a.PNG"
    path.write_bytes(b"not an image")
    split = build_data_from(DATA_FORMATS["image_folder"][1] % tmp_path).open()["train"]
    with pytest.raises(RunError, match=re.escape(f"{path}: cannot be read as an image")):
        split.batch(torch.tensor([3]), None)


def test_image_with_sixteen_bits(tmp_path: Path) -> None:
    """It is rejected, because conversion to eight bits would lose information silently."""
    write_image_folder(tmp_path, np.random.default_rng(0))
    path = tmp_path / "train" / "class_3" / "a.PNG"
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(path)
    split = build_data_from(DATA_FORMATS["image_folder"][1] % tmp_path).open()["train"]
    with pytest.raises(RunError, match="more than 8 bits per channel"):
        split.batch(torch.tensor([3]), None)


def test_class_without_images(tmp_path: Path) -> None:
    """It is rejected, because it could not be learned."""
    write_image_folder(tmp_path, np.random.default_rng(0))
    (tmp_path / "train" / "class_3" / "a.PNG").unlink()
    with pytest.raises(
        RunError, match=re.escape(f"{tmp_path}/train/class_3: contains no image of its class; image files end in")
    ):
        build_data_from(DATA_FORMATS["image_folder"][1] % tmp_path).open()


def test_home_folder_of_unknown_user() -> None:
    with pytest.raises(
        RunError, match="~nobody-at-all/x: there is no such user; write the path of the folder without ~"
    ):
        build_data_from(DATA_FORMATS["image_folder"][1] % "~nobody-at-all/x").open()


def test_npz_patterns_must_contain_the_split() -> None:
    """Otherwise training and testing would use the same array."""
    with pytest.raises(RecipeError, match=r"data.images: must contain \{part\}, which stands for train or test"):
        build_data_from("{use: npz, file: a.npz, classes: 3, images: x_train}")


def test_invalid_npz_files(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    text = f"{{use: npz, file: {path}, classes: 3}}"
    np.savez(path, train_images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(
        RunError, match=re.escape("has no array x_train, y_train, but train_images; set the names with")
    ):
        build_data_from(text).open()
    np.savez(path, x_train=np.array([{}], dtype=object), y_train=np.zeros(1, int))
    with pytest.raises(RunError, match=r"cannot be read as a \.npz file of numbers"):
        build_data_from(text).open()
    np.savez(path, x_train=np.zeros((2, 4, 4)), y_train=np.zeros(2, int))
    with pytest.raises(RunError, match=re.escape("not float64 of shape [2, 4, 4]")):
        build_data_from(text).open()
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(RunError, match="contains a single array"):
        build_data_from(text).open()


def test_npz_with_other_names(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = {f"{part}_images": random_images(draw, 3, 28, 28) for part in SPLIT_SIZES}
    arrays |= {f"{part}_labels": np.array([[0], [1], [2]], np.uint8) for part in SPLIT_SIZES}
    np.savez(tmp_path / "medical.npz", **arrays)  # pyright: ignore[reportArgumentType]
    names = 'images: "{part}_images", labels: "{part}_labels"'
    split = build_data_from(f"{{use: npz, file: {tmp_path}/medical.npz, classes: 3, {names}}}").open()["test"]
    assert split.batch(torch.arange(3), None).targets["class"].tolist() == [0, 1, 2]


def test_images_are_converted_to_the_shape(tmp_path: Path) -> None:
    """28 x 28 in grey to 3 x 32 x 32, and 32 x 32 in colour to 1 x 16 x 16; the mean grey stays the same."""
    draw = np.random.default_rng(0)
    grey, colour = random_images(draw, 4, 28, 28), random_images(draw, 4, 32, 32, 3)
    for images, shape in ((grey, [3, 32, 32]), (colour, [1, 16, 16])):
        file = tmp_path / f"{len(images.shape)}.npz"
        np.savez(file, x_train=images, y_train=np.arange(4), x_test=images, y_test=np.arange(4))
        text = f"{{use: npz, file: {file}, classes: 4, image: {shape}}}"
        batch = (
            build_data(loads(DATA_RECIPE % (shape, text), resolve=resolve_config))
            .open()["test"]
            .batch(torch.arange(4), None)
        )
        assert list(batch.inputs.shape) == [4, *shape]
        weights = np.array([0.299, 0.587, 0.114]) if images.ndim == 4 else 1
        luma = (images * weights).sum(axis=-1) if images.ndim == 4 else images
        means = torch.from_numpy(luma.reshape(4, -1).mean(axis=1) / 255 * 2 - 1).float()
        torch.testing.assert_close(batch.inputs.mean(dim=(1, 2, 3)), means, atol=0.02, rtol=0)


def test_augmentation_depends_on_the_key_only(tmp_path: Path) -> None:
    """Each image is the original, mirrored or not, shifted by whole pixels and padded with black."""
    written = write_npz(tmp_path, np.random.default_rng(0))
    split = build_data_from(f"{{use: npz, file: {tmp_path}/own.npz, classes: 10, shift: 3, flip: true}}").open()[
        "train"
    ]
    index_B = torch.arange(7)
    key_B = rng_keys(0, index_B)
    augmented, again = split.batch(index_B, key_B).inputs, split.batch(index_B.flip(0), key_B.flip(0)).inputs.flip(0)
    assert torch.equal(augmented, again)
    assert not torch.equal(augmented, split.batch(index_B, rng_keys(1, index_B)).inputs)
    originals, matches = to_model_range(written["train"][0]), set()
    padded = torch.nn.functional.pad(originals, [3] * 4, value=-1)
    for n in range(7):
        for mirrored in (False, True):
            image = padded[n].flip(-1) if mirrored else padded[n]
            for i in range(7):
                for j in range(7):
                    if torch.equal(image[:, i : i + 32, j : j + 32], augmented[n]):
                        matches.add((n, mirrored, i, j))
    assert len(matches) == 7
    assert len({place[1:] for place in matches}) > 3


def test_multitask(tmp_path: Path) -> None:
    """Each sample has the target of its own task, in any order of samples."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = write_svhn(tmp_path / "a", np.random.default_rng(1)), write_npz(tmp_path / "b", np.random.default_rng(2))
    street, own = f"{{use: svhn, root: {tmp_path}/a}}", f"{{use: npz, file: {tmp_path}/b/own.npz, classes: 10}}"
    data = build_data_from(f"{{use: multitask, tasks: {{street: {street}, own: {own}}}}}")
    assert dict(data.tasks) == {"street": 10, "own": 10}
    split = data.open()["train"]
    assert len(split) == 14
    index_B = torch.tensor([9, 0, 13, 6, 7])
    batch = split.batch(index_B, None)
    images = torch.cat([to_model_range(a["train"][0]), to_model_range(b["train"][0])])
    torch.testing.assert_close(batch.inputs, images[index_B], rtol=0, atol=0)
    assert batch.present["street"].tolist() == [False, True, False, True, False]
    assert torch.equal(batch.present["own"], ~batch.present["street"])
    labels = torch.from_numpy(np.concatenate([a["train"][1], b["train"][1]]))[index_B]
    for task in ("street", "own"):
        assert torch.equal(batch.targets[task][batch.present[task]], labels[batch.present[task]])
    assert split.batch(torch.tensor([0, 1]), None).targets.keys() == {"street", "own"}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("{one: digits}", "data.tasks: must name at least two data sets"),
        (
            "{one: digits, two: digits_multitask}",
            "data.tasks.two: has 3 tasks (plain, textured, tinted), but must have one",
        ),
        (
            "{one: digits, two: svhn}",
            "data.tasks.two: has inputs of shape [3, 32, 32], but those of one have [1, 8, 8]",
        ),
        (
            "{one: digits, two: {use: svhn, image: [2, 8, 8]}}",
            "data.tasks.two.image: images have 1 channel (grey) or 3",
        ),
        ("{one: digits, two: dgits}", "data.tasks.two: there is no data `dgits`"),
    ],
)
def test_incompatible_data_sets(tasks: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        build_data_from(f"{{use: multitask, tasks: {tasks}}}")
