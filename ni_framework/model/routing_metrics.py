"""Metrics of routing that distinguish a working interpreter from a degenerate one, and warnings with remedies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.model.trace import Trace


def routing_metrics(trace: Trace, mask_BN: Tensor | None = None) -> dict[str, float]:
    """Returns the routing of a traced batch as plain numbers by name; masked elements do not count.

    - `routing/packed`: the fraction of iterations that computed open pairs only, of those that may choose
      (`execution: auto`).
    - `routing/open`: the fraction of pairs that are open.
    - `routing/orphans`: the fraction of elements that no function takes.
    - `routing/use/script0/f0`: a function's fraction of its script's total compatibility.
    - `routing/state_norm/script0/iteration0`: the mean length of an element's state after that iteration.
    - `routing/iterations/script0`: with halting, the expected number of iterations of an element.
    - `routing/computed/script0`: with halting, the number of iterations until nothing of an element remains.
    - `routing/logit_variance`: the variance over the batch, averaged over classes.

    Args:
        trace: the trace of one forward pass.
        mask_BN: the mask of that forward pass, bool over the input's elements; True means present.
    """
    present_BV = _present_elements(trace, mask_BN)
    counted = [_counted_compatibilities(trace, script, present_BV) for script in range(len(trace.compatibility))]
    metrics: dict[str, float] = {}
    for script, compatibilities in enumerate(counted):
        metrics |= _state_norms(trace.states[script], script, present_BV)
        metrics |= _function_use(compatibilities, script)
    for script, halt_IBV in enumerate(trace.halting):
        if halt_IBV is not None:
            metrics |= _halting_metrics(halt_IBV, script, present_BV)
    all_compatibilities = [c_UE for compatibilities in counted for c_UE in compatibilities]
    return metrics | _open_pairs(all_compatibilities) | _packed_fraction(trace) | _logit_variance(trace)


def _present_elements(trace: Trace, mask_BN: Tensor | None) -> Tensor | None:
    """Returns the mask over all elements of a script; the CLS elements before those of the input are always present."""
    if mask_BN is None or not trace.outputs:
        return None
    return F.pad(mask_BN, (trace.outputs[0].shape[1] - mask_BN.shape[1], 0), value=True)


def _counted_compatibilities(trace: Trace, script: int, present_BV: Tensor | None) -> list[Tensor]:
    """Returns the compatibilities [U, E] of the elements that count, for each iteration in which there are any.

    Elements that have halted do not count: they are open to no function, but are not orphans.
    """
    halt_IBV = trace.halting[script] if trace.halting else None
    remaining_IBV = None if halt_IBV is None else remaining_before(halt_IBV)
    counted = []
    for iteration, compatibility_BUV in enumerate(trace.compatibility[script]):
        c_UE = compatibility_BUV.transpose(0, 1).flatten(1)
        counts_BV = present_BV
        if remaining_IBV is not None:
            has_not_halted_BV = remaining_IBV[iteration] > 0
            counts_BV = has_not_halted_BV if present_BV is None else present_BV & has_not_halted_BV
        if counts_BV is not None:
            c_UE = c_UE[:, counts_BV.flatten()]
        if c_UE.numel():
            counted.append(c_UE)
    return counted


def _state_norms(states: Sequence[Tensor], script: int, present_BV: Tensor | None) -> dict[str, float]:
    """Returns the mean length of the states after each iteration."""
    return {
        f"routing/state_norm/script{script}/iteration{iteration}": _mean_over(state_BVD.norm(dim=-1), present_BV)
        for iteration, state_BVD in enumerate(states)
    }


def _function_use(compatibilities: Sequence[Tensor], script: int) -> dict[str, float]:
    """Returns each function's fraction of the total compatibility [U, E] of all iterations."""
    if not compatibilities:
        return {}
    use_U = torch.stack([c_UE.sum(dim=1) for c_UE in compatibilities]).sum(dim=0)
    fraction_U = use_U / use_U.sum().clamp_min(torch.finfo(use_U.dtype).tiny)
    return {f"routing/use/script{script}/f{function}": value for function, value in enumerate(fraction_U.tolist())}


def _halting_metrics(halt_IBV: Tensor, script: int, present_BV: Tensor | None) -> dict[str, float]:
    """Returns the mean expected and computed numbers of iterations."""
    return {
        f"routing/{name}/script{script}": _mean_over(value_BV, present_BV)
        for name, value_BV in halting_iterations(halt_IBV).items()
    }


