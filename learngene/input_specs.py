"Images as a model takes them: a DataSpec with the model's size, channels and normalisation."
import dataclasses
import warnings

from .model_notes import input_config
from .recipe import DataSpec


def spec_for(
    model,  # a vision transformer of timm
    name: DataSpec | str,  # of the dataset; of a DataSpec, size and normalisation are replaced
    **options,  # other fields of DataSpec
) -> DataSpec:
    "State a dataset as a model takes it. ValueError for images that are not square."
    config = input_config(model)
    channels, height, width = config["input_size"]
    if height != width:
        raise ValueError(f"the model takes images of {height} x {width} pixels, and datasets by name are square; "
                         "give a PyTorch Dataset with transforms of your own.")
    if channels not in (1, 3):
        raise ValueError(f"the model takes {channels} channels, and datasets by name have 1 or 3; "
                         "give a PyTorch Dataset with transforms of your own.")
    spec = dataclasses.replace(name, **options) if isinstance(name, DataSpec) else DataSpec(name, **options)
    return dataclasses.replace(spec, image_size=height, channels=channels, crop_pct=config["crop_pct"],
                               mean=list(config["mean"]), std=list(config["std"]))


def warn_of_size(
    name: str,  # of a dataset
) -> None:
    "Warn the caller of `load_data` that a name alone stands for images of 8 pixels."
    if name != "digits":
        size = DataSpec(name).image_size
        warnings.warn(f"the images of {name} are loaded at {size} x {size} pixels, since nothing says for which model; "
                      f"give load_data({name!r}, for_model=model), or load_data(DataSpec({name!r}, image_size=...)).",
                      stacklevel=3)
