"The door of a model: images in its number type, on its device; and numbers wide enough for sums."
import torch


def number_type(
    model,  # any module with parameters
) -> torch.dtype:
    "Return the type of a model's weights. ValueError when they are of several."
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(types) > 1:
        names = " and ".join(sorted(str(t).removeprefix("torch.") for t in types))
        raise ValueError(f"the weights of {type(model).__name__} are {names}; make them one type, "
                         "e.g. by `model.float()`.")
    return next(iter(types), torch.float32)


def check_floats(
    images,  # a tensor
) -> None:
    "Raise ValueError for images that are no floats, so not normalised."
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise ValueError(f"images are {kind}, wanted floats normalised as the model expects them; "
                         "see `load_data`, or timm's transforms.")


def to_model(
    images,  # (B, C, H, W), floats of any width
    model,  # that is about to look at them
) -> torch.Tensor:
    "Move images to a model's device, in its number type. ValueError for what are no floats."
    check_floats(images)
    return images.to(next(model.parameters()).device, number_type(model), non_blocking=True)


def wide(
    tensor,  # of any number type
) -> torch.Tensor:
    "Return half-precision numbers as 32-bit ones, in which sums and squares can be trusted."
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor


def common_type(
    tensors: dict,  # of a file, by name
) -> torch.dtype:
    "Choose the type of weights in memory: 64 bits where all have them, else 32."
    types = {t.dtype for t in tensors.values() if t.is_floating_point()}
    return torch.float64 if types == {torch.float64} else torch.float32
