"""Notes that travel with a model: how images are prepared for it, its classes, its origin, its report.

The first two are timm's `pretrained_cfg`, so that timm's own tools read them. The origin is a dict: `name`, `licence`,
`url` of the trained model whose weights these are. The report is that of `learngene.shrink`. As long as a descendant is
in memory it also knows its ancestry, the images it was made with, and which ancestry layer each of its layers is of.
"""
import warnings
import weakref

import timm

from .anatomy import image_shape

PREPARED = ("interpolation", "crop_pct", "crop_mode", "mean", "std")  # how images are prepared
NAMES = ("label_names", "label_descriptions")  # of the classes
SOURCE = ("architecture", "tag", "license", "origin_url", "paper_name", "paper_ids")  # what timm knows of the weights


def read_notes(
    model,  # any module
) -> dict:  # pretrained_cfg and origin, each where something is known; JSON-able
    "Read what is noted of a model beside its architecture."
    noted, origin = getattr(model, "pretrained_cfg", None), getattr(model, "origin", None)
    noted = noted if isinstance(noted, dict) else {}
    noted = {name: _plain(noted[name]) for name in PREPARED + NAMES + SOURCE if noted.get(name) is not None}
    if "label_names" in noted and len(noted["label_names"]) != getattr(model, "num_classes", None):
        noted = {name: value for name, value in noted.items() if name not in NAMES}
    return (dict(pretrained_cfg=noted) if noted else {}) | (dict(origin=origin) if origin else {})


def write_notes(
    model,  # changed in place
    notes: dict,  # from `read_notes`; other entries are ignored
    input_size,  # (channels, height, width) that the model takes
) -> None:
    "Note on a model what `read_notes` read, and the input size, where timm looks for them."
    noted = {name: tuple(v) if isinstance(v, list) else v for name, v in notes.get("pretrained_cfg", {}).items()}
    if len(noted.get("label_names", ())) != model.num_classes:
        noted = {name: value for name, value in noted.items() if name not in NAMES}
    model.pretrained_cfg = noted | dict(input_size=tuple(input_size), num_classes=model.num_classes)
    if notes.get("origin"):
        model.origin = notes["origin"]
    model._model_args = OwnArchitecture(getattr(model, "_model_args", {}))


class OwnArchitecture:
    "Arguments of an architecture that timm cannot write down, since heads may be cut."

    def __init__(self, args):
        self.args = dict(args)

    def keys(self):
        "List the arguments' names."
        return self.args.keys()

    def __getitem__(self, name):
        return self.args[name]

    def items(self):
        "Raise TypeError where timm's `save_for_hf` asks."
        raise TypeError("timm's save_for_hf writes an architecture's name, and this model's heads and FFN widths are "
                        "its own; save it with learngene.save_descendant(model, FOLDER).")


def _plain(value):
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def reports_of(
    model,  # any module
) -> dict:  # JSON-able
    "Collect what a saved model keeps beside its weights: its report, where it has one."
    report = getattr(model, "report", None)
    return dict(report=report.to_dict()) if hasattr(report, "to_dict") else {}


def attach_reports(
    model,  # changed in place
    kept: dict,  # what was saved beside the weights
    file,  # where it was saved
) -> None:
    "Put back what `reports_of` collected. ValueError, with the file, when it is none."
    if "report" in kept:
        from .shrink_report import ShrinkReport

        try:
            model.report = ShrinkReport.from_dict(kept["report"])
            repr(model.report)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
            raise ValueError(f"{file}: extra.report is no report of `shrink` ({type(e).__name__}: {e}); "
                             "fetch or save the folder again.") from None


def note_origin(
    model,  # an ancestry, changed in place
    name: str,  # as it was loaded
) -> None:
    "Note where trained weights come from, unless it is noted already."
    if getattr(model, "origin", None):
        return
    noted = getattr(model, "pretrained_cfg", None) or {}
    url = noted.get("origin_url") or (f"https://huggingface.co/{noted['hf_hub_id']}" if _on_hub(noted) else None)
    known = dict(name=name, licence=noted.get("license"), url=url)
    model.origin = {key: value for key, value in known.items() if value}


