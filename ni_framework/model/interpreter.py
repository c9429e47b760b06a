"""The whole model: input, CLS elements, the program of scripts, and the head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from ni_framework.contracts import Context, Head, Input, Output
from ni_framework.errors import UsageError
from ni_framework.model.iteration import AuxOutputs, add_to_sums
from ni_framework.model.noise import KeyedNoise, sample_keys
from ni_framework.model.script import Script, ScriptOutput
from ni_framework.utils.prefixes import strip_prefix

# Scripts draw noise by their number; the input, which belongs to no script, draws by this one.
INPUT_NOISE_KEY = -1


class ModelOutput(NamedTuple):
    """The full output of a forward pass."""

    # Logits [B, classes] by task.
    logits: dict[str, Tensor]
    # Auxiliary losses by name, summed over input, scripts and head.
    losses: dict[str, Tensor]
    # Statistics by "<script>.<component>.<name>", "input.<name>" and "head.<name>", for `Interpreter.update_buffers`.
    statistics: dict[str, Tensor]
    script_outputs: list[ScriptOutput]


class _Scripts(nn.ModuleList):
    """A module list whose elements are known to type checkers as scripts."""

    def __iter__(self) -> Iterator[Script]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return iter(self._modules.values())  # pyright: ignore[reportReturnType]


class Interpreter(nn.Module):
    """A Neural Interpreter: inputs [B, *shape] -> {task: logits [B, classes]}.

    The elements are the CLS elements of the tasks, followed by those of the input. Source: Neural Interpreters, section 3.
    """

    def __init__(self, input_module: Input, scripts: Sequence[Script], head: Head, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.tasks = dict(tasks)
        self.input = input_module
        self.scripts = _Scripts(scripts)
        self.head = head

    @property
    def iterations(self) -> tuple[int, ...]:
        """How often each script repeats its iteration. Assign one number for all scripts, or one for each."""
        return tuple(script.iterations for script in self.scripts)

    @iterations.setter
    def iterations(self, value: int | Sequence[int]) -> None:
        numbers = tuple(value) if isinstance(value, Sequence) else (value,) * len(self.scripts)
        valid = all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers)
        if len(numbers) != len(self.scripts) or not valid:
            raise UsageError(
                f"iterations: {value!r} does not fit {len(self.scripts)} scripts; "
                "give a whole number of at least 1, or one for each script"
            )
        for script, number in zip(self.scripts, numbers, strict=True):
            script.iterations = number

    @overload
    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        tasks: Sequence[str] | None = None,
        detail: None = None,
        key: Tensor | None = None,
    ) -> dict[str, Tensor]: ...

    @overload
    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        tasks: Sequence[str] | None = None,
        *,
        detail: Literal["losses", "trace"],
        key: Tensor | None = None,
    ) -> ModelOutput: ...

    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        tasks: Sequence[str] | None = None,
        detail: Literal["losses", "trace"] | None = None,
        key: Tensor | None = None,
    ) -> dict[str, Tensor] | ModelOutput:
        """Returns the logits of the tasks, or with `detail` a `ModelOutput`.

        CLS elements attend to each other. Unless the tasks share one CLS element, the logits of a task therefore depend on
        which other tasks are requested.

        Args:
            inputs: a batch [B, *shape].
            mask: bool [B, N] over the input's elements; True means present. A masked element influences nothing.
            tasks: the requested tasks; only their CLS elements take part, in this order. None means all tasks.
            detail: "losses" returns auxiliary losses and statistics too, "trace" also what each iteration computed.
            key: int64 [B], on which the noise of components depends. If None, noise depends on torch's generator in
                training, and on the position in the batch otherwise.

        Raises:
            UsageError: a shape or a task is wrong.
        """
        tasks = validate_tasks(tasks, self.tasks)
        self._check_inputs(inputs, mask, key)
        aux_outputs = AuxOutputs()
        x_BND = aux_outputs.add("input", Output.wrap(self._call_input(inputs, mask, key)))
        cls_LD, multiplicity = self.head.cls_tokens(tasks)
        present_BV = multiplicity_V = None
        if mask is not None:
            x_BND = torch.where(mask.unsqueeze(-1), x_BND, 0)
            present_BV = torch.cat([mask.new_ones(len(mask), len(cls_LD)), mask], dim=1)
        x_BVD = torch.cat([cls_LD.to(x_BND.dtype).expand(len(x_BND), -1, -1), x_BND], dim=1)
        if multiplicity > 1:
            multiplicity_V = x_BVD.new_ones(x_BVD.shape[1])
            multiplicity_V[: len(cls_LD)] = multiplicity
        script_outputs = []
        for number, script in enumerate(self.scripts):
            script_output = script(x_BVD, present_BV, multiplicity_V, key, trace=detail == "trace", tasks=tasks)
            x_BVD = script_output.output_BVD
            script_outputs.append(script_output)
            add_to_sums(aux_outputs.losses, script_output.losses)
            aux_outputs.statistics |= {f"{number}.{name}": value for name, value in script_output.statistics.items()}
        logits = aux_outputs.add("head", Output.wrap(self.head(x_BVD, present_BV, tasks)))
        if detail is None:
            return logits
        return ModelOutput(logits, aux_outputs.losses, aux_outputs.statistics, script_outputs)

    @torch.no_grad()
    def update_buffers(self, statistics: Mapping[str, Tensor]) -> None:
        """Passes statistics, summed over the forward passes of a step, to the components that they came from."""
        components = {"input": self.input, "head": self.head} | {
            str(n): script for n, script in enumerate(self.scripts)
        }
        for path, component in components.items():
            if component_statistics := strip_prefix(f"{path}.", statistics):
                component.update_buffers(component_statistics)

    def _call_input(self, inputs: Tensor, mask: Tensor | None, key: Tensor | None) -> Tensor | Output:
        if not self.input.takes_context:
            return self.input(inputs, mask)
        key_B = sample_keys(len(inputs), inputs.device, self.training) if key is None else key
        return self.input(inputs, mask, context=Context(0, mask, KeyedNoise(key_B, INPUT_NOISE_KEY, 0)))

    def _check_inputs(self, inputs: Tensor, mask: Tensor | None, key: Tensor | None) -> None:
        if inputs.shape[1:] != self.input.shape:
            raise UsageError(
                f"inputs: expected shape [B, {', '.join(map(str, self.input.shape))}], not {list(inputs.shape)}; "
                "the shape of one input is in the recipe under model.input"
            )
        if key is not None and (list(key.shape) != [len(inputs)] or key.dtype != torch.int64):
            raise UsageError(
                f"key: expected int64 of shape [{len(inputs)}], one number a sample, "
                f"not {str(key.dtype).removeprefix('torch.')} of shape {list(key.shape)}"
            )
        if mask is None:
            return
        expected = [len(inputs), self.input.num_elements]
        if list(mask.shape) != expected or mask.dtype != torch.bool:
            raise UsageError(
                f"mask: expected bool of shape {expected} (batch, elements of the input without CLS; True = present), "
                f"not {str(mask.dtype).removeprefix('torch.')} of shape {list(mask.shape)}"
            )


def validate_tasks(tasks: Sequence[str] | None, model_tasks: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the requested tasks, all tasks of the model if None. Raises `UsageError` for unknown or repeated tasks."""
    if tasks is None:
        return tuple(model_tasks)
    known = ", ".join(model_tasks)
    if isinstance(tasks, str) or not tasks or len(set(tasks)) < len(tasks):
        raise UsageError(f"tasks: expected a list of different task names, not {tasks!r}; this model has {known}")
    if unknown := [task for task in tasks if task not in model_tasks]:
        raise UsageError(f"tasks: there is no task {unknown[0]!r}; this model has {known}")
    return tuple(tasks)
