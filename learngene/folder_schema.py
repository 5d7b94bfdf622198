"What the JSON of a saved model may hold, checked before anything is built from it."
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from .files import shorten
from .validation import PlainMapping, validate

REMEDY = "fetch or save the folder again."
Size = Annotated[StrictInt, Field(ge=1, le=2**20)]
Whole = Annotated[StrictInt, Field(ge=0, le=2**20)]
Indices = Annotated[list[Whole], Field(strict=True, max_length=1000)]
Layers = Annotated[list[Size], Field(strict=True, min_length=1, max_length=1000)]
Pair = Annotated[list[Size], Field(strict=True, min_length=2, max_length=2)]
Finite = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


class PretrainedCfg(BaseModel):
    "How images are prepared, and the classes; timm's `pretrained_cfg`."
    model_config = ConfigDict(extra="allow")
    mean: list[Finite] | None = None
    std: list[Positive] | None = None
    crop_pct: Positive | None = None
    interpolation: StrictStr | None = None
    crop_mode: StrictStr | None = None
    label_names: list[StrictStr] | None = None
    label_descriptions: dict | None = None


class Architecture(BaseModel):
    "What `vit_config` says of a model of any family."
    model_config = ConfigDict(extra="forbid")
    img_size: Pair
    in_chans: Size
    num_classes: Whole
    heads: Layers
    ffn_width: Layers
    mlp: StrictStr
    scale_mlp_norm: StrictBool
    pretrained_cfg: PretrainedCfg | None = None
    origin: PlainMapping | None = None


class VitConfig(Architecture):
    "The architecture of a plain vision transformer."
    model: StrictStr
    patch_size: Pair
    global_pool: StrictStr
    embed_dim: Size
    head_dim: Size
    qkv_bias: StrictBool
    qk_norm: StrictBool
    proj_bias: StrictBool
    layer_scale: StrictBool
    class_token: StrictBool
    pos_embed: StrictStr
    no_embed_class: StrictBool
    reg_tokens: Whole
    pre_norm: StrictBool
    final_norm: StrictBool
    fc_norm: StrictBool
    pool_include_prefix: StrictBool
    pool_heads: Size | None
    dynamic_img_size: StrictBool
    norm: tuple[StrictStr, Positive]  # class and eps
    act: StrictStr
    block: StrictStr
    gate_last: StrictBool | None
    dynamic_img_pad: StrictBool = False
    pool_ffn_width: Size | None = None


class FamilyConfig(Architecture):
    "An architecture of timm's and its cuts, as other families are described."
    family: StrictStr
    architecture: StrictStr
    args: PlainMapping  # what timm is told beside the name
    layers: Indices  # of the architecture that stay
    stages: Indices  # of each layer
    shared_heads: list[Indices] | None
    head_dim: Layers
    embed_dim: Layers


class VitFolder(BaseModel):
    "The JSON of a folder of `save_vit`."
    config: VitConfig
    extra: Annotated[dict, Field(strict=True)]  # what was kept beside the weights


class FamilyFolder(VitFolder):
    "The same of another family."
    config: FamilyConfig


class Cluster(BaseModel):
    "A HeadCluster."
    model_config = ConfigDict(extra="forbid")
    heads: Annotated[list[Whole], Field(strict=True, min_length=1)]
    centroid: Whole
    mean: Finite


class LearngeneFolder(BaseModel):
    "The JSON of a learngene's folder."
    config: VitConfig
    clusters: list[Annotated[list[Cluster], Field(min_length=1)]]  # of each layer
    ffn_groups: list[Annotated[list[Whole], Field(min_length=1)]]
    how: Annotated[dict, Field(strict=True)]
    distances: list[list[Finite | None]] | None


class FamilyLearngeneFolder(LearngeneFolder):
    "The same of another family."
    config: FamilyConfig