def _open_pairs(compatibilities: Sequence[Tensor]) -> dict[str, float]:
    """Returns the fractions of open pairs and of orphans, averaged over the iterations of all scripts."""
    if not compatibilities:
        return {}
    open_fractions = [(c_UE > 0).float().mean() for c_UE in compatibilities]
    orphan_fractions = [(c_UE == 0).all(dim=0).float().mean() for c_UE in compatibilities]
    return {
        "routing/open": torch.stack(open_fractions).mean().item(),
        "routing/orphans": torch.stack(orphan_fractions).mean().item(),
    }


def _packed_fraction(trace: Trace) -> dict[str, float]:
    """Returns the fraction of iterations that computed open pairs only; nothing if no script may choose."""
    packed = [is_packed for script_packed in trace.packed for is_packed in script_packed]
    return {"routing/packed": sum(packed) / len(packed)} if packed else {}


def _logit_variance(trace: Trace) -> dict[str, float]:
    """Returns the variance of the logits over the batch, averaged over classes and tasks."""
    variances = [logits.float().var(dim=0, correction=0).mean() for logits in trace.logits.values()]
    return {"routing/logit_variance": torch.stack(variances).mean().item()}


def _mean_over(value_BV: Tensor, present_BV: Tensor | None) -> float:
    return (value_BV.mean() if present_BV is None else value_BV[present_BV].mean()).item()


def halting_iterations(halt_IBV: Tensor) -> dict[str, Tensor]:
    """Returns, for each element, the expected number of iterations and the number of computed ones, [B, V] each.

    `halt_IBV` has the probabilities of halting after each iteration.
    """
    number_I = torch.arange(1, len(halt_IBV) + 1, device=halt_IBV.device).to(halt_IBV.dtype)
    computed_BV = (torch.stack(remaining_before(halt_IBV)) > 0).sum(dim=0).to(halt_IBV.dtype)
    return {"iterations": torch.einsum("i,ibv->bv", number_I, halt_IBV), "computed": computed_BV}


def remaining_before(halt_IBV: Tensor) -> list[Tensor]:
    """Returns what remains of each element before each iteration, [B, V].

    It is subtracted in the same order as in the script, so that what is exactly 0 there is exactly 0 here.
    """
    remaining = [torch.ones_like(halt_IBV[0])]
    for halt_BV in halt_IBV[:-1]:
        remaining.append(remaining[-1] - halt_BV)
    return remaining


def routing_warnings(metrics: Mapping[str, float]) -> list[str]:
    """Returns what is degenerate in these metrics, each with its remedy; an empty list for a healthy model.

    The bounds follow measurements on random signatures and types in 24 dimensions: at truncation 0.9, a third of the pairs
    is open and a sixth of the elements has no function; at 0.8, it is 17 % and 38 %.
    """
    messages = []
    widen = "raise model.router.truncation (1.42 opens nearly all pairs, 1.0 half of them)"
    if metrics.get("routing/open", 1) < 0.1:
        messages.append(
            f"only {metrics['routing/open']:.1%} of the pairs are open, so hardly anything is computed; {widen}"
        )
    if metrics.get("routing/orphans", 0) > 0.25:
        messages.append(
            f"{metrics['routing/orphans']:.0%} of the elements are taken by no function and do not change; {widen}"
        )
    if metrics["routing/logit_variance"] < 1e-7:
        messages.append(
            "the logits are the same for every sample of the batch, so the head does not depend on the input; "
            f"check that the inputs differ, and {widen}"
        )
    for script, norms in group_by_script(metrics, "routing/state_norm/").items():
        first, last = norms[0], norms[-1]
        if last > 10 * first:
            messages.append(
                f"the states of {script} grow from {first:.3g} to {last:.3g} over its iterations; "
                "use `pooling: delta`, fewer iterations, or a body that returns its input plus a change"
            )
        if last < 0.1 * first or last == 0:
            messages.append(
                f"the states of {script} shrink from {first:.3g} to {last:.3g} over its iterations; "
                "use `pooling: delta`, which keeps elements that no function takes"
            )
    for script, uses in group_by_script(metrics, "routing/use/").items():
        idle = [f"f{function}" for function, use in enumerate(uses) if use < 0.02 / len(uses)]
        if idle:
            messages.append(
                f"{', '.join(idle)} of {script} {'is' if len(idle) == 1 else 'are'} hardly used (below 2 % of an even share); "
                f"{widen}, raise model.router.bandwidth, or use fewer functions"
            )
    return messages


def group_by_script(metrics: Mapping[str, float], prefix: str) -> dict[str, list[float]]:
    """Returns {"script0": [values in order]} of all metrics with this prefix."""
    scripts: dict[str, list[float]] = {}
    for name, value in metrics.items():
        if name.startswith(prefix):
            scripts.setdefault(name.removeprefix(prefix).partition("/")[0], []).append(value)
    return scripts
