"""The author's script and its functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ni_framework.author.kwargs import ProgramKwargs, ScriptKwargs
from ni_framework.author.line import AuthorLine
from ni_framework.author.routing import AuthorKernel, AuthorTypeInference, build_mlp
from ni_framework.model.script import ScriptOutput
from ni_framework.nn.kernel import normalise_kernel
from ni_framework.nn.layouts.dense import DensePairs


class AuthorFunctions(nn.Module):
    """The functions of a script: signatures and codes (or embeddings for both), kernel, lines of code.

    Source: the author's `FunctionPod`.
    """

    def __init__(self, script: ScriptKwargs, grid: int | None) -> None:
        super().__init__()
        self.pod = pod = script.function_pod_kwargs
        width, functions = script.variable_features, pod.num_functions
        if pod.consolidate_function_embeddings:
            wide = pod.function_embedding_features or width
            hidden, depth = pod.deconsolidation_mlp_capacity or wide, pod.deconsolidation_mlp_depth
            self.function_embeddings = nn.Parameter(torch.empty(functions, wide))
            self.function_embeddings_to_signatures = build_mlp(wide, hidden, script.type_features, depth)
            self.function_embeddings_to_codes = build_mlp(wide, hidden, pod.code_features, depth)
        else:
            self.function_signatures = nn.Parameter(torch.empty(functions, script.type_features))
            self.function_codes = nn.Parameter(torch.empty(functions, pod.code_features))
        self.kernel = AuthorKernel(pod.kernel_kwargs)
        self.loc_pods = nn.ModuleList(AuthorLine(pod, width, grid) for _ in range(pod.num_loc_pods))

    def signatures_and_codes(self) -> tuple[Tensor, Tensor]:
        """Signatures [U, T] and codes [U, C], detached where the config requests it."""
        pod = self.pod
        if pod.consolidate_function_embeddings:
            embedding = (
                self.function_embeddings.detach() if pod.detach_function_embeddings else self.function_embeddings
            )
            signature_UT = self.function_embeddings_to_signatures(embedding)
            code_UC = self.function_embeddings_to_codes(embedding)
        else:
            signature_UT, code_UC = self.function_signatures, self.function_codes
        return (
            signature_UT.detach() if pod.detach_function_signatures else signature_UT,
            code_UC.detach() if pod.detach_function_codes else code_UC,
        )

    def pool(self, x_BVD: Tensor, y_RD: Tensor, compatibility_BUV: Tensor, pairs: DensePairs) -> Tensor:
        """Combines the rows of all functions: sum_u c_u y_u.

        An element that is closed to all functions becomes zero, unless there is a residual connection.

        Args:
            x_BVD: The elements before the functions.
            y_RD: The outputs of the functions.
            compatibility_BUV: c.
            pairs: The layout of the rows.

        Returns:
            [B, V, D].
        """
        pooled_BVD = pairs.combine(y_RD)
        if self.pod.no_residual:
            return pooled_BVD
        if self.pod.residual_mode == "vanilla":
            return x_BVD + pooled_BVD
        gate_BV1 = compatibility_BUV.mean(dim=1).unsqueeze(-1)
        return (1 - gate_BV1) * x_BVD + gate_BV1 * pooled_BVD


class AuthorScript(nn.Module):
    """Type inference, kernel and functions, repeated `iterations` times: [B, V, D] -> [B, V, D].

    Source: the author's `Script` and `FunctionPod`. It differs from `model.Script` in its pooling and in the eps of its
    attention, and it only has the dense layout.
    """

    def __init__(self, script: ScriptKwargs, grid: int | None) -> None:
        super().__init__()
        self.iterations = script.num_iterations
        self.script = script
        self.type_inference = AuthorTypeInference(script)
        self.function_pod = AuthorFunctions(script, grid)

    def forward(self, x_BVD: Tensor, trace: bool = False) -> ScriptOutput:
        functions, pod, start_BVD = self.function_pod, self.script.function_pod_kwargs, x_BVD
        signature_UT, code_UC = functions.signatures_and_codes()
        if pod.quantize_function_signature and self.type_inference.quantizer is not None:
            signature_UT = self.type_inference.quantizer(signature_UT)
        prepared = [line.prepare(code_UC, x_BVD.shape[1]) for line in functions.loc_pods]  # pyright: ignore[reportCallIssue]
        output = ScriptOutput(x_BVD, {}, {}, [], [], [])
        for _ in range(self.iterations):
            compatibility_BUV = functions.kernel(self.type_inference(x_BVD), signature_UT)
            if pod.normalize_function_variable_affinities:
                compatibility_BUV = normalise_kernel(compatibility_BUV, pod.epsilon)
            pairs = DensePairs(compatibility_BUV)
            y_RD = pairs.dispatch(x_BVD)
            for line, line_prepared in zip(functions.loc_pods, prepared, strict=True):
                y_RD = line(y_RD, line_prepared, pairs)
            x_BVD = functions.pool(x_BVD, y_RD, compatibility_BUV, pairs)
            if trace:
                output.compatibility.append(compatibility_BUV)
                output.state.append(x_BVD)
        return output._replace(output_BVD=x_BVD if self.script.no_residual else x_BVD + start_BVD)


class AuthorProgram(nn.Module):
    """Scripts in sequence, without shared weights: [B, V, D] -> the output of each script. Source: the author's `Program`."""

    def __init__(self, program: ProgramKwargs, grid: int | None) -> None:
        super().__init__()
        self.scripts = nn.ModuleList(AuthorScript(program.script_kwargs, grid) for _ in range(program.num_scripts))

    def forward(self, x_BVD: Tensor, trace: bool = False) -> list[ScriptOutput]:
        outputs: list[ScriptOutput] = []
        for script in self.scripts:
            outputs.append(script(outputs[-1].output_BVD if outputs else x_BVD, trace))
        return outputs
