"""Exports of functions and of differences between models: single safetensors files whose metadata describes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, field, frozen, validators
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ni_framework.checkpoint.loaded_checkpoint import LoadedCheckpoint
from ni_framework.errors import CheckpointError, UsageError
from ni_framework.growth.transplant import FunctionRef, infer_function_rows
from ni_framework.recipe import dump, to_plain_values
from ni_framework.utils.atomic_files import atomic_write, check_absent, open_regular_file

_METADATA_KEY = "ni_framework"
_MAX_METADATA_BYTES = 2**20
_EXPORT_FORMAT = 1


def _require_mapping(_: object, __: object, value: object) -> None:
    if not isinstance(value, dict):
        raise ValueError("an entry of its metadata is not a mapping")


@frozen(kw_only=True)
class FunctionBundle:
    """Trained functions of one body: signatures [F, T] and codes [F, C] as their model computes them, and the body's weights."""

    names: list[str] = field(validator=validators.deep_iterable(validators.instance_of(str)))
    # Of width, code and type.
    sizes: dict[str, int] = field(validator=_require_mapping)
    # The body's component in the recipe.
    body: dict[str, Any] = field(validator=_require_mapping)
    lock: dict[str, Any] = field(validator=_require_mapping)
    # "signature", "code", and "body/<name>" for each weight of the body.
    tensors: Mapping[str, Tensor] = field(factory=dict)


@frozen(kw_only=True)
class WeightDelta:
    """The difference between a model and another, its base: tensors of which only the rows that differ are stored."""

    # `weights_fingerprint` of the base's weights.
    base: str = field(validator=validators.instance_of(str))
    recipe: str = field(validator=validators.instance_of(str))
    name: str = field(validator=validators.instance_of(str))
    step: int = field(validator=validators.instance_of(int))
    lock: dict[str, Any] = field(validator=_require_mapping)
    # Of all tensors of the model.
    shapes: dict[str, list[int]] = field(validator=_require_mapping)
    # The stored rows of each tensor that is stored in part.
    rows: dict[str, list[int]] = field(validator=_require_mapping)
    tensors: Mapping[str, Tensor] = field(factory=dict)


_EXPORT_KINDS = {"functions": FunctionBundle, "delta": WeightDelta}


def weights_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of the weights, independent of how the checkpoint was sharded."""
    total = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def bundle_functions(checkpoint: LoadedCheckpoint, functions: Sequence[FunctionRef]) -> FunctionBundle:
    """Returns functions of a checkpoint for an export. Raises `UsageError` if they have different bodies."""
    outline = infer_function_rows(checkpoint.recipe)
    script = functions[0].script
    bodies = {outline.own_body_paths.get(function, f"scripts.{script}.body") for function in functions}
    if len(bodies) > 1:
        names = ", ".join(f"f{function.number}" for function in functions)
        raise UsageError(f"{names}: have different bodies; export those of one body at a time")
    (body_path,) = bodies
    numbers = [function.number for function in functions]
    signature_UT, code_UC = (
        vectors.detach() for vectors in list(checkpoint.build_inference_model().scripts)[script].embedding()
    )
    tensors = {"signature": signature_UT[numbers], "code": code_UC[numbers]}
    for name, value in checkpoint.inference_weights.items():
        if name.startswith(f"{body_path}."):
            rows = outline.rows.get(name)
            rows_of_functions = value if rows is None else value[[rows.index(function) for function in functions]]
            tensors[f"body/{name.removeprefix(f'{body_path}.')}"] = rows_of_functions
    recipe = checkpoint.recipe.model.program[script]
    grown = next(generation for generation, members in recipe.generation_ranges if functions[0].number in members)
    spec = recipe.body if grown is None or grown.body is None else grown.body
    recorded_components: Mapping[str, Any] = checkpoint.lockfile.get("components", {})
    components = {
        path: component
        for path, component in recorded_components.items()
        if path == spec.path or path.startswith(f"{spec.path}.")
    }
    return FunctionBundle(
        names=[f"f{number}" for number in numbers],
        sizes={"width": checkpoint.recipe.model.width, "code": recipe.code, "type": recipe.type},
        body=to_plain_values(spec),
        lock={**checkpoint.lockfile, "components": components},
        tensors=tensors,
    )


def compute_delta(checkpoint: LoadedCheckpoint, base: LoadedCheckpoint) -> WeightDelta:
    """Returns the difference of a checkpoint's model from that of another checkpoint."""
    now, before = checkpoint.inference_weights, base.inference_weights
    tensors, rows = {}, {}
    for name, value in now.items():
        old = before.get(name)
        if old is None or old.shape[1:] != value.shape[1:] or not value.ndim:
            if old is None or not old.equal(value):
                tensors[name] = value
            continue
        common = min(len(old), len(value))
        same = (old[:common] == value[:common]).view(common, value[:1].numel())
        differs = [*(~same.all(dim=1)).nonzero().view(-1).tolist(), *range(common, len(value))]
        if differs or len(old) > len(value):
            tensors[name], rows[name] = value[differs], differs
    return WeightDelta(
        base=weights_fingerprint(before),
        recipe=dump(checkpoint.recipe),
        name=checkpoint.recipe.name,
        step=checkpoint.manifest.step,
        lock=dict(checkpoint.lockfile),
        shapes={name: list(value.shape) for name, value in now.items()},
        rows=rows,
        tensors=tensors,
    )


