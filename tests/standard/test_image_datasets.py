"""Data sets that users have as files: read from small files in their formats, refused in words where they are not."""

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
from ni_framework.nn.random import keys
from ni_framework.recipe import loads
from ni_framework.registry.resolve import config_of

TEXT = """
ni: 1
model: {width: 8, input: {use: patches, image: %s, patch: 1}, iterations: 1, functions: 2, code: 3, type: 3}
data: %s
train: {steps: 1, batch: 2}
"""
COUNT = {"train": 7, "test": 5}
Draw = np.random.Generator


def data_of(text: str) -> Data:
    """The data set of a recipe's `data` key."""
    return build_data(loads(TEXT % ("[3, 32, 32]", text), resolve=config_of))


def images_of(draw: Draw, count: int, *shape: int) -> np.ndarray:
    return draw.integers(0, 256, (count, *shape), dtype=np.uint8)


def labels_of(draw: Draw, count: int) -> np.ndarray:
    return draw.integers(0, 10, count)


def expected(images: np.ndarray) -> torch.Tensor:
    """Bytes [n, Y, X, C] as a model sees them."""
    return torch.from_numpy(images).movedim(-1, 1).float() / 255 * 2 - 1


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, draw: Draw) -> dict[str, Any]:
    """Of 32 x 32 pixels, so that nothing is resized; one file is packed, one has the other spelling."""
    written = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = images_of(draw, COUNT[part], 32, 32), labels_of(draw, COUNT[part])
        packed = folder / f"{prefix}-images-idx3-ubyte.gz"
        packed.write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{prefix}-labels.idx1-ubyte").write_bytes(idx_bytes(labels.astype(np.uint8)))
        written[part] = (np.repeat(images[..., None], 3, axis=3), labels)
    return written


