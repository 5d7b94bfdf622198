"Tables of what belongs to a head or a hidden unit, and cuts as selections along those axes."
import torch
from timm.layers import Attention, AttentionRope, GluMlp, Mlp, SwiGLU
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.swin_transformer import WindowAttention
from timm.models.swin_transformer_v2 import WindowAttention as WindowAttentionV2
from timm.models.vision_transformer_relpos import RelPosAttention
from timm.models.vision_transformer_sam import Attention as SamAttention
from torch import nn

from .attention import CUT_CLASS

# tensor of an attention module -> (axis along which heads lie, groups of heads along it)
QKV = {"qkv.weight": (0, 3), "qkv.bias": (0, 3), "proj.weight": (1, 1)}
SEPARATE = {f"{name}_proj.{kind}": (0, 1) for name in "qkv" for kind in ("weight", "bias")}
BIASES = {f"{name}_bias": (0, 1) for name in "qkv"}  # k_bias is zero, and no part of the state dict
GATE = {"gate.weight": (0, 1), "gate.bias": (0, 1)}
TABLE = {"relative_position_bias_table": (1, 1)}
HEADS = {
    Attention: QKV | GATE, AttentionRope: QKV | SEPARATE | GATE, EvaAttention: QKV | SEPARATE | BIASES | GATE,
    BeitAttention: QKV | BIASES | TABLE, WindowAttention: QKV | TABLE, SamAttention: QKV,
    RelPosAttention: QKV | {f"rel_pos.{name}": at for name, at in TABLE.items()}
    | {"rel_pos.mlp.fc2.weight": (0, 1), "rel_pos.mlp.fc2.bias": (0, 1)},
    WindowAttentionV2: QKV | BIASES | {"logit_scale": (0, 1), "cpb_mlp.2.weight": (0, 1)},
}
HEADS |= {cut: HEADS[timms] for timms, cut in CUT_CLASS.items()}

# tensor of an FFN -> (axis along which hidden units lie, matrices packed along it)
INNER = {"norm.weight": (0, 1), "norm.bias": (0, 1), "fc2.weight": (1, 1)}
UNITS = {
    Mlp: {"fc1.weight": (0, 1), "fc1.bias": (0, 1)} | INNER,
    GluMlp: {"fc1.weight": (0, 2), "fc1.bias": (0, 2)} | INNER,
    SwiGLU: {f"fc1_{half}.{kind}": (0, 1) for half in "gx" for kind in ("weight", "bias")} | INNER,
}
# class of an FFN -> rows of its first matrix that make one hidden unit: 2 where gates and values are packed into it
ROWS_PER_UNIT = {kind.__name__: table.get("fc1.weight", (0, 1))[1] for kind, table in UNITS.items()}
HEAD_AXES = {f"attn.{name}": at for table in HEADS.values() for name, at in table.items()}  # by name within a block


def split_axis(
    tensor,  # with heads or units along an axis
    at,  # (axis, groups), from the tables above
    count: int,  # heads or units
) -> torch.Tensor:  # that axis as three: groups, count, numbers of each
    "Give heads or hidden units an axis of their own."
    axis, groups = at
    return tensor.unflatten(axis, (groups, count, -1))


def select(
    tensor,  # with heads or units along an axis
    at,  # (axis, groups), from the tables above
    count: int,  # heads or units that it has
    keep,  # those that it shall have; they may repeat
) -> torch.Tensor:  # of its own memory
    "Keep some heads or hidden units of a tensor."
    index = torch.as_tensor(list(keep)).to(tensor.device)
    return split_axis(tensor, at, count).index_select(at[0] + 1, index).flatten(at[0], at[0] + 2)


def tensors_at(
    module,  # an attention module or an FFN
    table,  # its entry of HEADS or UNITS
):  # yields (the submodule that owns it, its name there, tensor, (axis, groups))
    "List the tensors of a table that a module has."
    for name, at in table.items():
        owner, _, attribute = name.rpartition(".")
        owner = _submodule(module, owner)
        tensor = getattr(owner, attribute, None)
        if isinstance(tensor, torch.Tensor):
            yield owner, attribute, tensor, at


