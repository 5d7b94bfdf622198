"""How far the heads of an ancestry look: measured once on its own validation images, and kept beside its weights."""
import json
from pathlib import Path

import torch
from torch.utils.data import Subset

from .ancestry import load_ancestry, shipped
from .data import load_data
from .density import mean_attention_distance
from .provenance import code_version, now, versions
from .recipe import Recipe
from .vit import fingerprint, vit_extra

DISTANCES = "distances.json"


def measure_distances(
    name: str,  # of a shipped ancestry, or a folder of a trained model whose record names its dataset
    images=1000,  # validation images, at most
) -> dict:  # distances (L, H) in pixels, and their provenance; ready to be written as JSON
    "Measure the mean attention distance (eq. 4) of every head. Errors as `load_data`."
    folder = shipped().get(name, Path(name))
    model, record = load_ancestry(name), vit_extra(folder).get("record")
    if record is None:
        raise ValueError(f"{folder} does not say which dataset its model was trained on; "
                         "measure it by `mean_attention_distance`.")
    data = load_data(Recipe.from_dict(record["meta_info"]["recipe"]).data)
    order = torch.randperm(len(data.val), generator=torch.Generator().manual_seed(0))[:images].tolist()
    distances = mean_attention_distance(model, Subset(data.val, order))
    return dict(
        ancestry=folder.name, weights=fingerprint(model), data=data.name, data_fingerprint=data.fingerprint,
        part="validation", images=len(order), image_size=data.image_size, code=code_version(), versions=versions(),
        finished=now(), distances=[[round(x, 5) for x in row] for row in distances.tolist()])


def known_distances(
    name: str,  # as in `measure_distances`
) -> dict:  # as written by `learngene distances`
    "Read an ancestry's distances. FileNotFoundError without any, ValueError for other weights."
    path = shipped().get(name, Path(name)) / DISTANCES
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; `learngene distances {name}` measures it.")
    known = json.loads(path.read_text(encoding="utf-8"))
    if known["weights"] != fingerprint(load_ancestry(name)):
        raise ValueError(f"{path} is of other weights; `learngene distances {name} --again` measures it again.")
    return known