def check_vit_folder(
    values: dict,  # of config.json
    file,  # how an error calls it
) -> None:
    "Raise ValueError, with file, key and remedy, unless this describes a vision transformer."
    _validate(FamilyFolder if _is_family(values) else VitFolder, values, file)
    config = values["config"]
    for name in ("ffn_width", "layers", "stages", "head_dim", "embed_dim", "shared_heads"):
        if isinstance(config.get(name), list) and len(config[name]) != len(config["heads"]):
            raise ValueError(f"{file}: config.heads is of {len(config['heads'])} layers, config.{name} of "
                             f"{len(config[name])}; {REMEDY}")
    _check_sizes(config.get("args"), f"{file}: config.args")


def check_learngene_folder(
    values: dict,  # of config.json
    file,  # how an error calls it
) -> None:
    "Raise ValueError, with file, key and remedy, unless this describes a learngene."
    _validate(FamilyLearngeneFolder if _is_family(values) else LearngeneFolder, values, file)
    check_vit_folder(dict(config=values["config"], extra={}), file)
    heads = values["config"]["heads"]
    for name in ("clusters", "distances"):
        if values[name] is not None and len(values[name]) != len(heads):
            raise ValueError(f"{file}: {name} is of {len(values[name])} layers, config.heads of {len(heads)}; {REMEDY}")
    for layer, (clusters, n_heads) in enumerate(zip(values["clusters"], heads)):
        _check_clusters(clusters, n_heads, f"{file}: clusters[{layer}]")
    layers = [layer for group in values["ffn_groups"] for layer in group]
    if sorted(layers) != list(range(len(heads))):
        odd = next((layer for layer in layers if layers.count(layer) > 1 or layer >= len(heads)), None)
        problem = f"misses layer {min(set(range(len(heads))) - set(layers))}" if odd is None else (
            f"names layer {odd} twice" if odd < len(heads) else f"names layer {odd}")
        raise ValueError(f"{file}: ffn_groups {problem}, and must hold each layer from 0 to {len(heads) - 1} once; "
                         f"{REMEDY}")
    for layer, row in enumerate(values["distances"] or []):
        if len(row) != max(heads):
            raise ValueError(f"{file}: distances[{layer}] has {len(row)} numbers for {max(heads)} heads; {REMEDY}")


def _check_clusters(clusters, n_heads, place):
    "Raise ValueError unless the clusters of a layer hold its heads at most once, each its own centroid."
    seen = set()
    for i, cluster in enumerate(clusters):
        for head in cluster["heads"]:
            if head >= n_heads or head in seen:
                problem = f"{head}, which an earlier place holds" if head in seen else f"{head} of {n_heads}"
                raise ValueError(f"{place}[{i}].heads holds head {problem} (from 0); {REMEDY}")
            seen.add(head)
        if cluster["centroid"] not in cluster["heads"]:
            raise ValueError(f"{place}[{i}].centroid is {cluster['centroid']}, not one of its heads "
                             f"{shorten(cluster['heads'])}; {REMEDY}")


def _validate(model, values, file):
    "Validate with a remedy."
    try:
        validate(model, values, file)
    except ValueError as error:
        raise ValueError(f"{str(error).removesuffix('.')}; {REMEDY}") from None


class HubFolder(BaseModel):
    "The JSON of a folder of timm's, as on the hub."
    model_config = ConfigDict(extra="allow")
    architecture: StrictStr
    num_classes: Whole | None = None
    model_args: PlainMapping | None = None
    pretrained_cfg: PretrainedCfg | None = None
    class_to_idx: dict[StrictStr, Whole] | None = None


def check_hub_folder(
    values: dict,  # of config.json
    file,  # how an error calls it
) -> None:
    "Raise ValueError, with file, key and remedy, unless this can describe a model of timm's."
    _validate(HubFolder, values, file)
    _check_sizes(values.get("model_args"), f"{file}: model_args")


def _is_family(values):
    return isinstance(values.get("config"), dict) and "family" in values["config"]


def _check_sizes(arguments, place):
    "Raise ValueError for an argument of timm's that is larger than any model's."
    for name, value in (arguments or {}).items():
        numbers = [value] if isinstance(value, (int, float)) else value if isinstance(value, list) else []
        if any(isinstance(n, (int, float)) and abs(n) > 2**20 for n in numbers) or name == "depth" and numbers and (
                numbers[0] > 1000):
            raise ValueError(f"{place}.{name} is {shorten(value)}, more than any model has; {REMEDY}")
