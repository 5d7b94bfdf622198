"Small models of every family that can be cut, for tests and for the table of families."
import timm
import torch
from torch import nn

SMALL = dict(embed_dim=32, depth=3, num_heads=4, num_classes=5, img_size=64)
STAGES = dict(embed_dim=16, depths=(1, 2, 2), num_heads=(1, 2, 4), num_classes=5, img_size=64, window_size=4)

EXAMPLES = {  # what it stands for -> (a name of timm, arguments that make it small)
    "DeiT III": ("deit3_small_patch16_224", SMALL),
    "AIMv2": ("aimv2_large_patch14_224", SMALL | dict(img_size=56)),
    "hybrid": ("vit_tiny_r_s16_p8_224", SMALL),
    "DINOv3": ("vit_small_patch16_dinov3", SMALL),
    "DINOv3, gated FFN": ("vit_small_plus_patch16_dinov3", SMALL),
    "EVA": ("eva_large_patch14_196", SMALL | dict(img_size=56)),
    "EVA-02, packed FFN": ("eva02_tiny_patch14_224", SMALL | dict(img_size=56)),
    "EVA-02, separate q, k, v": ("eva02_base_patch14_224", SMALL | dict(img_size=56)),
    "Perception Encoder": ("vit_pe_core_tiny_patch16_384", SMALL),
    "rotary, mixed": ("vit_small_patch16_rope_mixed_224", SMALL),
    "rotary, axial": ("vit_small_patch16_rope_224", SMALL),
    "BEiT": ("beit_base_patch16_224", SMALL),
    "BEiTv2": ("beitv2_base_patch16_224", SMALL),
    "BEiT, one table for all layers": (
        "beit_base_patch16_224", SMALL | dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)),
    "relative positions": ("vit_relpos_small_patch16_224", SMALL),
    "relative positions, class token": ("vit_relpos_base_patch16_cls_224", SMALL),
    "relative positions, shared": ("vit_srelpos_small_patch16_224", SMALL),
    "relative positions, norms last": ("vit_relpos_base_patch16_rpn_224", SMALL),
    "Swin": ("swin_tiny_patch4_window7_224", STAGES),
    "Swin, windows that do not fit": ("swin_tiny_patch4_window7_224", STAGES | dict(window_size=3)),
    "Swin V2": ("swinv2_tiny_window8_256", STAGES),
    "SAM": ("samvit_base_patch16_224", SMALL | dict(
        img_size=80, window_size=2, global_attn_indexes=(1,), neck_chans=16)),
    "NaFlex": ("naflexvit_base_patch16_gap", {k: v for k, v in SMALL.items() if k != "img_size"}),
}


def small_model(
    name: str,  # one of EXAMPLES
    seed=0,  # of the weights
) -> nn.Module:  # in eval mode
    "Build an example with random weights that make its heads, biases and norms differ."
    architecture, arguments = EXAMPLES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(architecture, **arguments).eval()
        with torch.no_grad():
            for p in model.parameters():
                size = p[0].numel() if p.ndim > 1 else 4
                p += (0.3 if p.ndim < 2 else 1.0) * torch.randn_like(p) / max(4, size) ** 0.5
    return model
