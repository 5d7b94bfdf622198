"FFNs of several layers as functions of one shared weight, through torch's parametrizations, and plain again."
from functools import cache

from torch import fx, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.utils import parametrize

REMEDY = "shares its weight with other layers; call `learngene.merge(model)` first, or inherit with ffn='copy'."


class TransformedWeight(nn.Module):
    "One output of a transform, in the form that torch's parametrizations call."
    def __init__(self, transform, t):
        super().__init__()
        self.transform, self.t = transform, t

    def forward(self, weight):
        "Return the t-th matrix of the shared weight."
        return self.transform(weight, self.t)


class SharedWeight(parametrize.ParametrizationList):
    "Compute one layer's weight from a shared one, which torch's own tools cannot change."
    is_tensor = False  # so that torch, when it removes this, makes a new weight and leaves the shared one as it is

    def forward(self):
        "Compute the weight."
        weight = self.original
        for step in self:
            weight = step(weight)
        return weight

    def right_inverse(self, value):
        "Raise ValueError: a layer cannot set a weight that is not its own."
        raise ValueError(f"this layer {REMEDY}")


def is_shared(
    module,  # any module
) -> bool:
    "Whether it is a linear layer that computes its weight from a shared one."
    return parametrize.is_parametrized(module, "weight") and type(module.parametrizations.weight) is SharedWeight


def share_ffns(
    mlps: list,  # FFNs of equal shape, changed in place; the first one's weights are shared
    make_transform,  # number of FFNs -> module that takes (weight, t) to the t-th weight
) -> None:
    """Let several FFNs compute their matrices from one shared weight each.

    What wraps such a layer (an adapter) or prunes it raises ValueError: its change would be lost when it is merged.
    """
    linears = {name: m for name, m in mlps[0].named_modules() if isinstance(m, nn.Linear)}
    for name, first in linears.items():
        weight, transform = first.weight, make_transform(len(mlps)).to(first.weight)
        for t, mlp in enumerate(mlps):
            linear = mlp.get_submodule(name)
            parametrize.register_parametrization(linear, "weight", TransformedWeight(transform, t))
            list_of_steps = linear.parametrizations.weight
            list_of_steps.__dict__.pop("is_tensor")
            list_of_steps.__class__, list_of_steps.original = SharedWeight, weight
            # a class of this layer alone
            type(linear).register_parameter, type(linear).__getstate__ = _refuse_parameters, _refuse_pickling
    _watch_wrapping()


@cache
def _watch_wrapping():
    "From now on, look at every module that becomes a part of another."
    register_module_module_registration_hook(_refuse_wrapping)


def _refuse_parameters(linear, name, param):
    "Take back the layer's own parameters, and refuse those of adapters and pruning."
    if name not in ("weight", "bias") or name == "weight" and is_shared(linear):
        raise ValueError(f"the layer {REMEDY}")
    nn.Linear.register_parameter(linear, name, param)


def _refuse_pickling(linear):
    "Refuse `torch.save` of a whole model: torch builds this layer's class as the program runs."
    raise ValueError(f"a whole model cannot be pickled while a layer {REMEDY}")


def _refuse_wrapping(parent, name, module):
    "Refuse to make a shared layer a part of an adapter."
    holds_any = isinstance(parent, (nn.ModuleList, nn.ModuleDict, nn.Sequential, fx.GraphModule))
    if is_shared(module) and not holds_any and not type(parent).__module__.startswith("timm."):
        raise ValueError(f"{type(parent).__name__} cannot wrap a layer that {REMEDY}")


def merge(
    model,  # a descendant, changed in place
) -> nn.Module:  # the same model
    "Turn shared, transformed FFNs into plain weights, without changing the function."
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and parametrize.is_parametrized(m, "weight")]
    # all of them first: they share an original
    weights = [{name: getattr(m, name).detach().clone() for name in m.parametrizations} for m in linears]
    for linear, tensors in zip(linears, weights):
        # torch's own removal breaks deep copies, which share the class
        del linear.parametrizations
        linear.__class__ = type(linear).__bases__[0]
        for name, tensor in tensors.items():
            setattr(linear, name, nn.Parameter(tensor))
    return model
