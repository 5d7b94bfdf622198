"Methods that score heads and neurons, keep the best of each layer within a budget, and mend what is left."
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

import torch

from ..anatomy import layers_of
from ..budget_options import check_narrowable
from ..budgeting import Budget
from ..calibration import calibration_batches
from ..condensing import Learngene, keep_all
from ..families.cuts import cut_units
from ..families.description import units_per_layer
from ..inheriting import build, plan, with_heads
from ..model_input import to_model, wide
from ..shape_costs import KeptParts, ShapeCosts
from ..stream import embed_patches, record_attention, record_inputs
from ..vit import eval_mode, measure, vit_config
from .core import Shape
from .options import check_options

SHARES = 1000  # steps between nothing and all


@dataclass(frozen=True)
class LayerScores:
    "How much each part of one layer is worth: what is worth least goes first."
    heads: torch.Tensor | None  # (H,); None = the method leaves heads alone
    neurons: torch.Tensor  # (N,)

    def kept(self, heads, neurons):
        "Return the best so many heads and neurons, ascending; of equal ones the first."
        def best(scores, count): return sorted(scores.argsort(descending=True, stable=True)[:count].tolist())
        return list(range(heads)) if self.heads is None else best(self.heads, heads), best(self.neurons, neurons)


class InputMoments:
    "Running mean and second moment of what enters a matrix."
    def __init__(self, n, device):
        self.sum = torch.zeros(n, dtype=torch.float64, device=device)
        self.squares, self.count = torch.zeros(n, n, dtype=torch.float64, device=device), 0

    def add(self, x):
        "Add a batch (..., n)."
        x = wide(x).flatten(0, -2)
        self.sum += x.sum(0, dtype=torch.float64)
        self.squares += (x.T @ x).double()
        self.count += len(x)

    @property
    def mean(self):
        "Mean (n,)."
        return self.sum / self.count

    @property
    def second(self):
        "Second moment (n, n), about zero."
        return self.squares / self.count

    @property
    def covariance(self):
        "Second moment (n, n), about the mean."
        return self.second - torch.outer(self.mean, self.mean)


@torch.no_grad()
def input_moments(
    ancestry,  # a vision transformer in eval mode
    batches,  # list of images (B, C, H, W)
) -> list:  # for each layer (InputMoments of what enters W^O, of what enters W_2)
    "Sum what enters the output matrices of every layer."
    layers, sums = layers_of(ancestry, to_model(batches[0], ancestry)), []
    for layer in layers:
        device = layer.proj.weight.device
        sums.append(tuple(InputMoments(matrix.in_features, device) for matrix in (layer.proj, layer.fc2)))
    for batch in batches:
        stream = embed_patches(ancestry, batch)
        for layer, (of_heads, of_neurons) in zip(layers, sums):
            inputs, stream = record_attention(layer, layer.enter(stream))
            of_heads.add(inputs)
            inputs, stream = record_inputs(layer.fc2, layer.after_ffn, stream)
            of_neurons.add(inputs)
    return sums


def fold_dropped(
    linear,  # with the kept inputs alone, changed in place
    whole,  # the same layer with all inputs
    kept: list,  # inputs that stay
    rule,  # (dropped, kept): what each kept input says of a dropped one
    constant,  # (dropped,): what is said of it whatever they are
) -> None:
    "Give the weights of dropped inputs to those that tell of them, and to the bias."
    dropped = sorted(set(range(whole.in_features)) - set(kept))
    W = whole.weight.double()[:, dropped]
    linear.weight += (W @ rule).to(linear.weight)
    if linear.bias is not None:
        linear.bias += (W @ constant).to(linear.bias)


@dataclass
class CutPayload:
    "The ancestry with all its heads, its scores, and images to mend with."
    base: Learngene  # every head a cluster of its own
    ancestry: Any
    batches: list  # of calibration images
    scores: list  # of LayerScores, one per layer
    plans: dict = field(default_factory=dict)  # (limits, number of classes) -> (Plan, heads and neurons that stay)
    moments: list | None = None  # from `input_moments`, once they are asked for

    def __str__(self):
        return f"scores of {sum(self.base.config['heads'])} heads"


