"Shapes within a budget beside the one that the path gives: layers all alike, and the best few plans."
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from .calibration import calibration_batches
from .model_input import to_model, wide
from .shape_costs import KeptParts
from .vit import eval_mode

FACTORS = [("heads", 0.5), ("heads", 2.0), ("skip", 0.5), ("skip", 2.0)]  # on prices, for plans beside the first


def check_alike(
    limits,  # a PathLimits whose budget asks for layers all alike
) -> None:
    "Raise ValueError where layers cannot all be alike, or for a limit in milliseconds."
    path = limits.path
    if len(set(path.full_width)) > 1 or len(set(path.base["heads"])) > 1 or len(set(path.costs.stages)) > 1:
        raise ValueError("uniform is True, but the ancestry's layers differ in heads, neurons or stage; leave it out.")
    if "latency_ms" in limits.limits:
        raise ValueError("uniform is True with a limit in milliseconds, for which hundreds of shapes would have to be "
                         "measured; give params, flops or memory_mb.")


def uniform_shape(
    limits,  # a PathLimits
) -> KeptParts:
    "Find the shape of least price whose layers have as many heads and neurons each."
    check_alike(limits)
    path, full = limits.path, limits.path.full_width[0]
    dearest = sorted(range(len(path.prices)), key=lambda layer: -path.prices[layer].skip)
    widths = [w for w in range(1, full + 1) if w % path.multiple == 0 or w == full]
    most_heads, shapes = min(len(of_layer.heads) for of_layer in path.prices), []
    for depth in range(1, len(dearest) + 1):
        for heads in range(1, most_heads + 1):
            layers = sorted(dearest[:depth])
            every = [KeptParts(dict.fromkeys(layers, heads), dict.fromkeys(layers, width)) for width in widths]
            n_fit = bisect_left(every, True, key=lambda kept: bool(limits.exceeded(kept)))
            shapes += every[:n_fit][-1:]
    return min(shapes, key=path.total)


def scale_prices(
    layer_prices,  # from `prices`
    part,  # "heads" or "skip"
    factor: float,  # on all prices of that part
) -> list:  # of LayerPrices
    "Make one kind of part dearer, or cheaper."
    def scaled(price): return [factor * p for p in price] if isinstance(price, list) else factor * price
    return [replace(of_layer, **{part: scaled(getattr(of_layer, part))}) for of_layer in layer_prices]


@dataclass(frozen=True)
class RankedPlan:
    "A plan within a budget, and how far its descendant's answers are from the ancestry's."
    plan: Any  # a Plan
    predicted: float  # its prices together: nats of an image's answer, or shares of the stream
    measured: float | None = None  # divergence of the refitted descendant's answers, nats; None = not measured

    def __repr__(self):
        measured = "not measured" if self.measured is None else f"{self.measured:.3g} nats measured"
        heads, neurons = (sum(counts) for counts in zip(*((len(p.heads), p.ffn_width) for p in self.plan.layers)))
        return (f"RankedPlan: {len(self.plan.layers)} layers, {heads} heads, {neurons} neurons; "
                f"{self.predicted:.3g} predicted, {measured}")


def rank_plans(
    plans,  # pairs: a Plan, its predicted loss
    measured,  # function of a Plan: its measured loss, or None
) -> list:  # of RankedPlan, the best first
    "Rank plans by their measured loss, or by the predicted one where none is measured."
    ranked = [RankedPlan(plan, predicted, measured(plan)) for plan, predicted in plans]
    return sorted(ranked, key=lambda r: r.predicted if r.measured is None else r.measured)


@torch.no_grad()
def answer_divergence(
    child,  # a descendant
    ancestry,  # the model it was made of
    images,  # a tensor, a Dataset or a DataLoader
    max_images=512,  # look at no more than so many
) -> float | None:  # None where the two have no classes in common
    "Measure the divergence of a descendant's probabilities from the ancestry's, nats."
    if not child.num_classes or child.num_classes != ancestry.num_classes:
        return None
    total = count = 0
    with eval_mode(child, ancestry):
        for x in calibration_batches(images, 64, max_images, ancestry):
            wanted, answer = (wide(m(to_model(x, m))).log_softmax(-1).double() for m in (ancestry, child))
            total += F.kl_div(answer, wanted, log_target=True, reduction="sum").item()
            count += len(x)
    return total / count


def check_top(top) -> None:
    "Raise ValueError unless so many plans can be asked for."
    if top is not None and (type(top) is not int or top < 1):
        raise ValueError(f"top is {top!r}; give a whole number of at least 1, or None for the plan alone.")
