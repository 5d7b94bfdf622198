"""What models cost: the steps and seconds of a run, and the number of models from which an ancestry pays."""
import math

import numpy as np
import pandas as pd

from .ancestry import shipped
from .captions import steps_of
from .tables import epochs_to, to_curves
from .vit import vit_extra


def run_cost(record) -> dict:
    """Return what one run cost: epochs, steps and seconds.

    steps: optimiser steps; core_seconds: of training, seconds of the device on a GPU;
    condense_seconds and expand_seconds: of making the learngene, and of building the descendant.
    """
    train, meta, info = record["train_info"], record["meta_info"], record["run_info"]
    cores = info.get("threads", 1) * info.get("processes", 1) if info["device"] == "cpu" else 1
    return dict(
        epochs=meta["recipe"]["train"]["epochs"],
        steps=steps_of(record),
        core_seconds=train["seconds"] * cores,
        condense_seconds=meta.get("condense_seconds") or 0.0,
        expand_seconds=meta.get("expand_seconds") or 0.0,
    )


def ancestry_cost(name: str) -> dict | None:
    "Return `run_cost` of an ancestry that comes with the library; None for any other."
    return run_cost(vit_extra(shipped()[name])["record"]) if name in shipped() else None


def break_even(
    once: float,  # paid once: the ancestry and its learngene
    each: float,  # paid for each model that starts from it
    other: float,  # paid for each model without it, in the same unit
) -> int | None:
    "Return the fewest models n with once + n * each <= n * other; None if there is no such n."
    saved = other - each
    return max(1, math.ceil(once / saved - 1e-9)) if saved > 0 else None


def cost_of_equal_accuracy(
    cells,  # (labels, recipe) pairs with labels `method` and `images`, from `Sweep.cells`
    records,  # their records, in the same order, all with validation images
    ancestry_seconds,  # core-seconds that the ancestry took
    reference="from-scratch",  # the method whose last accuracy is to be reached
    starts=("pretraining-finetuning", "cluster-learngene"),  # the methods that start from the ancestry
) -> pd.DataFrame:
    """Compare costs at the validation accuracy that the reference ends with.

    One row for each dataset and start, with these columns:
    target, end: the accuracy compared at, and the one that the start itself ends with.
    epochs, reference_epochs: the first at which the mean over seeds reaches the target (NaN: never).
    once, each, reference_each: core-seconds of ancestry and condensing, of one model, of one model of the reference.
    break_even: the fewest models that pay for what is spent once (NaN: no number of them).
    An epoch's seconds are those of the fastest run on that dataset: the models are equally large, and slower runs
    shared their machine.
    """
    curves, rows = to_curves(cells, records), []
    costs = pd.DataFrame([labels | run_cost(record) for (labels, _), record in zip(cells, records, strict=True)])
    for images, part in curves.groupby("images", sort=False):
        target, spent = _last(part)[reference], costs[costs.images == images]
        rate = (spent.core_seconds / spent.epochs).min()
        for start in (method for method in starts if method in set(part.method)):
            epochs, reference_epochs = (epochs_to(part, method, target) for method in (start, reference))
            built = spent[spent.method == start][["condense_seconds", "expand_seconds"]].median()
            once, other = ancestry_seconds + built.condense_seconds, rate * reference_epochs
            each = math.nan if epochs is None else rate * epochs + built.expand_seconds
            rows.append(dict(images=images, start=start, target=target, end=_last(part)[start],
                             reference_epochs=reference_epochs, epochs=epochs, once=once, each=each,
                             reference_each=other, break_even=break_even(once, each, other)))
    return pd.DataFrame(rows).astype(dict(epochs=float, break_even=float))


def _last(curves):
    "Mean accuracy of each method after the last epoch."
    return curves[curves.epoch == curves.epoch.max()].groupby("method").accuracy.mean()


def gain_at_equal_size(
    points,  # one row a model: kind, accuracy, and the column `size`
    kind: str,  # the kind whose line is read
    other: str,  # the kind it is compared with
    size: str,  # a column: parameters, operations or milliseconds
) -> pd.Series:  # by index of the other kind's points that lie in range, in units of `accuracy`
    """Return how much better one kind of model is at the size of each point of another.

    Its accuracy there is interpolated between its own points; points further than 2 % outside their range are left out.
    """
    line, others = points[points.kind == kind].sort_values(size), points[points.kind == other]
    inside = others[others[size].between(0.98 * line[size].min(), 1.02 * line[size].max())]
    return np.interp(inside[size], line[size], line.accuracy) - inside.accuracy
