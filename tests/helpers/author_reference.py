"""A slow reference of the author's model, from the equations alone: one sample, function, element and head at a time.

It uses nothing from the package under test. `config` has the author's keyword arguments, where those with defaults may be
absent. `state` has tensors by the author's names. Everything is float64 and differentiable.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


def run_author_reference(
    config: dict[str, Any], state: State, inputs: Tensor
) -> tuple[dict[str, Tensor], list[list[Tensor]], list[Tensor]]:
    """Returns the logits of each task, compatibilities [script][iteration] [B, U, V], and outputs [script] [B, V, D]."""
    tasks = config["num_classes_in_dataset"]
    tasks = {"default": tasks} if isinstance(tasks, int) else tasks
    script = config["program_kwargs"]["script_kwargs"]
    samples = [_program(config, state, sample) for sample in inputs]
    logits: dict[str, Tensor] = {}
    for place, task in enumerate(tasks):
        shared = config.get("use_shared_prediction_head", False)
        name = "shared_prediction_head" if shared else f"mlp_prediction_head.{task}"
        finals = [outputs[-1][place] for _, outputs in samples]
        logits[task] = torch.stack([_linear(state, f"{name}.1", _norm(state, f"{name}.0", final)) for final in finals])
    compatibility = [
        [torch.stack([sample[0][s][i] for sample in samples]) for i in range(script["num_iterations"])]
        for s in range(config["program_kwargs"]["num_scripts"])
    ]
    outputs = [torch.stack([torch.stack(o[1][s]) for o in samples]) for s in range(len(compatibility))]
    return logits, compatibility, outputs


def _program(config: dict[str, Any], state: State, sample: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    elements = []
    if config.get("input_type", "patches") == "patches":
        size = config["patch_size"]
        side = config["image_size"] // size
        for i in range(side):
            for j in range(side):
                patch = [
                    sample[channel, i * size + y, j * size + x]
                    for y in range(size)
                    for x in range(size)
                    for channel in range(config.get("image_input_channels", 3))
                ]
                elements.append(_linear(state, "patch_to_embedding", torch.stack(patch)))
    else:
        side = 0
        elements = [_linear(state, "entity_to_embedding", entity) for entity in sample]
    if config.get("detach_patch_embeddings"):
        elements = [element.detach() for element in elements]
    if config.get("pre_positional_encoding"):
        elements = [element + state["pos_embedding"][0, n] for n, element in enumerate(elements)]
    tasks = config["num_classes_in_dataset"]
    names = ["default"] if isinstance(tasks, int) else list(tasks)
    shared = config.get("use_shared_cls_tokens", False)
    x = [state["shared_cls_token" if shared else f"cls_token.{name}"][0, 0] for name in names] + elements
    compatibility, outputs = [], []
    script = config["program_kwargs"]["script_kwargs"]
    for number in range(config["program_kwargs"]["num_scripts"]):
        start, found = x, []
        for _ in range(script["num_iterations"]):
            x, c = _iteration(script, state, f"transformer.scripts.{number}.", x, side)
            found.append(c)
        if not script.get("no_residual", True):
            x = [after + before for after, before in zip(x, start, strict=True)]
        compatibility.append(found)
        outputs.append(x)
    return compatibility, outputs


def _iteration(
    script: dict[str, Any], state: State, name: str, x: list[Tensor], side: int
) -> tuple[list[Tensor], Tensor]:
    pod = script["function_pod_kwargs"]
    kernel = pod.get("kernel_kwargs") or {}
    signatures, codes = _functions(pod, state, f"{name}function_pod.")
    types = [_type(script, state, f"{name}type_inference.", element) for element in x]
    if pod.get("quantize_variable_types", True):
        types = [_quantise(state[f"{name}type_inference.quantizer.codebook"], t) for t in types]
    if pod.get("quantize_function_signature", True):
        signatures = [_quantise(state[f"{name}type_inference.quantizer.codebook"], s) for s in signatures]
    sigma = state[f"{name}function_pod.kernel.bandwidth"]
    c = torch.stack([torch.stack([_kernel(kernel, sigma, s, t) for t in types]) for s in signatures])
    if pod.get("normalize_function_variable_affinities", False):
        c = torch.stack([c[u] / (pod.get("epsilon", 1e-6) + c.sum(0)) for u in range(len(codes))])
    pooled = [torch.zeros_like(element) for element in x]
    for u, code in enumerate(codes):
        y = x
        for line in range(pod.get("num_loc_pods", 1)):
            y = _line(pod, state, f"{name}function_pod.loc_pods.{line}.", y, code, c[u], side)
        pooled = [sum_ + c[u, i] * y[i] for i, sum_ in enumerate(pooled)]
    if not pod.get("no_residual", False):
        if pod.get("residual_mode", "gating") == "vanilla":
            pooled = [element + p for element, p in zip(x, pooled, strict=True)]
        else:
            mean = c.sum(0) / len(codes)
            pooled = [(1 - mean[i]) * x[i] + mean[i] * p for i, p in enumerate(pooled)]
    return pooled, c


def _functions(pod: dict[str, Any], state: State, name: str) -> tuple[list[Tensor], list[Tensor]]:
    if pod.get("consolidate_function_embeddings", False):
        to = f"{name}function_embeddings_to_"
        embeddings = list(state[f"{name}function_embeddings"])
        if pod.get("detach_function_embeddings", False):
            embeddings = [embedding.detach() for embedding in embeddings]
        depth = pod.get("deconsolidation_mlp_depth", 2)
        signatures, codes = (
            [_mlp(state, f"{to}{what}", e, depth) for e in embeddings] for what in ("signatures", "codes")
        )
    else:
        signatures, codes = list(state[f"{name}function_signatures"]), list(state[f"{name}function_codes"])
    if pod.get("detach_function_signatures", False):
        signatures = [signature.detach() for signature in signatures]
    if pod.get("detach_function_codes", False):
        codes = [code.detach() for code in codes]
    return signatures, codes


def _type(script: dict[str, Any], state: State, name: str, x: Tensor) -> Tensor:
    kwargs = script.get("type_inference_kwargs") or {}
    x = _norm(state, f"{name}layernorm", x) if kwargs.get("use_layernorm", True) else x
    return _mlp(state, f"{name}body", x, kwargs.get("depth", 2))


def _mlp(state: State, name: str, x: Tensor, depth: int) -> Tensor:
    if depth == 1:
        return _linear(state, name, x)
    for layer in range(depth - 1):
        x = _gelu(_linear(state, f"{name}.{2 * layer}", x))
    return _linear(state, f"{name}.{2 * (depth - 1)}", x)


def _quantise(codebook: Tensor, t: Tensor) -> Tensor:
    t = _unit(t)
    best = max((_unit(entry) for entry in codebook), key=lambda entry: float((entry @ t).detach()))
    return t + (best - t).detach()


def _kernel(kernel: dict[str, Any], sigma: Tensor, s: Tensor, t: Tensor) -> Tensor:
    d = 1 - _unit(s) @ _unit(t)
    tau = kernel.get("truncation")
    tau = math.inf if tau is None else tau
    k = torch.exp(-d / sigma)
    if kernel.get("truncation_implementation", "direct") == "direct":
        return torch.zeros_like(k) if d > tau else k
    m = k if d < tau else 0 * k
    return k + (m - k).detach() if kernel.get("straight_through", True) else m


def _line(
    pod: dict[str, Any], state: State, name: str, x: list[Tensor], code: Tensor, c: Tensor, side: int
) -> list[Tensor]:
    line = pod.get("loc_pod_kwargs") or {}
    kind, mode = line.get("mod_fc_class", "ModFC"), line.get("residual_mode", "gating")
    num_heads = pod["num_heads_in_loc"]

    def mapped(which: str, rows: list[Tensor], active: bool = False) -> list[Tensor]:
        return [_map(kind, state, f"{name}{which}", row, code, active) for row in rows]

    z = [_norm(state, f"{name}pre_attention_layernorm", row) for row in x]
    q, k, v = (mapped(f"{which}_compiler", z) for which in ("query", "key", "value"))
    out: list[list[Tensor]] = [[] for _ in x]
    for head in range(num_heads):
        qh, kh, vh = ([row.reshape(num_heads, -1)[head] for row in rows] for rows in (q, k, v))
        for i in range(len(x)):
            logits = torch.stack(kh) @ qh[i]
            if line.get("relative_positional_encoder"):
                logits = logits + torch.stack(
                    [_position(line, state, name, i, j, len(x), side, head, code) for j in range(len(x))]
                )
            if line.get("scale_attention_weights", False):
                logits = logits / math.sqrt(len(kh[0]))
            a = torch.exp(logits - logits.max().detach())
            a = a / a.sum()
            w = c[i] * c * a
            w = w / (line.get("epsilon", 1e-6) + w.sum())
            out[i].append(w @ torch.stack(vh))
    o = [torch.cat(heads) for heads in out]
    if line.get("use_fc_after_attention", False):
        o = mapped("post_attention_fc", o)
    if mode == "gating":
        a_ = [(1 - c[i]) * x[i] + state[f"{name}post_attention_gain"] * c[i] * o[i] for i in range(len(x))]
    elif mode == "vanilla":
        a_ = [x[i] + o[i] for i in range(len(x))]
    else:
        a_ = [x[i] + c[i] * o[i] for i in range(len(x))]
    f = mapped("pointwise_mlp.0", [_norm(state, f"{name}pre_mlp_layernorm", row) for row in a_], active=True)
    f = mapped("pointwise_mlp.1", f, active=line.get("trailing_activation", True))
    if mode == "gating":
        return [(1 - c[i]) * a_[i] + state[f"{name}post_mlp_gain"] * c[i] ** 2 * f[i] for i in range(len(x))]
    return [a_[i] + c[i] * f[i] for i in range(len(x))]


def _position(
    line: dict[str, Any], state: State, name: str, at: int, seen: int, count: int, side: int, head: int, code: Tensor
) -> Tensor:
    lead = count - side * side
    total = torch.zeros((), dtype=torch.float64)
    if at < lead or seen < lead:
        return total
    name = f"{name}relative_positional_encoder."
    kwargs = line.get("relative_positional_encoder_kwargs") or {}
    shared = kwargs.get("share_positional_encoding_between_functions", True)
    (i1, j1), (i2, j2) = divmod(at - lead, side), divmod(seen - lead, side)
    for axis, difference in (("row", j2 - j1), ("col", i2 - i1)):
        e = state[f"{name}{axis}_embeddings.weight"][difference + side - 1]
        p = state[f"{name}head_keys_{axis}.weight"][head]
        if shared:
            total = total + e @ p
            continue
        fu = state[f"{name}function_keys_{axis}.weight"] @ code
        mode = kwargs.get("function_head_mixing_mode", "dot")
        if mode == "dot":
            total = total + (e * p * fu).sum()
        elif mode == "seq_sum":
            total = total + (e + fu) @ p
        else:
            total = total + e @ p + fu[head]
    return total


def _map(kind: str, state: State, name: str, x: Tensor, code: Tensor, active: bool) -> Tensor:
    def act(value: Tensor) -> Tensor:
        return _gelu(value) if active else value

    if kind == "ModFC":
        y = state[f"{name}.native_weight"] @ (x * _standard(state[f"{name}.scale.weight"] @ code))
        return act(y + state[f"{name}.native_bias"] if f"{name}.native_bias" in state else y)
    if kind == "FC":
        return act(_linear(state, f"{name}.lin", x))
    if kind == "GModFC":
        return _linear(state, f"{name}.main_lin", x) * act(_linear(state, f"{name}.aux_lin", code))
    normed = _norm(state, f"{name}.context_pre_layernorm", code)
    fast = state[f"{name}.hyper_net.2.weight"] @ _gelu(_linear(state, f"{name}.hyper_net.0", normed))
    p = state[f"{name}.slow_params"] + state[f"{name}.mixing_alpha"] * fast
    if "query" in name or "key" in name:  # without bias
        return act(p.reshape(-1, len(x)) @ x)
    out = len(p) // (len(x) + 1)
    return act(p[: out * len(x)].reshape(out, len(x)) @ x + p[out * len(x) :])


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    y = state[f"{name}.weight"] @ x
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def _standard(x: Tensor) -> Tensor:
    centred = x - x.sum() / len(x)
    return centred / torch.sqrt((centred**2).sum() / len(x) + 1e-5)


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return _standard(x) * state[f"{name}.weight"] + state[f"{name}.bias"]


def _unit(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).sum())


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
