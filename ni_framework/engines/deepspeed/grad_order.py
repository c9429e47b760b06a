"""Workaround: DeepSpeed (0.19.8) reduces gradients in the order in which they arrive.

What DeepSpeed does: at stages 1 and 2 it fills reduce buckets in the order in which autograd produces gradients. What goes wrong:
ranks that route differently (as to which pairs are open, for example) produce them in different orders; then DeepSpeed adds
gradients of different parameters, or crashes. How this repairs it: early gradients are buffered and released in one fixed order,
close to the reverse order of the forward pass, so that few are buffered, and only for a short time.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ni_framework.errors import RunError
from ni_framework.model.interpreter import Interpreter


class GradientOrderer:
    """Passes the gradients of each backward pass to DeepSpeed in a fixed order; each must arrive once (`with_zero_grads`)."""

    def __init__(self, model: Interpreter, optimizer: Any) -> None:
        """Takes the place of the function by which DeepSpeed's optimizer receives gradients."""
        self._model, self._process_gradients = model, optimizer.process_gradients
        self._order = [id(parameter) for parameter in reverse_forward_order(model)]
        self._buffered: dict[int, tuple[Any, ...]] = {}
        self._next = 0
        optimizer.process_gradients = self._on_gradient

    def start_backward(self) -> None:
        """Prepares for a backward pass, even if the previous one was not completed."""
        self._buffered, self._next = {}, 0

    def finish_backward(self) -> None:
        """Raises `RunError` if a gradient has not arrived, so that later ones were never released."""
        if self._next < len(self._order):
            names = {id(parameter): name for name, parameter in self._model.named_parameters()}
            raise RunError(
                f"{names[self._order[self._next]]}: its gradient did not arrive; report this to ni-framework"
            )

    def _on_gradient(self, parameter: nn.Parameter, *group: int) -> None:
        self._buffered[id(parameter)] = (parameter, *group)
        while self._next < len(self._order) and (ready := self._buffered.pop(self._order[self._next], None)):
            self._next += 1
            self._process_gradients(*ready)


def reverse_forward_order(model: Interpreter) -> list[nn.Parameter]:
    """Returns the trained parameters approximately in the order of their gradients: head, scripts from last to first, input.

    The head's own parameters, such as CLS elements, come last: the forward pass starts with them.
    """
    own_head_parameters = list(model.head.parameters(recurse=False))
    modules = [model.head, *reversed(list(model.scripts)), model.input, model]
    parameters = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    # Removed and added again, so that they are at the end.
    parameters |= {id(parameter): parameters.pop(id(parameter)) for parameter in own_head_parameters}
    return [parameter for parameter in parameters.values() if parameter.requires_grad]
