"""Functions, and differences between models, as single files that travel: safetensors with what they need to be understood."""

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

from ni_framework.checkpoint.loaded_checkpoint import Whole
from ni_framework.errors import CheckpointError, UsageError
from ni_framework.growth.transplant import Function, outline_of
from ni_framework.recipe import dump, plain_values
from ni_framework.utils.atomic_files import check_absent, open_plain, replace_file

_ABOUT = "ni_framework"  # key of the metadata
_LARGEST = 2**20  # bytes of it
_FORMAT = 1


def _mapping(_: object, __: object, value: object) -> None:
    if not isinstance(value, dict):
        raise ValueError("a part of what it says is no mapping")


@frozen(kw_only=True)
class Functions:
    """Trained functions of one body: signatures [F, T] and codes [F, C] as their model makes them, and that body's weights."""

    names: list[str] = field(validator=validators.deep_iterable(validators.instance_of(str)))
    sizes: dict[str, int] = field(validator=_mapping)  # width, code, type
    body: dict[str, Any] = field(validator=_mapping)  # the choice in a recipe
    lock: dict[str, Any] = field(validator=_mapping)
    tensors: Mapping[str, Tensor] = field(factory=dict)  # signature, code, body/<name>


@frozen(kw_only=True)
class Delta:
    """What a model has that another, its base, has not, or has otherwise: tensors of which only the rows that differ are kept."""

    base: str = field(validator=validators.instance_of(str))  # `fingerprint` of its weights
    recipe: str = field(validator=validators.instance_of(str))
    name: str = field(validator=validators.instance_of(str))
    step: int = field(validator=validators.instance_of(int))
    lock: dict[str, Any] = field(validator=_mapping)
    shapes: dict[str, list[int]] = field(validator=_mapping)  # of all tensors
    rows: dict[str, list[int]] = field(validator=_mapping)  # of those stored in part: which, along the first dimension
    tensors: Mapping[str, Tensor] = field(factory=dict)


_KINDS = {"functions": Functions, "delta": Delta}


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A checksum of weights that does not hang on how many processes wrote them."""
    total = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def functions_of(whole: Whole, functions: Sequence[Function]) -> Functions:
    """Functions of a checkpoint, to travel; raises `UsageError` where they have different bodies."""
    outline = outline_of(whole.recipe)
    script = functions[0].script
    bodies = {outline.own_bodies.get(function, f"scripts.{script}.body") for function in functions}
    if len(bodies) > 1:
        names = ", ".join(f"f{function.number}" for function in functions)
        raise UsageError(f"{names}: have different bodies; take those of one body at a time")
    (place,) = bodies
    numbers = [function.number for function in functions]
    signature_UT, code_UC = (made.detach() for made in list(whole.model().scripts)[script].embedding())
    tensors = {"signature": signature_UT[numbers], "code": code_UC[numbers]}
    for name, value in whole.inferring.items():
        if name.startswith(f"{place}."):
            rows = outline.rows.get(name)
            own = value if rows is None else value[[rows.index(function) for function in functions]]
            tensors[f"body/{name.removeprefix(f'{place}.')}"] = own
    recipe = whole.recipe.model.program[script]
    grown = next(of for of, members in recipe.members if functions[0].number in members)
    choice = recipe.body if grown is None or grown.body is None else grown.body
    told: Mapping[str, Any] = whole.lock.get("components", {})
    components = {p: of for p, of in told.items() if p == choice.path or p.startswith(f"{choice.path}.")}
    return Functions(
        names=[f"f{number}" for number in numbers],
        sizes={"width": whole.recipe.model.width, "code": recipe.code, "type": recipe.type},
        body=plain_values(choice),
        lock={**whole.lock, "components": components},
        tensors=tensors,
    )


def delta_of(whole: Whole, base: Whole) -> Delta:
    """What a checkpoint's model has otherwise than another's."""
    now, before = whole.inferring, base.inferring
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
    return Delta(
        base=fingerprint(before),
        recipe=dump(whole.recipe),
        name=whole.recipe.name,
        step=whole.manifest.step,
        lock=dict(whole.lock),
        shapes={name: list(value.shape) for name, value in now.items()},
        rows=rows,
        tensors=tensors,
    )


def weights_of(delta: Delta, base: Whole, source: object) -> dict[str, Tensor]:
    """The weights that a delta makes of its base's; raises `CheckpointError` for another base, or where something is missing."""
    before = base.inferring
    if fingerprint(before) != delta.base:
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
                raise CheckpointError(f"{source}: lacks {name}, which its base has not either; get the file again")
            value = before[name]
            if stored is not None and rows is not None:
                try:
                    value = _resized(value, shape)
                    value[rows] = stored
                except (IndexError, RuntimeError, TypeError, ValueError) as error:
                    raise CheckpointError(f"{source}: the rows of {name} do not fit it; get the file again") from error
        else:
            value = stored
        if list(value.shape) != shape:
            raise CheckpointError(f"{source}: {name} is of shape {list(value.shape)}, not {shape}; get the file again")
        weights[name] = value
    return weights


def _resized(value: Tensor, shape: Sequence[int]) -> Tensor:
    """A copy with other rows at its end, or fewer."""
    resized = value.new_zeros(*shape)
    resized[: len(value)] = value[: len(resized)]
    return resized


def write_parcel(path: Path, parcel: Functions | Delta) -> None:
    """Writes a file in one step; raises `UsageError` if it is there already."""
    check_absent(path, "file")
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(parcel, cls))
    told = {name: value for name, value in _fields(parcel).items() if name != "tensors"}
    about = json.dumps({"format": _FORMAT, "kind": kind, **told})
    tensors = {name: value.detach().contiguous() for name, value in parcel.tensors.items()}
    replace_file(path, save(tensors, {_ABOUT: about}))


def read_parcel(path: Path) -> Functions | Delta:
    """What `write_parcel` wrote; raises `CheckpointError` for a file that is absent or something else."""
    try:
        with open_plain(path, 2**63):
            pass
        with safe_open(str(path), framework="pt") as file:
            about = (file.metadata() or {}).get(_ABOUT, "")
            if len(about) > _LARGEST:
                raise ValueError("what it says of itself is too long")
            told = json.loads(about)
            if told.pop("format") != _FORMAT:
                raise ValueError("it was written by another version of ni_framework")
            parcel = _KINDS[told.pop("kind")](**told)
            return evolve(parcel, tensors={name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  it is no mapping
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}; name another file") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is no file of `ni export` ({str(error)[:100]}); name one that it wrote"
        ) from error


def _fields(parcel: Functions | Delta) -> dict[str, Any]:
    return {name: getattr(parcel, name) for name in type(parcel).__annotations__}