def apply_delta(delta: WeightDelta, base: LoadedCheckpoint, source: object) -> dict[str, Tensor]:
    """Returns the weights that a delta makes of its base's.

    Args:
        delta: the difference.
        base: the checkpoint that it applies to.
        source: the file of the delta, for error messages.

    Raises:
        CheckpointError: the delta belongs to another base, or lacks a tensor.
    """
    before = base.inference_weights
    if weights_fingerprint(before) != delta.base:
        raise CheckpointError(
            f"{source}: is a delta of another checkpoint, whose weights have the checksum {delta.base[:12]}..., "
            f"not of {base.folder}; name that one"
        )
    weights = {}
    for name, shape in delta.shapes.items():
        stored, rows = delta.tensors.get(name), delta.rows.get(name)
        if stored is None and rows is not None:
            raise CheckpointError(f"{source}: lacks {name}; get the file again")
        if stored is None or rows is not None:
            if name not in before:
                raise CheckpointError(f"{source}: lacks {name}, and so does its base; get the file again")
            value = before[name]
            if stored is not None and rows is not None:
                try:
                    value = _resize_rows(value, shape)
                    value[rows] = stored
                except (IndexError, RuntimeError, TypeError, ValueError) as error:
                    raise CheckpointError(f"{source}: the rows of {name} do not fit it; get the file again") from error
        else:
            value = stored
        if list(value.shape) != shape:
            raise CheckpointError(f"{source}: {name} is of shape {list(value.shape)}, not {shape}; get the file again")
        weights[name] = value
    return weights


def _resize_rows(value: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns a copy with zero rows appended, or with rows removed at its end."""
    resized = value.new_zeros(*shape)
    resized[: len(value)] = value[: len(resized)]
    return resized


def save_export(path: Path, content: FunctionBundle | WeightDelta) -> None:
    """Writes a file atomically. Raises `UsageError` if it exists already."""
    check_absent(path, "file")
    kind = next(kind for kind, cls in _EXPORT_KINDS.items() if isinstance(content, cls))
    metadata = {name: value for name, value in _export_fields(content).items() if name != "tensors"}
    metadata_json = json.dumps({"format": _EXPORT_FORMAT, "kind": kind, **metadata})
    tensors = {name: value.detach().contiguous() for name, value in content.tensors.items()}
    atomic_write(path, save(tensors, {_METADATA_KEY: metadata_json}))


def load_export(path: Path) -> FunctionBundle | WeightDelta:
    """Reads a file that `save_export` wrote. Raises `CheckpointError` if it is absent or not such a file."""
    try:
        with open_regular_file(path, 2**63):
            pass
        with safe_open(str(path), framework="pt") as file:
            metadata_json = (file.metadata() or {}).get(_METADATA_KEY, "")
            if len(metadata_json) > _MAX_METADATA_BYTES:
                raise ValueError("its metadata is too long")
            metadata = json.loads(metadata_json)
            if metadata.pop("format") != _EXPORT_FORMAT:
                raise ValueError("it was written by another version of ni_framework")
            content = _EXPORT_KINDS[metadata.pop("kind")](**metadata)
            # The file has `keys`, but is not a mapping.
            return evolve(content, tensors={name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}; name another file") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is not a file of `ni export` ({str(error)[:100]}); name one that it wrote"
        ) from error


def _export_fields(content: FunctionBundle | WeightDelta) -> dict[str, Any]:
    return {name: getattr(content, name) for name in type(content).__annotations__}