def _submodule(module, path):
    "Find a submodule by its path; None without one."
    for name in filter(None, path.split(".")):
        module = getattr(module, name, None)
    return module


def cut_heads(
    attn,  # an attention module, changed in place
    keep,  # heads that it shall have, from 0; they may repeat
    shared_heads=None,  # for each of them its index in tensors that all blocks share; None = nothing is shared
) -> None:
    "Give an attention module other heads."
    keep, count = list(keep), attn.num_heads
    _cut(attn, HEADS[type(attn)], count, keep)
    attn.num_heads = len(keep)
    for name in ("attn_dim", "kv_dim", "num_kv_heads"):
        if hasattr(attn, name):
            setattr(attn, name, getattr(attn, name) // count * len(keep))
    rel_pos = getattr(attn, "rel_pos", None)
    if rel_pos is not None:
        rel_pos.bias_shape = (*rel_pos.bias_shape[:-1], len(keep))
        if hasattr(rel_pos, "num_heads"):
            rel_pos.num_heads = len(keep)
    attn.__class__ = CUT_CLASS.get(type(attn), type(attn))
    if shared_heads is not None:
        attn.shared_heads = list(shared_heads)


def hidden_units(
    mlp,  # a timm Mlp, GluMlp or SwiGLU
) -> int:
    "Count what enters the output matrix of an FFN."
    return mlp.fc2.in_features


def rows_per_unit(
    mlp,  # a timm Mlp, GluMlp or SwiGLU
) -> int:  # 2 where gates and values are packed into one matrix
    "Count the rows of the first FFN matrix that make one hidden unit."
    return ROWS_PER_UNIT.get(type(mlp).__name__, 1)


def cut_units(
    mlp,  # an FFN, changed in place
    keep,  # hidden units that it shall have, from 0
) -> None:
    "Leave hidden units out of an FFN."
    _cut(mlp, UNITS[type(mlp)], hidden_units(mlp), list(keep))


def _cut(module, table, count, keep):
    "Select along the axes of a table, and keep the sizes that linear and norm layers note."
    for owner, name, tensor, at in list(tensors_at(module, table)):
        cut = select(tensor.detach(), at, count, keep)
        if name in owner._parameters:
            owner._parameters[name] = nn.Parameter(cut, requires_grad=tensor.requires_grad)
        else:
            owner._buffers[name] = cut
        if isinstance(owner, nn.Linear):
            owner.out_features, owner.in_features = owner.weight.shape
        elif hasattr(owner, "normalized_shape"):
            owner.normalized_shape = (len(keep),)


PROJ_WEIGHT = "attn.proj.weight"  # W^O, whose columns belong to heads
LAYER_AXES = {"rope.freqs": 1}  # tensors outside the layers in which each layer has a part -> the axis of layers


def is_by_head(
    part: str,  # name of a tensor within a layer
) -> bool:
    "Whether a tensor other than W^O holds numbers of each head."
    return part in HEAD_AXES and part != PROJ_WEIGHT


def of_layers(
    name: str,  # of a tensor outside the layers
    tensor,
    layers,  # that stay, from 0
) -> torch.Tensor:
    "Keep what belongs to some layers in a tensor that all layers share."
    if name not in LAYER_AXES:
        return tensor
    return tensor.index_select(LAYER_AXES[name], torch.tensor(list(layers), device=tensor.device))


def put_layers(
    name: str,  # of a tensor outside the layers
    tensor,  # of a model, changed in place
    layers: list,  # of that model, from 0
    part,  # from `of_layers`
) -> None:
    "Copy what belongs to some layers into a tensor that all layers share."
    if name in LAYER_AXES:
        tensor.index_copy_(LAYER_AXES[name], torch.tensor(layers, device=tensor.device), part)
    else:
        tensor.copy_(part)