def write_svhn(folder: Path, draw: Draw) -> dict[str, Any]:
    written = {}
    for part, count in COUNT.items():
        images, labels = images_of(draw, count, 32, 32, 3), labels_of(draw, count)
        labels[0] = 0
        stored = {"X": np.moveaxis(images, 0, 3), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
        savemat(folder / f"{part}_32x32.mat", stored)
        written[part] = (images, labels)
    return written


def write_cifar10(folder: Path, draw: Draw) -> dict[str, Any]:
    images, labels = images_of(draw, 15, 32, 32, 3), labels_of(draw, 15)
    rows = np.concatenate([labels[:, None].astype(np.uint8), images.transpose(0, 3, 1, 2).reshape(15, -1)], axis=1)
    for number in range(5):
        (folder / f"data_batch_{number + 1}.bin").write_bytes(rows[2 * number : 2 * number + 2].tobytes())
    (folder / "test_batch.bin").write_bytes(rows[10:].tobytes())
    return {"train": (images[:10], labels[:10]), "test": (images[10:], labels[10:])}


def write_mnist_m(folder: Path, draw: Draw) -> dict[str, Any]:
    written = {}
    for part, count in COUNT.items():
        images, labels = images_of(draw, count, 32, 32, 3), labels_of(draw, count)
        (folder / f"mnist_m_{part}").mkdir()
        lines = []
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(folder / f"mnist_m_{part}" / f"{number:08}.png")
            lines.append(f"{number:08}.png {label}\n")
        (folder / f"mnist_m_{part}_labels.txt").write_text("".join(lines))
        written[part] = (images, labels)
    return written


def write_npz(folder: Path, draw: Draw) -> dict[str, Any]:
    written = {part: (images_of(draw, n, 32, 32, 3), labels_of(draw, n)) for part, n in COUNT.items()}
    arrays = {f"{kind}_{part}": array for part, pair in written.items() for kind, array in zip("xy", pair, strict=True)}
    np.savez(folder / "own.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return written


def write_image_folder(folder: Path, draw: Draw) -> dict[str, Any]:
    """Ten classes, one image each in train; a hidden folder and a text are no images."""
    written = {}
    for part, inside in (("train", "train"), ("test", "val")):
        images = images_of(draw, 10, 32, 32, 3)
        for number, image in enumerate(images):
            place = folder / inside / f"class_{number}"
            place.mkdir(parents=True)
            Image.fromarray(image).save(place / "a.PNG")
            (place / "notes.txt").write_text("no image")
        (folder / inside / ".cache").mkdir()
        written[part] = (images, np.arange(10))
    return written


FORMATS: dict[str, tuple[Callable[[Path, Draw], dict[str, Any]], str]] = {
    "idx": (write_idx, "{use: idx, root: %s}"),
    "svhn": (write_svhn, "{use: svhn, root: %s}"),
    "cifar10": (write_cifar10, "{use: cifar10, root: %s}"),
    "mnist_m": (write_mnist_m, "{use: mnist_m, root: %s}"),
    "npz": (write_npz, "{use: npz, file: %s/own.npz, classes: 10}"),
    "image_folder": (write_image_folder, "{use: image_folder, root: %s, classes: 10}"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_written_is_read(name: str, tmp_path: Path) -> None:
    """Images to the last bit, labels, and nothing opened before `open`."""
    write, text = FORMATS[name]
    data = data_of(text % tmp_path)
    assert data.shape == (3, 32, 32)
    assert dict(data.tasks) == {"class": 10}
    written = write(tmp_path, np.random.default_rng(0))
    splits = data.open()
    for part, (images, labels) in written.items():
        assert len(splits[part]) == len(images)
        index_B = torch.arange(len(images)).flip(0)
        batch = splits[part].batch(index_B, None)
        torch.testing.assert_close(batch.inputs, expected(images).flip(0), rtol=0, atol=0)
        assert batch.targets["class"].tolist() == labels.tolist()[::-1]


@pytest.mark.parametrize("name", FORMATS)
def test_absent_files_are_named(name: str, tmp_path: Path) -> None:
    """Where they are expected, what they are called, and how to say otherwise."""
    with pytest.raises(RunError) as caught:
        data_of(FORMATS[name][1] % (tmp_path / "nowhere")).open()
    said = str(caught.value)
    assert str(tmp_path / "nowhere") in said
    assert "in the recipe name" in said
    wanted = {
        "idx": "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte",
        "svhn": "has no train_32x32.mat, test_32x32.mat; put the files of SVHN, cropped digits there",
        "cifar10": "data_batch_1.bin, data_batch_2.bin",
        "mnist_m": "mnist_m_train, mnist_m_train_labels.txt, mnist_m_test, mnist_m_test_labels.txt",
        "npz": "there is no such file",
        "image_folder": "has no train, test; put the files of your images",
    }
    assert wanted[name] in said


FAULTS: dict[str, tuple[str, str, bytes | str | None, str]] = {
    "idx that is none": ("idx", "train-labels.idx1-ubyte", b"hello", "is no IDX file of bytes with 1 dimensions"),
    "idx cut off": (
        "idx",
        "t10k-labels.idx1-ubyte",
        bytes([0, 0, 8, 1, 0, 0, 0, 9, 1]),
        "says that it holds [9] bytes, but 1",
    ),
    "idx not packed": ("idx", "train-images-idx3-ubyte.gz", b"hello", "cannot be read: Not a gzipped file"),
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
    "mat that is none": ("svhn", "train_32x32.mat", b"x" * 200, "cannot be read as SVHN's arrays X and y"),
    "cifar cut off": (
        "cifar10",
        "data_batch_3.bin",
        b"\0" * 3074,
        "holds 3,074 bytes, which is not a multiple of 3,073",
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
    "list of absent images": ("mnist_m", "mnist_m_test_labels.txt", "a.png 1\nb.png 2\n", "lacks a.png and 1 more"),
    "no npz": ("npz", "own.npz", b"PK\3\4nonsense", "cannot be read as a .npz file of numbers"),
    "a class that training has not": ("image_folder", "val/new/a.png", b"", "val/new: is a class that"),
    "a file for a folder": ("image_folder", "test", b"", "test: is no folder; put the images there"),
    "a class too many": ("image_folder", "train/new/a.png", b"", "holds 11 folders, but the recipe says 10 classes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_files_that_are_wrong(name: str, tmp_path: Path) -> None:
    kind, file, content, said = FAULTS[name]
    write, text = FORMATS[kind]
    write(tmp_path, np.random.default_rng(0))
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content or b"")
    with pytest.raises(RunError, match=re.escape(said)):
        data_of(text % tmp_path).open()


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    """It is named when a batch needs it."""
    write_image_folder(tmp_path, np.random.default_rng(0))
    path = tmp_path / "train" / "class_3" / "a.PNG"
    path.write_bytes(b"no picture")
    split = data_of(FORMATS["image_folder"][1] % tmp_path).open()["train"]
    with pytest.raises(RunError, match=re.escape(f"{path}: cannot be read as an image")):
        split.batch(torch.tensor([3]), None)


def test_a_picture_of_sixteen_bits(tmp_path: Path) -> None:
    """Eight of them would be cut off unseen."""
    write_image_folder(tmp_path, np.random.default_rng(0))
    path = tmp_path / "train" / "class_3" / "a.PNG"
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(path)
    split = data_of(FORMATS["image_folder"][1] % tmp_path).open()["train"]
    with pytest.raises(RunError, match="more than 8 bits a channel"):
        split.batch(torch.tensor([3]), None)


def test_a_class_without_images(tmp_path: Path) -> None:
    """Would never be learned, and nobody would know why."""
    write_image_folder(tmp_path, np.random.default_rng(0))
    (tmp_path / "train" / "class_3" / "a.PNG").unlink()
    with pytest.raises(
        RunError, match=re.escape(f"{tmp_path}/train/class_3: holds no image of its class; known are files")
    ):
        data_of(FORMATS["image_folder"][1] % tmp_path).open()


def test_a_home_of_nobody() -> None:
    """In words."""
    with pytest.raises(RunError, match="~nobody-at-all/x: there is no such user; name the folder without ~"):
        data_of(FORMATS["image_folder"][1] % "~nobody-at-all/x").open()


def test_npz_names_both_parts() -> None:
    """A pattern without a part would train and test on the same array."""
    with pytest.raises(RecipeError, match=r"data.images: must hold \{part\}, which stands for train or test"):
        data_of("{use: npz, file: a.npz, classes: 3, images: x_train}")


def test_npz_says_what_is_there_and_unpickles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    text = f"{{use: npz, file: {path}, classes: 3}}"
    np.savez(path, train_images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(RunError, match=re.escape("has no array x_train, y_train, but train_images; name them with")):
        data_of(text).open()
    np.savez(path, x_train=np.array([{}], dtype=object), y_train=np.zeros(1, int))
    with pytest.raises(RunError, match=r"cannot be read as a \.npz file of numbers"):
        data_of(text).open()
    np.savez(path, x_train=np.zeros((2, 4, 4)), y_train=np.zeros(2, int))
    with pytest.raises(RunError, match=re.escape("not float64 of shape [2, 4, 4]")):
        data_of(text).open()
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(RunError, match="holds one array"):
        data_of(text).open()


def test_npz_of_other_names(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = {f"{part}_images": images_of(draw, 3, 28, 28) for part in COUNT}
    arrays |= {f"{part}_labels": np.array([[0], [1], [2]], np.uint8) for part in COUNT}
    np.savez(tmp_path / "medical.npz", **arrays)  # pyright: ignore[reportArgumentType]
    names = 'images: "{part}_images", labels: "{part}_labels"'
    split = data_of(f"{{use: npz, file: {tmp_path}/medical.npz, classes: 3, {names}}}").open()["test"]
    assert split.batch(torch.arange(3), None).targets["class"].tolist() == [0, 1, 2]


def test_images_are_brought_to_shape(tmp_path: Path) -> None:
    """28 x 28 in grey to 3 x 32 x 32, and 32 x 32 in colour to 1 x 16 x 16: the mean grey stays."""
    draw = np.random.default_rng(0)
    grey, colour = images_of(draw, 4, 28, 28), images_of(draw, 4, 32, 32, 3)
    for images, shape in ((grey, [3, 32, 32]), (colour, [1, 16, 16])):
        file = tmp_path / f"{len(images.shape)}.npz"
        np.savez(file, x_train=images, y_train=np.arange(4), x_test=images, y_test=np.arange(4))
        text = f"{{use: npz, file: {file}, classes: 4, image: {shape}}}"
        found = build_data(loads(TEXT % (shape, text), resolve=config_of)).open()["test"].batch(torch.arange(4), None)
        assert list(found.inputs.shape) == [4, *shape]
        weights = np.array([0.299, 0.587, 0.114]) if images.ndim == 4 else 1
        luma = (images * weights).sum(axis=-1) if images.ndim == 4 else images
        means = torch.from_numpy(luma.reshape(4, -1).mean(axis=1) / 255 * 2 - 1).float()
        torch.testing.assert_close(found.inputs.mean(dim=(1, 2, 3)), means, atol=0.02, rtol=0)


def test_training_images_are_moved_by_their_key_alone(tmp_path: Path) -> None:
    """Each is the original, mirrored or not, shifted by whole pixels; black comes in."""
    written = write_npz(tmp_path, np.random.default_rng(0))
    split = data_of(f"{{use: npz, file: {tmp_path}/own.npz, classes: 10, shift: 3, flip: true}}").open()["train"]
    index_B = torch.arange(7)
    key_B = keys(0, index_B)
    moved, again = split.batch(index_B, key_B).inputs, split.batch(index_B.flip(0), key_B.flip(0)).inputs.flip(0)
    assert torch.equal(moved, again)
    assert not torch.equal(moved, split.batch(index_B, keys(1, index_B)).inputs)
    originals, found = expected(written["train"][0]), set()
    padded = torch.nn.functional.pad(originals, [3] * 4, value=-1)
    for n in range(7):
        for mirrored in (False, True):
            image = padded[n].flip(-1) if mirrored else padded[n]
            for i in range(7):
                for j in range(7):
                    if torch.equal(image[:, i : i + 32, j : j + 32], moved[n]):
                        found.add((n, mirrored, i, j))
    assert len(found) == 7
    assert len({place[1:] for place in found}) > 3


def test_several_data_sets_are_tasks_of_one_model(tmp_path: Path) -> None:
    """Each sample with its own task's answer, whatever the order."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = write_svhn(tmp_path / "a", np.random.default_rng(1)), write_npz(tmp_path / "b", np.random.default_rng(2))
    street, own = f"{{use: svhn, root: {tmp_path}/a}}", f"{{use: npz, file: {tmp_path}/b/own.npz, classes: 10}}"
    data = data_of(f"{{use: multitask, tasks: {{street: {street}, own: {own}}}}}")
    assert dict(data.tasks) == {"street": 10, "own": 10}
    split = data.open()["train"]
    assert len(split) == 14
    index_B = torch.tensor([9, 0, 13, 6, 7])
    batch = split.batch(index_B, None)
    images = torch.cat([expected(a["train"][0]), expected(b["train"][0])])
    torch.testing.assert_close(batch.inputs, images[index_B], rtol=0, atol=0)
    assert batch.present["street"].tolist() == [False, True, False, True, False]
    assert torch.equal(batch.present["own"], ~batch.present["street"])
    labels = torch.from_numpy(np.concatenate([a["train"][1], b["train"][1]]))[index_B]
    for task in ("street", "own"):
        assert torch.equal(batch.targets[task][batch.present[task]], labels[batch.present[task]])
    assert split.batch(torch.tensor([0, 1]), None).targets.keys() == {"street", "own"}


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("{one: digits}", "data.tasks: must name at least two data sets"),
        (
            "{one: digits, two: digits_multitask}",
            "data.tasks.two: has 3 tasks (plain, textured, tinted), but one is needed",
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
def test_data_sets_that_do_not_go_together(tasks: str, said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        data_of(f"{{use: multitask, tasks: {tasks}}}")
