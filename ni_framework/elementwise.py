"""A body from a plain function of one element.

    from ni_framework.elementwise import elementwise

    @elementwise
    def film(x: Tensor, mean: Tensor, scale: Tensor, *, strength: Annotated[float, "size of the step"] = 1.0) -> Tensor:
        '''Moves each element by what its function's elements are on average, scaled: [..., D] -> [..., D].'''
        return x + strength * scale * mean

`x` is an element. `mean`, if the function asks for it, is the mean of the elements that its function takes, weighted by their
compatibilities: the only way for elements to learn of each other here. Every other argument before the `*` is a vector
that says what the function does, a learned linear map of its code. Arguments behind the `*` are options, with their types
and defaults. All tensors are [..., D] and broadcast.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ni_framework.contracts import Body, Build, Pairs, Sizes
from ni_framework.options import config, option


def elementwise(function: Callable[..., Tensor]) -> type[Body]:
    """Makes a body of a function of one element; the function itself stays at hand as `body.function`.

    Raises `TypeError` for a function that has no element to work on, nothing that its code could say, or an option without
    a type or a default.
    """
    vectors, options = _arguments(function)

    class Elementwise(_Elementwise):
        Config = options

    Elementwise.function, Elementwise.vectors = staticmethod(function), vectors
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Elementwise, name, getattr(function, name))
    return Elementwise


class _Elementwise(Body):
    """y_i = f(x_i, what the code says, options): [B, V, D] -> [R, D]."""

    api = 1
    function: Callable[..., Tensor]
    vectors: tuple[str, ...]  # its arguments after the element

    def __init__(self, config: Any, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.options = {name: getattr(config, name) for name in config.__annotations__}
        self.said = [name for name in self.vectors if name != "mean"]
        self.say = nn.Linear(sizes.code, len(self.said) * sizes.width)

    def prepare(self, code_UC: Tensor, num_elements: int) -> dict[str, Tensor]:
        said_UXD = self.say(code_UC).unflatten(-1, (len(self.said), -1))
        return dict(zip(self.said, said_UXD.unbind(1), strict=True))  # [U, D] each

    def forward(self, x_BVD: Tensor, prepared: dict[str, Tensor], pairs: Pairs) -> Tensor:
        x_RD = pairs.share(x_BVD)
        given = {name: pairs.spread(said_UD) for name, said_UD in prepared.items()}
        if "mean" in self.vectors:
            rows_RD = x_RD + 0 * pairs.compatibility  # a row for each pair, also where all functions read the same
            equal_R11 = torch.zeros_like(rows_RD[..., None, :1])  # attention with equal keys is the mean
            given["mean"] = pairs.attend(equal_R11, equal_R11, rows_RD.unsqueeze(-2), None).squeeze(-2)
        return self.function(x_RD, *(given[name] for name in self.vectors), **self.options)


def _arguments(function: Callable[..., Tensor]) -> tuple[tuple[str, ...], type]:
    """The names of the vectors that a function is given after the element, and the options as a config class."""
    name = getattr(function, "__name__", str(function))
    hints = get_type_hints(function, include_extras=True)
    vectors: list[str] = []
    fields: dict[str, Any] = {"__annotations__": {}}
    for argument in inspect.signature(function).parameters.values():
        if argument.kind is argument.POSITIONAL_OR_KEYWORD:
            vectors.append(argument.name)
        elif argument.kind is not argument.KEYWORD_ONLY:
            raise TypeError(f"{name}: say what it takes by name, without `*{argument.name}` and without `/`")
        elif argument.default is argument.empty or argument.name not in hints:
            raise TypeError(
                f"{name}: the option `{argument.name}` needs a type and a default, as in `strength: float = 1.0`"
            )
        else:
            hint, help = _explained(hints[argument.name], argument.name)
            fields["__annotations__"][argument.name] = hint
            fields[argument.name] = option(default=argument.default, help=help)
    if not vectors or not set(vectors[1:]) - {"mean"}:
        raise TypeError(
            f"{name}: takes an element and at least one vector that its function's code says, as in `def {name}(x, shift)`"
        )
    return tuple(vectors[1:]), config(type("Config", (), fields))


def _explained(hint: Any, name: str) -> tuple[Any, str]:
    """The type of an option and its help: the text in `Annotated[float, "the text"]`, or its name."""
    if get_origin(hint) is Annotated:
        plain, *notes = get_args(hint)
        return plain, next((note for note in notes if isinstance(note, str)), name.replace("_", " "))
    return hint, name.replace("_", " ")