@dataclass(frozen=True)
class CutToBudget:
    """Keep an equal share of heads and neurons in every layer, as many as a budget allows.

    Heads are coarse, so what they leave of the budget goes to neurons.
    A subclass defines `score`, and `mend` where it repairs what the cut did.
    """
    params: float | None = None  # this and the next as in `Budget`
    flops: float | None = None
    cut_images: int = 512  # calibration images to score and mend with

    cuts_heads = True  # whether heads may go; no option

    def __post_init__(self):
        check_options(self, params=0.0, flops=0.0, cut_images=1)
        if self.limits:
            Budget(**self.limits)  # raises for what cannot be a limit

    @property
    def limits(self):
        "The limits that are given, by name."
        return {name: getattr(self, name) for name in ("params", "flops") if getattr(self, name) is not None}

    def score(self, ancestry, batches) -> list:
        "Return LayerScores for every layer, from batches of images."
        raise NotImplementedError

    def mend(self, child, payload, kept):
        "Change what is left, in place; `kept` has the heads and neurons of each layer."

    def moments_of(self, payload) -> list:
        "Return `input_moments` of the ancestry, computed once."
        if payload.moments is None:
            payload.moments = input_moments(payload.ancestry, payload.batches)
        return payload.moments

    def condense(self, ancestry, images):
        "Score heads and neurons of the ancestry."
        check_narrowable(everything := keep_all(ancestry))
        batches = calibration_batches(images, 64, self.cut_images, ancestry)
        with eval_mode(ancestry):
            return CutPayload(everything, ancestry, batches, self.score(ancestry, batches))

    def _choose(self, payload, shape):
        "Choose the plan, and which heads and neurons stay in each layer."
        if shape.depth is not None or shape.heads is not None:
            raise ValueError(f"{self.name} chooses heads itself; leave shape.depth and shape.heads out.")
        key = (self.name, *self.limits.items(), shape.num_classes)
        if key not in payload.plans:
            payload.plans[key] = self._fit(payload, shape.num_classes)
        return payload.plans[key]

    def _fit(self, payload, num_classes):
        base = payload.base.config if num_classes is None else payload.base.config | dict(num_classes=num_classes)
        limits, costs = Budget(**self.limits).against(measure(vit_config(payload.ancestry))), ShapeCosts(base)

        def over(kept): return any(costs(kept)[name] > limit for name, limit in limits.items())
        sizes = self.sizes(payload.scores, base["heads"], units_per_layer(base), over)
        if over(sizes):
            least = costs(sizes)
            raise ValueError(f"{self.name} cannot make a model so small: its smallest has {least['params']:,} "
                             f"parameters and {least['flops']:,} operations; give a larger budget.")
        kept = [scores.kept(sizes.heads[i], sizes.widths[i]) for i, scores in enumerate(payload.scores)]
        equal = plan(payload.base, heads=[len(h) for h, _ in kept], num_classes=num_classes, proj="aligned", ffn="copy")
        positions = [[[c.centroid for c in clusters].index(head) for head in h]
                     for clusters, (h, _) in zip(payload.base.clusters, kept)]
        return with_heads(payload.base, equal, positions, [len(neurons) for _, neurons in kept]), kept

    def sizes(
        self,
        scores,  # of the layers
        heads,  # of each layer of the ancestry
        widths,  # neurons of each layer
        over,  # function of KeptParts: whether a limit is exceeded
    ) -> KeptParts:
        "Choose how many heads and neurons each layer keeps, at least one of each: an equal share."
        def of_shares(share, neurons):
            def part(n, share): return max(1, n * share // SHARES)
            counts = [part(n, share) for n in heads] if self.cuts_heads else heads
            return KeptParts(dict(enumerate(counts)), {i: part(n, neurons) for i, n in enumerate(widths)})

        # where not even the smallest shape fits, both are below 0
        share = bisect_left(range(SHARES + 1), True, key=lambda both: over(of_shares(both, both))) - 1
        neurons = bisect_left(range(SHARES + 1), True, key=lambda more: over(of_shares(share, more))) - 1
        return of_shares(share, neurons)

    def plan(self, payload, shape=Shape()):
        "Decide which heads stay, and how many neurons."
        return self._choose(payload, shape)[0]

    def expand(self, payload, shape=Shape()):
        "Make the descendant: cut, and mended."
        shape_plan, kept = self._choose(payload, shape)
        child = build(payload.base, shape_plan).to(next(payload.ancestry.parameters()).device)
        for layer, (_, neurons) in zip(layers_of(child), kept):
            cut_units(layer.mlp, neurons)
        with eval_mode(child, payload.ancestry), torch.no_grad():
            self.mend(child, payload, kept)
        return child

    def inherited_params(self, payload, shape=Shape()):
        "Count the distinct values taken from the ancestry."
        return self.plan(payload, shape).inherited_params
