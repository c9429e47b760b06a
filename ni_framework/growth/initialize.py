"""Initial values of added functions: random, near existing functions, or taken from an export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Literal, NamedTuple

from torch import Tensor, tensor

from ni_framework.errors import CheckpointError, UsageError
from ni_framework.growth.export import FunctionBundle
from ni_framework.growth.plan import GrowthPlan
from ni_framework.growth.transplant import FunctionRef, FunctionRows
from ni_framework.model.compose import build_meta_model
from ni_framework.nn.init import derive_seed
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.recipe import Recipe
from ni_framework.utils.prefixes import strip_prefix

# The distance of a function that begins near another from that function, as a fraction of the root mean square of what each
# tensor holds for the other.
NEAR_PERTURBATION = 0.1

WeightInitializer = Callable[[dict[str, Tensor], FunctionRows], object]
"""Sets the values of added functions in the weights of the grown model, in place."""


class FunctionInit(NamedTuple):
    """How added functions begin.

    "random" keeps their random initial values. "near" begins close to the reference functions, which are taken in turn.
    "mirror" does the same, but with the opposite codes.
    """

    method: Literal["random", "near", "mirror"] = "random"
    # Functions of one script.
    references: tuple[FunctionRef, ...] = ()


class FunctionImport(NamedTuple):
    """Functions that growth adds with the values of an export."""

    # The added functions, in the order of the bundle.
    functions: list[FunctionRef]
    bundle: FunctionBundle
    # The file or checkpoint, for error messages.
    source: object


def init_near(weights: dict[str, Tensor], rows: FunctionRows, plan: GrowthPlan, init: FunctionInit) -> None:
    """Sets added functions to values near their references, in place.

    A body of their own, if it is of the same kind as the first reference's body, begins with the weights of that body.

    Args:
        weights: the weights of the grown model.
        rows: the rows of its functions.
        plan: the growth.
        init: the method and the references, numbered as in the grown model.

    Raises:
        UsageError: the method is "mirror", and codes are computed from other parameters.
    """
    if not init.references:
        return
    script = init.references[0].script
    codes_name = _direct_parameters(plan.recipe, script)[1]
    if init.method == "mirror" and codes_name is None:
        raise UsageError("--init mirror: codes are no parameters of their own here; use near")
    added = sorted(function for function in plan.new_functions if function.script == script)
    reference_of = dict(zip(added, cycle(init.references), strict=False))
    for name, functions in rows.rows.items():
        row_of = {function: row for row, function in enumerate(functions)}
        if name.endswith(".gates"):
            _open_task_gates(weights[name], row_of, plan.recipe, script, added)
        elif weights[name].is_floating_point():
            sign = -1 if init.method == "mirror" and name == codes_name else 1
            _perturb_rows(weights[name], name, row_of, reference_of, sign)
    source = rows.own_body_paths.get(init.references[0], f"scripts.{script}.body")
    for body in {rows.own_body_paths.get(function, source) for function in added} - {source}:
        _copy_body(weights, source, body, rows)


def init_from_export(
    weights: dict[str, Tensor], rows: FunctionRows, plan: GrowthPlan, function_import: FunctionImport
) -> None:
    """Sets added functions to the values of an export, and their body to its weights, in place.

    Args:
        weights: the weights of the grown model.
        rows: the rows of its functions.
        plan: the growth.
        function_import: the added functions and their values.

    Raises:
        UsageError: signatures or codes are computed from other parameters.
        CheckpointError: the functions do not fit the model.
    """
    functions, bundle, source = function_import
    for name, part in zip(_direct_parameters(plan.recipe, functions[0].script), ("signature", "code"), strict=True):
        if name is None:
            message = "signatures and codes are made from other parameters here, so functions cannot be imported"
            raise UsageError(f"{message}; use a model with `embedding: separate`")
        if part not in bundle.tensors:
            raise CheckpointError(f"{source}: lacks its functions' {part}; get the file again")
        _assign_rows(weights, name, rows, bundle.tensors[part], function_import)
    if (body := rows.own_body_paths.get(functions[0])) is None:
        return
    model_names = {name for name in weights if name.startswith(f"{body}.")}
    imported = {f"{body}.{name}": value for name, value in strip_prefix("body/", bundle.tensors).items()}
    if model_names != imported.keys():
        difference = sorted(model_names ^ imported.keys())[0]
        raise CheckpointError(f"{source}: its body does not fit: {difference} is on one side only")
    for name, value in imported.items():
        _assign_rows(weights, name, rows, value, function_import)


def _assign_rows(
    weights: dict[str, Tensor], name: str, rows: FunctionRows, value: Tensor, function_import: FunctionImport
) -> None:
    """Sets the rows of the imported functions, or the full tensor if it has no rows for functions."""
    functions = rows.rows.get(name)
    indices = None if functions is None else [functions.index(function) for function in function_import.functions]
    current = weights[name] if indices is None else weights[name][indices]
    if current.shape != value.shape:
        raise CheckpointError(
            f"{function_import.source}: its functions do not fit: {name} is of shape {list(current.shape)} here, "
            f"there {list(value.shape)}"
        )
    if indices is None:
        weights[name] = value
    else:
        weights[name][indices] = value


def _perturb_rows(
    value: Tensor,
    name: str,
    row_of: Mapping[FunctionRef, int],
    reference_of: Mapping[FunctionRef, FunctionRef],
    sign: int,
) -> None:
    """Sets the rows of new functions to those of their references times `sign`, plus noise."""
    for new, reference in reference_of.items():
        if {new, reference} <= row_of.keys():
            original = value[row_of[reference]]
            scale = NEAR_PERTURBATION * original.square().mean().sqrt()
            value[row_of[new]] = sign * original + scale * _noise(name, new, original)


def _open_task_gates(
    gates_G: Tensor, row_of: Mapping[FunctionRef, int], recipe: Recipe, script: int, added: Sequence[FunctionRef]
) -> None:
    """Sets the gates of added functions for new tasks to 1: the outputs of old tasks do not depend on them."""
    for grown, numbers in recipe.model.program[script].generation_ranges:
        if grown is not None and grown.tasks is not None:
            for function in set(added) & row_of.keys() & {FunctionRef(script, number) for number in numbers}:
                gates_G[row_of[function]] = 1


def _copy_body(weights: dict[str, Tensor], source: str, target: str, rows: FunctionRows) -> None:
    """Copies the weights of a body, except rows of functions, to another body that has the same names and shapes."""
    source_names, target_names = (
        {name.removeprefix(path): name for name in weights if name.startswith(f"{path}.") and name not in rows.rows}
        for path in (source, target)
    )
    source_shapes, target_shapes = (
        {key: weights[name].shape for key, name in names.items()} for names in (source_names, target_names)
    )
    if source_shapes == target_shapes:
        for key, name in target_names.items():
            weights[name] = weights[source_names[key]].clone()


def _noise(name: str, function: FunctionRef, like: Tensor) -> Tensor:
    """Returns numbers of mean 0 and variance 1 that depend on the tensor's name and the function."""
    uniform_values = uniform(rng_keys(derive_seed("growth", name), tensor([function.number])), max(like.numel(), 1))
    return ((2 * uniform_values - 1) * 3**0.5).to(like.dtype).view(like.shape)


def _direct_parameters(recipe: Recipe, script: int) -> tuple[str | None, str | None]:
    """Returns the names of the parameters that are a script's signatures and codes; None if they are computed from others."""
    model = build_meta_model(recipe)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    signature_UT, code_UC = list(model.scripts)[script].embedding()
    return names.get(id(signature_UT)), names.get(id(code_UC))
