"What a budget limits, and which options exclude one."
import warnings
from numbers import Real

import torch

from .condensing import keep_all
from .inherited import check_same_ancestry

LIMITS = ("params", "flops", "latency_ms", "memory_mb")
PRICES = ("fisher", "variance")  # in which parts are priced
KEEPS = ("all", "learngene")  # heads that a budget may keep
COUNTED = dict(params="parameters", flops="operations")  # limits that can be a share of the ancestry's


def check_limits(
    limits,  # name -> limit; those that are given
    batch_size,  # images at once
    device,  # on which latency is measured
    multiple_of=1,  # neurons
) -> None:
    "Raise ValueError without a limit, and for a limit, batch size or device that cannot be."
    if not limits:
        raise ValueError(f"a budget needs a limit; give {', '.join(LIMITS[:-1])} or {LIMITS[-1]}.")
    for name, limit in limits.items():
        if not isinstance(limit, Real) or isinstance(limit, bool) or not 0 < limit < float("inf"):
            raise ValueError(f"{name} is {limit!r}; give a finite number above 0.")
        if name in COUNTED and 1 < limit < 100:
            raise ValueError(f"{name} is {limit:g}, which is {_count_text(name, limit)}; did you mean {limit:g}e6 "
                             f"({_count_text(name, limit * 1e6)}) or {limit / 100:g} (a share of the ancestry's)?")
    for name, count in (("batch_size", batch_size), ("multiple_of", multiple_of)):
        if type(count) is not int or count < 1:
            raise ValueError(f"{name} is {count!r}; give a whole number of at least 1.")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but this machine has no GPU; give device=\"cpu\".")


def describe_limits(
    limits,  # name -> limit
    batch_size,  # images at once
    device,  # on which latency is measured
    multiple_of=1,  # neurons
    uniform=False,  # whether all layers are alike
) -> str:
    "Say in words what each limit means, with its unit."
    many = f" for {batch_size} images at once" if batch_size > 1 else ""
    texts = dict(latency_ms=f"milliseconds{many} on {device}, measured", memory_mb=f"MB (2^20 bytes){many}")
    widths = [f"FFN widths in multiples of {multiple_of}"] * (multiple_of > 1) + ["all layers alike"] * uniform
    return "; ".join([f"{name}: {_count_text(name, limit) if name in COUNTED else f'{limit:g} {texts[name]}'}"
                      for name, limit in limits.items()] + widths)


def _count_text(name, limit):
    "Format a number of parameters or operations, or a share of the ancestry's."
    if limit <= 1:
        return f"{limit:.4g} of the ancestry's {COUNTED[name]}"
    factor, unit = next(((f, u) for f, u in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if limit >= f), (1, ""))
    return f"{limit / factor:.4g}{unit} {COUNTED[name]}"


def check_multiple(
    multiple_of,  # neurons
    widths,  # of the ancestry's FFNs
) -> None:
    "Raise ValueError where a layer is narrower than one multiple."
    if multiple_of > min(widths):
        raise ValueError(f"multiple_of is {multiple_of}, but the narrowest layer has {min(widths)} neurons; "
                         f"give at most {min(widths)}.")


def heads_to_choose_from(
    learngene,  # from `condense`; None = all heads of the ancestry
    ancestry,  # the model that was condensed
    keep="all",  # one of KEEPS
):  # a Learngene
    """Return the learngene, or one of all heads where it has fewer and is not to be kept to.

    ValueError for another ancestry than the learngene's, and for FFNs that cannot be narrowed.
    """
    if learngene is not None:
        check_same_ancestry(learngene, ancestry)
        check_narrowable(learngene)
        kept, heads = sum(map(len, learngene.clusters)), sum(learngene.config["heads"])
        if keep == "learngene" or kept == heads:
            return learngene
        warnings.warn(f"the budget chooses among all {heads} heads of the ancestry, not the learngene's {kept}; "
                      "give Budget(..., keep=\"learngene\") to keep to these.", stacklevel=3)
    check_narrowable(everything := keep_all(ancestry))
    return everything


def check_narrowable(learngene) -> None:
    "Raise ValueError for a learngene whose FFNs cannot be narrowed, which a budget would do."
    if learngene.config["scale_mlp_norm"]:
        raise ValueError(f"FFNs of type {learngene.config['mlp']} with a norm over their neurons cannot be narrowed "
                         "one by one, which a budget would do; choose a shape yourself: "
                         "inherit(learngene, depth=..., heads=..., refit=images, ancestry=ancestry).")


def refuse_with_budget(
    **options,  # option = (value, default)
) -> None:
    "Raise ValueError for an option that is not at its default; the budget decides it."
    for name, (value, default) in options.items():
        if value != default:
            raise ValueError(f"{name} is {value!r}, but it is given by the budget; leave it out.")
