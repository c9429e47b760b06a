"""Where routing lives or dies: the few numbers that tell a working interpreter from a dead one, and what to do about them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.model.trace import Trace


def routing_figures(trace: Trace, mask_BN: Tensor | None = None) -> dict[str, float]:
    """The routing of a traced batch as plain numbers by name; masked elements do not count.

    `routing/packed`: iterations that computed open pairs only, in parts of those that may choose (`execution: auto`).
    `routing/open`: open pairs, in parts of all. `routing/orphans`: elements that no function takes, in parts of all.
    `routing/use/script0/f0`: a function's share of its script's compatibility. `routing/state_norm/script0/iteration0`: mean
    length of an element's state after that iteration; `routing/iterations/script0`: with halting, the expected number of
    iterations of an element, and `routing/computed/script0` the number until nothing of it is left; `routing/logit_variance`:
    over the batch, mean over classes.
    """
    figures: dict[str, float] = {}
    opened, orphans = [], []
    present_BV = None
    if mask_BN is not None and trace.outputs:  # the elements before the input's are CLS elements, always present
        present_BV = F.pad(mask_BN, (trace.outputs[0].shape[1] - mask_BN.shape[1], 0), value=True)
    for number, (compatibilities, states) in enumerate(zip(trace.compatibility, trace.states, strict=True)):
        uses = []
        halt_IBV = trace.halting[number] if trace.halting else None
        left_IBV = None if halt_IBV is None else left_before(halt_IBV)
        for iteration, compatibility_BUV in enumerate(compatibilities):
            c_UE = compatibility_BUV.transpose(0, 1).flatten(1)
            counts_BV = present_BV
            if left_IBV is not None:  # what has halted is open to no function, and is no orphan
                counts_BV = left_IBV[iteration] > 0 if present_BV is None else present_BV & (left_IBV[iteration] > 0)
            if counts_BV is not None:
                c_UE = c_UE[:, counts_BV.flatten()]
            if not c_UE.numel():
                continue
            opened.append((c_UE > 0).float().mean())
            orphans.append((c_UE == 0).all(dim=0).float().mean())
            uses.append(c_UE.sum(dim=1))
        for iteration, state_BVD in enumerate(states):
            norm_BV = state_BVD.norm(dim=-1)
            norm = norm_BV.mean() if present_BV is None else norm_BV[present_BV].mean()
            figures[f"routing/state_norm/script{number}/iteration{iteration}"] = norm.item()
        if uses:
            use_U = torch.stack(uses).sum(dim=0)
            share_U = use_U / use_U.sum().clamp_min(torch.finfo(use_U.dtype).tiny)
            for function, share in enumerate(share_U.tolist()):
                figures[f"routing/use/script{number}/f{function}"] = share
    for number, halt_IBV in enumerate(trace.halting):
        if halt_IBV is not None:
            for name, value_BV in iterations_of(halt_IBV).items():
                mean = value_BV.mean() if present_BV is None else value_BV[present_BV].mean()
                figures[f"routing/{name}/script{number}"] = mean.item()
    if opened:
        figures["routing/open"] = torch.stack(opened).mean().item()
        figures["routing/orphans"] = torch.stack(orphans).mean().item()
    if packed := [of for of_script in trace.packed for of in of_script]:
        figures["routing/packed"] = sum(packed) / len(packed)
    variances = [logits.float().var(dim=0, correction=0).mean() for logits in trace.logits.values()]
    figures["routing/logit_variance"] = torch.stack(variances).mean().item()
    return figures


def iterations_of(halt_IBV: Tensor) -> dict[str, Tensor]:
    """By the probabilities of halting after each: the iterations that an element is expected to get, and that are computed."""
    number_I = torch.arange(1, len(halt_IBV) + 1, device=halt_IBV.device).to(halt_IBV.dtype)
    computed_BV = (torch.stack(left_before(halt_IBV)) > 0).sum(dim=0).to(halt_IBV.dtype)
    return {"iterations": torch.einsum("i,ibv->bv", number_I, halt_IBV), "computed": computed_BV}


def left_before(halt_IBV: Tensor) -> list[Tensor]:
    """What is left of each element before each iteration, [B, V]; subtracted as the script does, so that 0 is 0 here too."""
    left = [torch.ones_like(halt_IBV[0])]
    for halt_BV in halt_IBV[:-1]:
        left.append(left[-1] - halt_BV)
    return left


def warnings(figures: Mapping[str, float]) -> list[str]:
    """What is degenerate in these figures, each with its remedy; an empty list for a healthy model.

    The bounds follow measurements on random signatures and types in 24 dimensions: at truncation 0.9 a third of the pairs
    is open and a sixth of the elements has no function; at 0.8 it is 17 % and 38 %.
    """
    found = []
    widen = "raise model.router.truncation (1.42 opens nearly all pairs, 1.0 half of them)"
    if figures.get("routing/open", 1) < 0.1:
        found.append(
            f"only {figures['routing/open']:.1%} of the pairs are open, so hardly anything is computed; {widen}"
        )
    if figures.get("routing/orphans", 0) > 0.25:
        found.append(
            f"{figures['routing/orphans']:.0%} of the elements are taken by no function and stand still; {widen}"
        )
    if figures["routing/logit_variance"] < 1e-7:
        found.append(
            "the logits are the same for every sample of the batch, so nothing of the input reaches the head; "
            f"check that the inputs differ, and {widen}"
        )
    for script, norms in by_script(figures, "routing/state_norm/").items():
        first, last = norms[0], norms[-1]
        if last > 10 * first:
            found.append(
                f"the states of {script} grow from {first:.3g} to {last:.3g} over its iterations; "
                "use `pooling: delta`, fewer iterations, or a body that returns its input plus a change"
            )
        if last < 0.1 * first or last == 0:
            found.append(
                f"the states of {script} shrink from {first:.3g} to {last:.3g} over its iterations; "
                "use `pooling: delta`, which keeps elements that no function takes"
            )
    for script, uses in by_script(figures, "routing/use/").items():
        idle = [f"f{function}" for function, use in enumerate(uses) if use < 0.02 / len(uses)]
        if idle:
            found.append(
                f"{', '.join(idle)} of {script} {'is' if len(idle) == 1 else 'are'} hardly used (below 2 % of an even share); "
                f"{widen}, raise model.router.bandwidth, or use fewer functions"
            )
    return found


def by_script(figures: Mapping[str, float], prefix: str) -> dict[str, list[float]]:
    """{"script0": [values in order]} of all figures with this prefix."""
    scripts: dict[str, list[float]] = {}
    for name, value in figures.items():
        if name.startswith(prefix):
            scripts.setdefault(name.removeprefix(prefix).partition("/")[0], []).append(value)
    return scripts
