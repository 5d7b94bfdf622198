"A learngene's parts that are no tensors, as JSON and back."
import dataclasses

import torch

from .cluster import HeadCluster


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
) -> dict:  # arguments of Learngene
    "Read back what `to_json` wrote."
    clusters = [[HeadCluster(**c | dict(heads=tuple(c["heads"]))) for c in layer] for layer in values["clusters"]]
    distances = values["distances"]
    if distances is not None:
        distances = torch.tensor([[float("nan") if x is None else x for x in row] for row in distances])
    return dict(config=values["config"], clusters=clusters, ffn_groups=values["ffn_groups"],
                provenance=values["how"], distances=distances)