def _on_hub(noted):
    return "/" in str(noted.get("hf_hub_id") or "").rstrip("/")


def input_config(
    model,  # a vision transformer of timm
) -> dict:  # input_size, mean, std, interpolation, crop_pct, crop_mode, as timm's `create_transform` takes them
    """Say how images are prepared for a model: as timm does, at this model's size.

    Warns where nothing is noted for an unusual number of channels and ImageNet's numbers are averaged.
    """
    config = timm.data.resolve_model_data_config(model) | dict(input_size=image_shape(model))
    channels = config["input_size"][0]
    for name in ("mean", "std"):
        numbers = tuple(config[name])
        if len(numbers) != channels:
            if len(numbers) != 1:
                warnings.warn(f"no {name} is noted for a model of {channels} channel{'s' * (channels > 1)}; the mean "
                              f"of ImageNet's three is used. Set model.pretrained_cfg['{name}'].", stacklevel=3)
            numbers = (sum(numbers) / len(numbers),) * channels
        config[name] = numbers
    return config


def class_names(
    model,  # any classifier
) -> list | None:  # None where none are known, or the model has no classifier
    "List the names of a model's classes: those noted, else ImageNet's."
    noted = getattr(model, "pretrained_cfg", None) or {}
    names, classes = noted.get("label_names"), getattr(model, "num_classes", 0)
    if names and len(names) == classes:
        described = noted.get("label_descriptions") or {}
        return [str(described.get(name, name)) for name in names]
    if classes and noted.get("num_classes") == classes and noted.get("tag") and "label_names" not in noted:
        if subset := timm.data.infer_imagenet_subset(model):
            info = timm.data.ImageNetInfo(subset)
            return [info.index_to_description(i) for i in range(info.num_classes())]
    return None


def note_classes(
    model,  # a classifier, changed in place
    names,  # of its classes, in order; None = forget the names it has
) -> None:
    "Note the names of a model's classes. ValueError for another number of names."
    noted = {k: v for k, v in (getattr(model, "pretrained_cfg", None) or {}).items() if k not in NAMES}
    if names is None:
        noted.pop("tag", None)  # with it, ImageNet's names would be taken
    elif len(names) != model.num_classes:
        raise ValueError(f"{len(names)} class names for a classifier of {model.num_classes}; give one per class.")
    model.pretrained_cfg = noted | ({} if names is None else dict(label_names=tuple(map(str, names))))


def note_training(
    model,  # trained on `data`, changed in place
    data,  # from `load_data`
) -> None:
    "Note what a model was trained on: how its images were prepared, and its classes."
    channels, size = data.in_chans, data.image_size
    noted = dict(getattr(model, "pretrained_cfg", None) or {}) | dict(
        mean=tuple(data.mean), std=tuple(data.std), interpolation="bicubic", input_size=(channels, size, size),
        num_classes=model.num_classes, crop_pct=getattr(data, "crop_pct", 1.0))
    model.pretrained_cfg = noted
    note_classes(model, data.classes if len(data.classes) == model.num_classes else None)


def note_layers(
    model,  # a descendant, changed in place
    layers,  # ancestry layer of each of its layers, from 0
) -> None:
    "Note which ancestry layers a descendant has."
    model.ancestry_layers = list(layers)


def noted_layers(
    model,  # a descendant
) -> list | None:  # from 0; None where nothing is noted
    "List the ancestry layer of each layer of a descendant, from its report or as it was built."
    report = getattr(model, "report", None)
    return [layer["source"] for layer in report.layers] if report else getattr(model, "ancestry_layers", None)


class Sources:
    """What a descendant in memory was made of: an ancestry and images.

    Copies of the descendant share it; files do not hold it.
    """

    def __init__(self, ancestry=None, images=None):
        self.ancestry, self.images = None if ancestry is None else weakref.ref(ancestry), images

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return Sources, ()

    @classmethod
    def of(cls, model):
        "Return what is noted on a model, which may be nothing."
        return getattr(model, "made_of", None) or cls()
