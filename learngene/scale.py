"What it would take to settle the paper's claims at the paper's scale: runs, operations and hours of a GPU."
from functools import cache

import timm
import torch

from .dataset_sizes import dataset_name, stated_sizes
from .recipe import Sweep
from .vit import vit_config

IMAGENET_IMAGES = 1_281_167  # training images of ImageNet-1k (ILSVRC 2012)
SUSTAINED = 3e14  # operations a second of an H100 in bf16 training: an assumption, about a third of its peak


@cache
def _anatomy(ancestry):
    "Width, heads of each layer, head_dim, FFN width and tokens of a model of timm, from its name alone."
    with torch.device("meta"):
        model = timm.create_model(ancestry.partition(".")[0], pretrained=False)
    block, tokens = model.blocks[0], model.pos_embed.shape[1]
    return model.embed_dim, vit_config(model)["heads"], block.attn.head_dim, block.mlp.fc1.out_features, tokens


def training_operations(
    recipe,  # a Recipe whose ancestry is a plain vision transformer of timm
    images: int,  # training images of its dataset
) -> float:
    """Count the operations of a run's training.

    Three forward passes per image, and two operations per multiplication. A layer of h heads
    takes N (4 D h d + 2 D F) + 2 N^2 h d multiplications: tokens N, stream D, head_dim d, FFN F.
    """
    width, heads, head_dim, ffn, tokens = _anatomy(recipe.ancestry)
    asked = recipe.shape.heads or heads[0]
    depth = recipe.shape.depth or len(heads)
    each = asked if isinstance(asked, (list, tuple)) else [asked] * depth
    products = sum(tokens * (4 * width * h * head_dim + 2 * width * ffn) + 2 * tokens**2 * h * head_dim for h in each)
    return 6.0 * products * images * recipe.data.fraction * (1 - recipe.data.val_fraction) * recipe.train.epochs


def cost_at_scale(
    sweep: str,  # of profile `paper`, as its file is called
) -> dict:  # runs, operations and hours, or {} where the profile lacks it
    "Add up what a table costs at the paper's scale: all runs, and hours of one H100."
    try:
        recipes = [recipe for _, recipe in Sweep.load(f"paper/{sweep}").cells()]
    except FileNotFoundError:
        return {}
    images = stated_sizes()["training images"].to_dict() | dict(imagenet=IMAGENET_IMAGES)
    operations = sum(training_operations(recipe, images[dataset_name(recipe.data.name)]) for recipe in recipes)
    return dict(runs=len(recipes), operations=operations, hours=operations / SUSTAINED / 3600)


@cache
def describe_cost(
    sweep: str,  # of profile `paper`
) -> str:
    "Say what would have to be run to settle a table at the paper's scale."
    cost = cost_at_scale(sweep)
    if not cost:
        return "no recipe"
    hours = float(f"{cost['hours']:.2g}")
    return f"{cost['runs']} runs of paper/{sweep}, about {hours:,.0f} hours of an H100"
