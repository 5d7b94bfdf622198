"What a descendant takes from its ancestry, counted, and whether an ancestry is the one that was condensed."
from .families.cuts import PROJ_WEIGHT, is_by_head, of_layers
from .families.description import units_per_layer
from .tensor_names import is_classifier, layer_of, part_of
from .vit import fingerprint
from .vit_checks import check_vit


def count_inherited(
    learngene,  # a Learngene
    layer_plans,  # a LayerPlan for each descendant layer
    proj,  # how W^O is made: "paper", "interleaved", "aligned" or "folded"
    num_classes,  # None when the ancestry's classifier is kept
) -> int:
    "Count the distinct ancestry values in a descendant, each once however often it is copied."
    sources = {p.source for p in layer_plans}
    total = sum(_attention_values(learngene, p, proj) for p in layer_plans)
    for name, t in learngene.tensors.items():
        layer, part = layer_of(name), part_of(name)
        if layer is None:
            of_model = of_layers(name, t, [p.source for p in layer_plans])
            total += of_model.numel() * (num_classes is None or not is_classifier(name))
        elif part.startswith("mlp."):
            total += _ffn_values(learngene, layer_plans, layer, part, t.numel())
        elif layer in sources and not is_by_head(part) and part != PROJ_WEIGHT:
            total += t.numel()
    return total


def _attention_values(learngene, layer_plan, proj):
    "Count the values of heads and of W^O that one layer takes."
    source = layer_plan.source
    clusters = [learngene.clusters[source][k] for k in set(layer_plan.positions)]
    in_proportion = min(len(layer_plan.heads), learngene.config["heads"][source])
    blocks = dict(paper=in_proportion, interleaved=in_proportion, aligned=len(clusters),
                  folded=sum(c.size for c in clusters))[proj]  # heads' worth of columns of W^O
    by_head = sum(t.numel() for n, t in learngene.tensors.items() if layer_of(n) == source and is_by_head(part_of(n)))
    of_a_head = by_head // len(learngene.clusters[source])
    columns = learngene.tensors[f"blocks.{source}.{PROJ_WEIGHT}"].numel() // learngene.config["heads"][source]
    return of_a_head * len(set(layer_plan.heads)) + columns * blocks


def _ffn_values(learngene, layer_plans, layer, part, n):
    "Count the values of one FFN tensor that any descendant layer takes."
    full = units_per_layer(learngene.config)[layer]
    width = max((p.ffn_width or full for p in layer_plans if p.ffn == layer), default=0)
    return (n if width else 0) if part == "mlp.fc2.bias" else n * width // full


def check_same_ancestry(
    learngene,  # a Learngene
    ancestry,  # a vision transformer, or None
) -> None:
    """Raise ValueError unless `ancestry` is the model that was condensed.

    Its classifier may be another. Weights of another number type cannot be compared and pass; so does anything where
    the learngene's provenance names no ancestry. TypeError for what is no vision transformer.
    """
    known = learngene.provenance.get("ancestry")
    if known is None or ancestry is None:
        return
    check_vit(ancestry)
    body = {name: t for name, t in ancestry.state_dict().items() if not is_classifier(name)}
    classifier = {name: t for name, t in learngene.tensors.items() if is_classifier(name)}
    types = {t.dtype for t in [*body.values(), *learngene.tensors.values()] if t.is_floating_point()}
    if len(types) == 1 and fingerprint(body | classifier) != known:
        raise ValueError(f"the ancestry is not the model that was condensed: its weights are "
                         f"{fingerprint(body | classifier)}, those of the learngene's ancestry {known}; "
                         "give that model, or condense this one.")
