"FFNs of several layers as functions of one shared weight, through torch's parametrizations, and plain again."
from torch import nn
from torch.nn.utils import parametrize


class TransformedWeight(nn.Module):
    "One output of a transform, in the form that torch's parametrizations call."
    def __init__(self, transform, t):
        super().__init__()
        self.transform, self.t = transform, t

    def forward(self, weight):
        "Return the t-th matrix of the shared weight."
        return self.transform(weight, self.t)


def share_ffns(
    mlps: list,  # FFNs of equal shape, changed in place; the first one's weights are shared
    make_transform,  # number of FFNs -> module that takes (weight, t) to the t-th weight
) -> None:
    "Let several FFNs compute their matrices from one shared weight each."
    linears = {name: m for name, m in mlps[0].named_modules() if isinstance(m, nn.Linear)}
    for name, first in linears.items():
        weight, transform = first.weight, make_transform(len(mlps)).to(first.weight)
        for t, mlp in enumerate(mlps):
            linear = mlp.get_submodule(name)
            parametrize.register_parametrization(linear, "weight", TransformedWeight(transform, t))
            linear.parametrizations.weight.original = weight


def merge(
    model,  # a descendant, changed in place
) -> nn.Module:  # the same model
    "Turn shared, transformed FFNs into plain weights, without changing the function."
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and parametrize.is_parametrized(m, "weight")]
    weights = [m.weight.detach().clone() for m in linears]  # all of them first: they share an original
    for linear, weight in zip(linears, weights):
        # torch's own removal writes into the shared original, and breaks deep copies, which share the class
        del linear.parametrizations
        linear.__class__ = type(linear).__bases__[0]
        linear.weight = nn.Parameter(weight)
    return model
