"""The author's script and its functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ni_framework.author import kwargs as given
from ni_framework.author.line import Line
from ni_framework.author.routing import Kernel, Types, mlp
from ni_framework.model.script import Passage
from ni_framework.nn.kernel import normalised
from ni_framework.nn.layouts.dense import DensePairs


class Functions(nn.Module):
    """What a script's functions own: signatures, codes or what both come from, kernel, lines of code.

    Source: the author's `FunctionPod`.
    """

    def __init__(self, script: given.Script, grid: int | None) -> None:
        super().__init__()
        self.pod = pod = script.function_pod_kwargs
        width, functions = script.variable_features, pod.num_functions
        if pod.consolidate_function_embeddings:
            wide = pod.function_embedding_features or width
            hidden, depth = pod.deconsolidation_mlp_capacity or wide, pod.deconsolidation_mlp_depth
            self.function_embeddings = nn.Parameter(torch.empty(functions, wide))
            self.function_embeddings_to_signatures = mlp(wide, hidden, script.type_features, depth)
            self.function_embeddings_to_codes = mlp(wide, hidden, pod.code_features, depth)
        else:
            self.function_signatures = nn.Parameter(torch.empty(functions, script.type_features))
            self.function_codes = nn.Parameter(torch.empty(functions, pod.code_features))
        self.kernel = Kernel(pod.kernel_kwargs)
        self.loc_pods = nn.ModuleList(Line(pod, width, grid) for _ in range(pod.num_loc_pods))

    def signatures_and_codes(self) -> tuple[Tensor, Tensor]:
        """[U, T] and [U, C], cut off from gradients where the config says so."""
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
        """sum_u c y, [B, V, D]: where no function is open the element is lost. With a residual x is added or gated in."""
        pooled_BVD = pairs.pool(y_RD)
        if self.pod.no_residual:
            return pooled_BVD
        if self.pod.residual_mode == "vanilla":
            return x_BVD + pooled_BVD
        gate_BV1 = compatibility_BUV.mean(dim=1).unsqueeze(-1)
        return (1 - gate_BV1) * x_BVD + gate_BV1 * pooled_BVD


class Script(nn.Module):
    """Type inference, kernel and functions, repeated `iterations` times: [B, V, D] -> [B, V, D].

    Source: the author's `Script` and `FunctionPod`. It differs from `model.Script` in its pooling, in the eps of its
    attention, and in that it runs dense only.
    """

    def __init__(self, script: given.Script, grid: int | None) -> None:
        super().__init__()
        self.iterations = script.num_iterations
        self.script = script
        self.type_inference = Types(script)
        self.function_pod = Functions(script, grid)

    def forward(self, x_BVD: Tensor, trace: bool = False) -> Passage:
        functions, pod, start_BVD = self.function_pod, self.script.function_pod_kwargs, x_BVD
        signature_UT, code_UC = functions.signatures_and_codes()
        if pod.quantize_function_signature and self.type_inference.quantizer is not None:
            signature_UT = self.type_inference.quantizer(signature_UT)
        prepared = [line.prepare(code_UC, x_BVD.shape[1]) for line in functions.loc_pods]  # pyright: ignore[reportCallIssue]
        passage = Passage(x_BVD, {}, {}, [], [], [])
        for _ in range(self.iterations):
            compatibility_BUV = functions.kernel(self.type_inference(x_BVD), signature_UT)
            if pod.normalize_function_variable_affinities:
                compatibility_BUV = normalised(compatibility_BUV, pod.epsilon)
            pairs = DensePairs(compatibility_BUV)
            y_RD = pairs.share(x_BVD)
            for line, of_line in zip(functions.loc_pods, prepared, strict=True):
                y_RD = line(y_RD, of_line, pairs)
            x_BVD = functions.pool(x_BVD, y_RD, compatibility_BUV, pairs)
            if trace:
                passage.compatibility.append(compatibility_BUV)
                passage.state.append(x_BVD)
        return passage._replace(output_BVD=x_BVD if self.script.no_residual else x_BVD + start_BVD)


class Program(nn.Module):
    """Scripts one after the other, nothing shared: [B, V, D] -> what each of them left. Source: the author's `Program`."""

    def __init__(self, program: given.Program, grid: int | None) -> None:
        super().__init__()
        self.scripts = nn.ModuleList(Script(program.script_kwargs, grid) for _ in range(program.num_scripts))

    def forward(self, x_BVD: Tensor, trace: bool = False) -> list[Passage]:
        passages: list[Passage] = []
        for script in self.scripts:
            passages.append(script(passages[-1].output_BVD if passages else x_BVD, trace))
        return passages
