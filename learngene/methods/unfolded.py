"Networks whose layers are computed from fewer tensors: trained as such, then unfolded once into plain models."
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch.func import functional_call

from ..checks import whole_number
from ..distillation import DIVERGENCES, Distillation
from ..model_notes import note_classes
from ..shapes import class_count
from ..stage1 import check_settings
from ..tensor_names import is_classifier
from ..vit import build_vit, fill_vit, vit_config
from ..vit_checks import check_plain_attention
from .core import Shape
from .options import check_options
from .payload import Payload


class UnfoldedVit(VisionTransformer):
    "Hold the tensors of a payload, and answer as the model that unfolds from them."
    def forward(self, x):
        "Unfold, then compute; gradients reach the payload."
        return functional_call(self.target, self.unfold(dict(self.named_parameters())), (x,))


def unfolded(
    model,  # a timm VisionTransformer whose parameters are the payload; changed in place
    target: dict,  # architecture of the model that unfolds, for `build_vit`
    unfold,  # payload tensors -> tensors of the target, by name
) -> UnfoldedVit:  # the same object
    "Turn a model into one that computes another's weights from its own at every step."
    model.__class__, model.unfold = UnfoldedVit, unfold
    model.__dict__["target"] = build_vit(target)  # on the meta device, and no submodule: it has no weights of its own
    return model


def materialise(
    config: dict,  # architecture of the descendant, with the payload's classes
    tensors: dict,  # for every parameter
    num_classes=None,  # of a fresh classifier; None = the payload's own
) -> VisionTransformer:
    "Make a plain timm model of unfolded tensors."
    model = fill_vit(build_vit(config), {name: t.detach().clone() for name, t in tensors.items()}, "unfolded tensors")
    return model.eval() if num_classes is None else new_classifier(model, num_classes)


def new_classifier(
    model,  # a timm VisionTransformer, changed in place
    num_classes,  # 0 = none
) -> VisionTransformer:
    "Give a model a random classifier, as descendants have it. ValueError for no number."
    model.reset_classifier(class_count(num_classes))
    if isinstance(model.head, torch.nn.Linear):
        trunc_normal_(model.head.weight)
        torch.nn.init.zeros_(model.head.bias)
    note_classes(model, None)
    return model.eval()


def pooled_config(
    ancestry,  # a timm VisionTransformer
    method: str,  # whose name an error states
) -> dict:
    "Describe the ancestry without class token. TypeError, ValueError for what cannot teach."
    check_plain_attention(ancestry, method)
    if ancestry.num_classes < 1:
        raise ValueError("the ancestry has no classifier, so it cannot teach; give one with classes.")
    return vit_config(ancestry) | dict(model="VisionTransformer", class_token=False, reg_tokens=0, global_pool="avg",
                                       pool_heads=None, final_norm=True, fc_norm=True)


def layers_like(
    config: dict,  # of an ancestry whose layers are all alike
    depth: int,  # wanted
    method: str,  # whose name an error states
) -> dict:
    "Describe a model of other depth. ValueError where layers differ and cannot share."
    for name in ("heads", "ffn_width"):
        if len(set(config[name])) > 1:
            raise ValueError(f"the ancestry's {name} are {config[name]}, and layers that share tensors must be alike; "
                             f"give {method} an ancestry with equal layers.")
    return config | {name: [config[name][0]] * depth for name in ("heads", "ffn_width")}


@dataclass(frozen=True)
class Distilled:
    "Options of methods whose payload is trained in a network that learns from the ancestry."
    epochs: int = 150  # of stage 1
    alpha: float = 1.0  # weight of the teacher; 1 = labels are not used, as in the released command
    temperature: float = 1.0  # by which logits are divided
    divergence: str = "classes"  # averaged over "classes" and images, as released, "images" alone, or "hard"
    train: dict = field(default_factory=dict)  # of stage 1, where it differs from the recipe's `train`

    needs_training: ClassVar[bool] = True
    of_expand: ClassVar[tuple] = ()

    def __post_init__(self):
        check_options(self, epochs=0, temperature=0.0, divergence=DIVERGENCES, train=(dict,))
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)) or not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha!r}, wanted a share from 0 (labels alone) to 1 (teacher alone).")
        check_settings(self.train)

    def learn(self, model, ancestry, train, epochs=None) -> dict:
        "Train a network by distillation from the ancestry; its tensors."
        model.distillation = Distillation(ancestry, self.alpha, self.temperature, self.divergence)
        train(model, epochs=self.epochs if epochs is None else epochs, **self.train)
        return {name: t.detach().cpu() for name, t in model.state_dict().items()}

    def layers_of(self, payload: Payload, shape, least=1) -> int:
        "Return the layers of a descendant. ValueError for other heads, other widths or too few."
        config = payload.config["architecture"]
        heads = config["heads"][0]
        depth = len(config["heads"]) if shape.depth is None else whole_number(shape.depth)
        asked = set(shape.heads) if isinstance(shape.heads, (list, tuple)) else {shape.heads}
        if asked - {None, heads}:
            raise ValueError(f"heads is {shape.heads}, but {self.name} changes depth alone and its layers have {heads} "
                             "heads; leave heads out.")
        if getattr(shape, "width", None) not in (None, config["embed_dim"]):
            raise ValueError(f"width is {shape.width}, but {self.name} changes depth alone and its layers are "
                             f"{config['embed_dim']} wide; leave width out.")
        if depth is None or depth < least:
            raise ValueError(f"depth is {shape.depth!r}, wanted a whole number of at least {least}.")
        if isinstance(shape.heads, (list, tuple)) and len(shape.heads) != depth:
            raise ValueError(f"heads lists {len(shape.heads)} layers, the descendant has {depth}; leave heads out.")
        return depth

    def inherited_params(self, payload: Payload, shape=Shape()) -> int:
        "Count the payload, without its classifier when a fresh one is made."
        fresh = shape.num_classes is not None
        return sum(t.numel() for name, t in payload.tensors.items() if not (fresh and is_classifier(name)))


def trunc_normal_(
    tensor,  # filled in place
) -> torch.Tensor:
    "Draw from DeiT's initial distribution: normal of standard deviation 0.02, cut at 2."
    return torch.nn.init.trunc_normal_(tensor, std=0.02)
