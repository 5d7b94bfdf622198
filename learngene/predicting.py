"Class names and probabilities for photos, in whatever form they come."
import html
from dataclasses import dataclass
from pathlib import Path

import torch

from .inputs import open_pictures, prepare_pictures
from .model_notes import class_names
from .progress import track
from .vit import eval_mode
from .vit_checks import check_vit


@dataclass(repr=False)
class Prediction:
    "The most probable classes of one image; iterating gives (name, probability) pairs."
    names: list  # of the classes, the most probable first
    probabilities: list  # 0 to 1
    classes: list  # their numbers, from 0
    source: str | None = None  # the file, where it came from one

    @property
    def label(self):
        "The most probable class."
        return self.names[0]

    @property
    def probability(self):
        "Its probability, 0 to 1."
        return self.probabilities[0]

    def __iter__(self):
        return iter(zip(self.names, self.probabilities))

    def __len__(self):
        return len(self.names)

    def __repr__(self):
        classes = ", ".join(f"{name} {probability:.1%}" for name, probability in self)
        return f"{self.source}: {classes}" if self.source else classes

    def _repr_html_(self):
        rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{p:.1%}</td></tr>" for name, p in self)
        title = f"<caption>{html.escape(self.source)}</caption>" if self.source else ""
        return f"<table>{title}{rows}</table>"


def predict(
    model,  # a classifier: a model, or the name or folder of one
    images,  # a file, PIL image, array or tensor; or a list, folder or dataset of them
    top=5,  # classes to name
    batch_size=32,  # images a pass
):  # a Prediction; for several images a list of them
    """Name what is in photos, with probabilities.

    Photos are prepared as the model's notes say. ValueError for a model without a classifier, and for what is no
    image; FileNotFoundError for an absent file.
    """
    if isinstance(model, (str, Path)):
        from .ancestry import load_ancestry

        model = load_ancestry(model)
    check_vit(getattr(model, "_orig_mod", model))  # torch.compile wraps the model
    if not getattr(model, "num_classes", 0):
        raise ValueError("the model has no classifier, so it cannot name classes; train one: "
                         "shrink or inherit with num_classes=..., then fit.")
    if type(top) is not int or top < 1:
        raise ValueError(f"top is {top!r}; give a whole number of at least 1.")
    pictures, _ = open_pictures(images, model)
    pictures = getattr(pictures, "dataset", pictures)  # of a DataLoader
    single = _is_single(images, pictures)
    names = class_names(model) or [f"class {i}" for i in range(model.num_classes)]
    predictions = []
    with eval_mode(model), torch.inference_mode():
        for start in track(range(0, len(pictures), batch_size), "predicting"):
            indices = range(start, min(start + batch_size, len(pictures)))
            x = prepare_pictures(pictures, indices, model, "reading images").to(next(model.parameters()))
            best = model(x).float().softmax(1).topk(min(top, model.num_classes))
            for i, probabilities, classes in zip(indices, best.values.tolist(), best.indices.tolist()):
                named = [names[c] for c in classes]
                predictions.append(Prediction(named, probabilities, classes, _file(pictures, i)))
    return predictions[0] if single else predictions


def _is_single(images, pictures):
    "Whether one image was given, not a list of one."
    if isinstance(images, (str, Path)):
        return Path(images).expanduser().is_file()
    if isinstance(images, torch.Tensor):
        return images.ndim == 3
    return isinstance(pictures, list) and pictures is not images


def _file(pictures, i):
    "Return the path of one picture; None where it is no file."
    return str(pictures[i]) if isinstance(pictures, list) and isinstance(pictures[i], (str, Path)) else None
