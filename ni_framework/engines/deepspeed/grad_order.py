"""Gradients in one order, whatever the order in which they come."""

from __future__ import annotations

from typing import Any

from torch import nn

from ni_framework.errors import RunError
from ni_framework.model.interpreter import Interpreter


class InOrder:
    """Has DeepSpeed take the gradients of a backward in the same order in every process; each must come once (`tied`).

    At stage 2 it puts gradients into messages as they come. What comes first hangs on what the processes compute: where they
    differ, as in which pairs are open, it adds up gradients of different parameters, or ends. Held back here is what comes
    before its turn; turns follow the way back through the model, so that little is, and only for a short time.
    """

    def __init__(self, model: Interpreter, optimizer: Any) -> None:
        self._model, self._take = model, optimizer.process_gradients
        self._order = [id(parameter) for parameter in backwards(model)]
        self._held: dict[int, tuple[Any, ...]] = {}
        self._turn = 0
        optimizer.process_gradients = self._come

    def restart(self) -> None:
        """Begins a backward, whatever became of the last one."""
        self._held, self._turn = {}, 0

    def end(self) -> None:
        """Raises `RunError` where a gradient has not come, for which others were held back in vain."""
        if self._turn < len(self._order):
            names = {id(parameter): name for name, parameter in self._model.named_parameters()}
            raise RunError(f"{names[self._order[self._turn]]}: no gradient of it came; report it to ni-framework")

    def _come(self, parameter: nn.Parameter, *group: int) -> None:
        self._held[id(parameter)] = (parameter, *group)
        while self._turn < len(self._order) and (ready := self._held.pop(self._order[self._turn], None)):
            self._turn += 1
            self._take(*ready)


def backwards(model: Interpreter) -> list[nn.Parameter]:
    """The trained parameters about as their gradients come: the head's maps, the scripts, what they begin with."""
    own = list(model.head.parameters(recurse=False))
    parts = [model.head, *reversed(list(model.scripts)), model.input, model]
    found = {id(parameter): parameter for part in parts for parameter in part.parameters()}
    begins = {id(parameter): found.pop(id(parameter)) for parameter in own}
    return [parameter for parameter in (found | begins).values() if parameter.requires_grad]
