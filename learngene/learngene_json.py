"A learngene's parts that are no tensors, as JSON and back."
import dataclasses

import torch

from .cluster import HeadCluster
from .families.blocks import to_layers
from .families.cuts import HEAD_AXES, is_by_head, split_axis
from .files import CONFIG, TENSORS, check_types
from .folder_schema import REMEDY, check_learngene_folder
from .tensor_names import layer_of, part_of
from .vit import build_described


def to_json(
    learngene,  # a Learngene
) -> dict:  # for `save_tensors`
    "Write what a learngene holds beside its tensors as JSON-able values."
    clusters = [[dataclasses.asdict(c) for c in layer] for layer in learngene.clusters]
    distances = learngene.distances
    if distances is not None:
        distances = [[None if x != x else x for x in row] for row in distances.tolist()]  # JSON has no NaN
    return dict(config=learngene.config, clusters=clusters, ffn_groups=learngene.ffn_groups,
                how=learngene.provenance, distances=distances)  # "how" is the key of schema 1


def from_json(
    values: dict,  # from `load_tensors`
    tensors: dict,  # of the same folder
    path,  # of the folder
) -> dict:  # arguments of Learngene
    "Read back what `to_json` wrote. ValueError, with file and key, for anything else."
    check_learngene_folder(values, path / CONFIG)
    _check_tensors(values, tensors, path)
    clusters = [[HeadCluster(**c | dict(heads=tuple(c["heads"]))) for c in layer] for layer in values["clusters"]]
    distances = values["distances"]
    if distances is not None:
        distances = torch.tensor([[float("nan") if x is None else x for x in row] for row in distances])
    return dict(config=values["config"], clusters=clusters, ffn_groups=values["ffn_groups"],
                provenance=values["how"], distances=distances)


def _check_tensors(values, tensors, path):
    "Raise ValueError unless the tensors are those that architecture, clusters and groups speak of."
    wanted, clusters, heads = {}, values["clusters"], values["config"]["heads"]
    leaders = {group[0] for group in values["ffn_groups"]}
    model = build_described(values["config"], path / CONFIG)
    state = to_layers(model, model.state_dict())
    for name, t in state.items():
        layer, part, shape = layer_of(name), part_of(name), tuple(t.shape)
        if is_by_head(part):
            shape = list(split_axis(t, HEAD_AXES[part], heads[layer]).shape)
            shape[HEAD_AXES[part][0] + 1] = len(clusters[layer])
        if not part.startswith("mlp.") or layer in leaders:
            wanted[name] = tuple(shape)
    check_types(tensors, state, path / TENSORS)
    for name in sorted(wanted.keys() | tensors.keys()):
        given = tuple(tensors[name].shape) if name in tensors else "missing"
        if given != wanted.get(name, "missing"):
            raise ValueError(f"{path / TENSORS}: {name} is {given}, wanted {wanted.get(name, 'missing')} by "
                             f"{CONFIG}; {REMEDY}")
