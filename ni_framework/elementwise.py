"""A body from a plain function of one element.

    from ni_framework.elementwise import elementwise

    @elementwise
    def film(x: Tensor, mean: Tensor, scale: Tensor, *, strength: Annotated[float, "size of the step"] = 1.0) -> Tensor:
        '''Moves each element by the mean of its function's elements, scaled: [..., D] -> [..., D].'''
        return x + strength * scale * mean

`x` is an element. `mean`, if it is an argument, is the mean of the elements that the function takes, weighted by their
compatibilities; it is the only way in which elements influence each other here. Every other argument before the `*` is a vector
that a learned linear map makes of the function's code. Arguments after the `*` are options, with their types and defaults.
All tensors are [..., D] and broadcast.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ni_framework.contracts import Body, ComponentFactory, Pairs, Sizes
from ni_framework.options import config, option


def elementwise(function: Callable[..., Tensor]) -> type[Body]:
    """Makes a body from a function of one element; the function itself is available as `body.function`.

    Raises `TypeError` for a function without an element or without a vector that depends on the code, and for an option
    without a type or a default.
    """
    vectors, options = _parse_signature(function)

    class Elementwise(_Elementwise):
        Config = options

    Elementwise.function, Elementwise.vectors = staticmethod(function), vectors
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Elementwise, name, getattr(function, name))
    return Elementwise


class _Elementwise(Body):
    """y_i = f(x_i, vectors made of the code, options): [B, V, D] -> [R, D]."""

    api = 2
    function: Callable[..., Tensor]
    # The names of the function's arguments after the element.
    vectors: tuple[str, ...]

    def __init__(self, config: Any, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.options = {name: getattr(config, name) for name in config.__annotations__}
        self.code_vectors = [name for name in self.vectors if name != "mean"]
        self.say = nn.Linear(sizes.code, len(self.code_vectors) * sizes.width)

    def prepare(self, code_UC: Tensor, num_elements: int) -> dict[str, Tensor]:
        vector_UXD = self.say(code_UC).unflatten(-1, (len(self.code_vectors), -1))
        return dict(zip(self.code_vectors, vector_UXD.unbind(1), strict=True))  # [U, D] each

    def forward(self, x_BVD: Tensor, prepared: dict[str, Tensor], pairs: Pairs) -> Tensor:
        x_RD = pairs.dispatch(x_BVD)
        arguments = {name: pairs.expand(vector_UD) for name, vector_UD in prepared.items()}
        if "mean" in self.vectors:
            # One row for each pair, also where all functions read the same rows.
            rows_RD = x_RD + 0 * pairs.compatibility
            # Attention with equal keys is the mean.
            equal_R11 = torch.zeros_like(rows_RD[..., None, :1])
            arguments["mean"] = pairs.attention(equal_R11, equal_R11, rows_RD.unsqueeze(-2), None).squeeze(-2)
        return self.function(x_RD, *(arguments[name] for name in self.vectors), **self.options)


def _parse_signature(function: Callable[..., Tensor]) -> tuple[tuple[str, ...], type]:
    """Returns the names of a function's arguments after the element, and its options as a config class."""
    name = getattr(function, "__name__", str(function))
    hints = get_type_hints(function, include_extras=True)
    vectors: list[str] = []
    fields: dict[str, Any] = {"__annotations__": {}}
    for argument in inspect.signature(function).parameters.values():
        if argument.kind is argument.POSITIONAL_OR_KEYWORD:
            vectors.append(argument.name)
        elif argument.kind is not argument.KEYWORD_ONLY:
            raise TypeError(f"{name}: name every argument, without `*{argument.name}` and without `/`")
        elif argument.default is argument.empty or argument.name not in hints:
            raise TypeError(
                f"{name}: the option `{argument.name}` needs a type and a default, as in `strength: float = 1.0`"
            )
        else:
            hint, help_text = _split_annotation(hints[argument.name], argument.name)
            fields["__annotations__"][argument.name] = hint
            fields[argument.name] = option(default=argument.default, help=help_text)
    if not vectors or not set(vectors[1:]) - {"mean"}:
        raise TypeError(
            f"{name}: needs an element and at least one vector that is made of the code, as in `def {name}(x, shift)`"
        )
    return tuple(vectors[1:]), config(type("Config", (), fields))


def _split_annotation(hint: Any, name: str) -> tuple[Any, str]:
    """Returns the type of an option and its help: the text in `Annotated[float, "the text"]`, or its name."""
    if get_origin(hint) is Annotated:
        plain, *notes = get_args(hint)
        return plain, next((note for note in notes if isinstance(note, str)), name.replace("_", " "))
    return hint, name.replace("_", " ")
