"""The author's whole model: input, CLS elements, the program of scripts, and heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.author.config import AuthorConfig
from ni_framework.author.script import AuthorProgram
from ni_framework.errors import UsageError
from ni_framework.model.interpreter import ModelOutput, validate_tasks


class AuthorModel(nn.Module):
    """Inputs [B, channels, X, X], or entities [B, N, channels], -> {task: logits [B, classes]}.

    Modules and tensors have the author's names. Source: the author's `NeuralInterpreter`. Unlike in `model.Interpreter`,
    a shared CLS element is computed once per task, and there are no masks.
    """

    def __init__(self, config: AuthorConfig) -> None:
        super().__init__()
        self.config, self.tasks = config, config.tasks
        program, patches = config.program_kwargs, config.input_type == "patches"
        width = program.script_kwargs.variable_features
        if config.use_shared_cls_tokens:
            self.shared_cls_token = nn.Parameter(torch.empty(1, 1, width))
        else:
            self.cls_token = nn.ParameterDict({task: torch.empty(1, 1, width) for task in self.tasks})
        if config.use_shared_prediction_head:
            self.shared_prediction_head = _build_head(width, next(iter(self.tasks.values())))
        else:
            self.mlp_prediction_head = nn.ModuleDict(
                {task: _build_head(width, number) for task, number in self.tasks.items()}
            )
        grid, channels = None, config.image_input_channels
        if patches:
            grid, patch = config.grid, config.patch_size or 0
            num_elements = grid**2
            self.patch_to_embedding = nn.Linear(channels * patch**2, width)
        else:
            num_elements = config.num_entities or 0
            self.entity_to_embedding = nn.Linear(channels, width)
        self.num_elements = num_elements
        self.pos_embedding = None
        if config.pre_positional_encoding:
            self.pos_embedding = nn.Parameter(torch.empty(1, num_elements, width))
        self.transformer = AuthorProgram(program, grid)

    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        tasks: Sequence[str] | None = None,
        detail: Literal["losses", "trace"] | None = None,
    ) -> dict[str, Tensor] | ModelOutput:
        """Computes logits.

        Args:
            inputs: [B, channels, X, X], or entities [B, N, channels].
            mask: Must be None, since the author's model has no masks.
            tasks: The tasks whose CLS elements take part, in this order; None: all.
            detail: "losses" or "trace" to get a `ModelOutput`; "trace" also records every iteration.

        Returns:
            Logits [B, classes] by task, or a `ModelOutput`.

        Raises:
            UsageError: for a wrong shape, an unknown task or a mask.
        """
        tasks = validate_tasks(tasks, self.tasks)
        self._check_inputs(inputs, mask)
        x_BND = self._embed(inputs)
        cls_BLD = torch.cat([self._cls(task) for task in tasks], dim=1).expand(len(x_BND), -1, -1)
        x_BVD = torch.cat([cls_BLD, x_BND], dim=1)
        script_outputs = self.transformer(x_BVD, detail == "trace")
        x_BVD = script_outputs[-1].output_BVD
        logits = {task: self._head_for(task)(x_BVD[:, index]) for index, task in enumerate(tasks)}
        return logits if detail is None else ModelOutput(logits, {}, {}, script_outputs)

    def _embed(self, inputs: Tensor) -> Tensor:
        """[B, N, D], patches row by row, each flattened (row, column, channel)."""
        if self.config.input_type == "patches":
            assert self.config.patch_size is not None  # Checked by `read_config`.
            # unfold orders a patch as (channel, row, column); the author's code has the channel last.
            patch_BNX = F.unfold(inputs, self.config.patch_size, stride=self.config.patch_size).transpose(1, 2)
            patch_BNX = patch_BNX.unflatten(-1, (self.config.image_input_channels, -1)).transpose(-1, -2).flatten(-2)
            x_BND = self.patch_to_embedding(patch_BNX)
        else:
            x_BND = self.entity_to_embedding(inputs)
        if self.config.detach_patch_embeddings:
            x_BND = x_BND.detach()
        return x_BND if self.pos_embedding is None else x_BND + self.pos_embedding

    def _cls(self, task: str) -> Tensor:
        return self.shared_cls_token if self.config.use_shared_cls_tokens else self.cls_token[task]

    def _head_for(self, task: str) -> nn.Module:
        return self.shared_prediction_head if self.config.use_shared_prediction_head else self.mlp_prediction_head[task]

    def _check_inputs(self, inputs: Tensor, mask: Tensor | None) -> None:
        if mask is not None:
            raise UsageError("mask: the author's model has no masks; use None")
        config = self.config
        if config.input_type == "patches":
            expected = [config.image_input_channels, config.image_size, config.image_size]
            fits = list(inputs.shape[1:]) == expected
        else:
            expected = [self.num_elements, config.image_input_channels]
            # The number of entities is only fixed by a table of positions.
            any_number = inputs.ndim == 3 and self.pos_embedding is None
            fits = list(inputs.shape[2 if any_number else 1 :]) == expected[1 if any_number else 0 :]
        if not fits:
            sizes = ", ".join(map(str, expected))
            raise UsageError(f"inputs: expected shape [B, {sizes}], not {list(inputs.shape)}")


def _build_head(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
