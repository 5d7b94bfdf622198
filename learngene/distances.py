"""What the heads of an ancestry do, measured once on its own validation images, and kept beside its weights.

How far they look (eq. 4), and which of them can stand for each other.
"""
import json
from pathlib import Path

import torch
from torch.utils.data import Subset

from .anatomy import blocks_of
from .ancestry import load_ancestry, shipped
from .cluster import cluster_heads
from .condense_options import in_pixels
from .data import load_data
from .density import mean_attention_distance
from .head_pairs import head_cka, output_covariances, rank_choice, stand_in_errors
from .provenance import code_version, now, versions
from .recipe import Recipe
from .vit import fingerprint, vit_extra

DISTANCES, PAIRS = "distances.json", "head_pairs.json"
SHARES = ("4%", "8%", "16%")  # values of Eps whose centroids are ranked among all choices of as many heads


def measure_distances(
    name: str,  # of a shipped ancestry, or a folder of a trained model whose record names its dataset
    images=1000,  # validation images, at most
) -> dict:  # distances (L, H) in pixels, and their provenance; ready to be written as JSON
    "Measure the mean attention distance (eq. 4) of every head. Errors as `load_data`."
    model, calibration, origin = _with_images(name, images)
    return origin | dict(distances=_rounded(mean_attention_distance(model, calibration)))


def measure_pairs(
    name: str,  # as in `measure_distances`
    images=1000,  # validation images, at most
) -> dict:  # for each layer distances, cka, stand_in and choices, and their provenance; ready to be written as JSON
    """Measure which heads can stand for each other, layer by layer. Errors as `load_data`.

    `choices` ranks the centroids of some values of Eps among all choices of as many heads, as `rank_choice`.
    """
    model, calibration, origin = _with_images(name, images)
    distances, layers = mean_attention_distance(model, calibration), []
    for block, covariance, d in zip(blocks_of(model), output_covariances(model, calibration), distances):
        n, W = block.attn.num_heads, block.attn.proj.weight.detach()
        kept = {share: [c.centroid for c in cluster_heads(d[:n], in_pixels(share, distances))] for share in SHARES}
        layers.append(dict(
            distances=_rounded(d[:n]), cka=_rounded(head_cka(covariance, n)),
            stand_in=_rounded(stand_in_errors(covariance, W, n)),
            choices={share: dict(kept=heads) | rank_choice(covariance, W, n, heads) for share, heads in kept.items()}))
    return origin | dict(layers=layers)


def known_distances(
    name: str,  # as in `measure_distances`
) -> dict:  # as written by `learngene distances`
    "Read an ancestry's distances. FileNotFoundError without any, ValueError for other weights."
    return _read_kept(name, DISTANCES, f"learngene distances {name}")


def known_pairs(
    name: str,  # as in `measure_distances`
) -> dict:  # as written by `learngene distances --pairs`
    "Read which heads of an ancestry can stand for each other. Errors as `known_distances`."
    return _read_kept(name, PAIRS, f"learngene distances {name} --pairs")


def _with_images(name, images):
    "Load an ancestry and validation images of the dataset that it was trained on, and say where both come from."
    folder = shipped().get(name, Path(name))
    model, record = load_ancestry(name), vit_extra(folder).get("record")
    if record is None:
        raise ValueError(f"{folder} does not say which dataset its model was trained on; "
                         "measure it by `mean_attention_distance`.")
    data = load_data(Recipe.from_dict(record["meta_info"]["recipe"]).data)
    order = torch.randperm(len(data.val), generator=torch.Generator().manual_seed(0))[:images].tolist()
    return model, Subset(data.val, order), dict(
        ancestry=folder.name, weights=fingerprint(model), data=data.name, data_fingerprint=data.fingerprint,
        part="validation", images=len(order), image_size=data.image_size, code=code_version(), versions=versions(),
        finished=now())


def _rounded(values):
    return [round(x, 5) for x in values.tolist()] if values.ndim == 1 else list(map(_rounded, values))


def _read_kept(name, file, command):
    path = shipped().get(name, Path(name)) / file
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; `{command}` measures it.")
    known = json.loads(path.read_text(encoding="utf-8"))
    if known["weights"] != fingerprint(load_ancestry(name)):
        raise ValueError(f"{path} is of other weights; `{command} --again` measures it again.")
    return known
