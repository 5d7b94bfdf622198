"Training that a method needs before its payload exists: by the engine of descendants, its cost added up."
import dataclasses
from pathlib import Path

import torch

from .batches import EpochBatches
from .recipe import Recipe, TrainSpec
from .train import fit


class Stage1:
    """Train what a method hands over, on the run's training images, and add up what it cost.

    A method whose class says `needs_training = True` gets one as the third argument of `condense`.
    """
    def __init__(
        self,
        data,  # from `load_data`, its classes in the ancestry's order
        recipe: Recipe,  # of the run: `train`, `augment` and `seed` are used
        folder=None,  # for checkpoints, one subfolder a call; None = none
        **fit_options,  # on_epoch, policy, engine, compile and deterministic, as in `fit`
    ):
        self.data, self.recipe, self.folder = data, recipe, folder
        self.fit_options = dict(on_epoch=False) | fit_options
        self.cost = dict(steps=0, images=0, seconds=0.0)  # of all calls
        self.calls = 0

    def __call__(
        self,
        model,  # a timm VisionTransformer (or a subclass); trained in place
        epochs: int | None = None,  # over the training images
        steps: int | None = None,  # or this many optimiser steps
        **settings,  # of `train` where they differ from the recipe's; epochs, drop_path and eval_every are given
    ):  # the model
        "Train without stochastic depth; validation is left to the run. ValueError as `fit`."
        if (epochs is None) == (steps is None):
            raise ValueError(f"epochs is {epochs} and steps {steps}; give one of them.")
        data, (epochs, limit) = self.data, (epochs, None) if steps is None else self._whole_epochs(steps, settings)
        if limit is not None:
            data = dataclasses.replace(data, train=self._some(limit))
        data = dataclasses.replace(data, val=dataclasses.replace(data.val, index=data.val.index[:0]))
        fixed = dict(epochs=epochs, drop_path=0.0, eval_every=1, teacher=None)
        train = dataclasses.replace(self.recipe.train, **settings | fixed)
        recipe = dataclasses.replace(self.recipe, train=train)
        self.calls += 1
        folder = self.folder and Path(self.folder) / str(self.calls)
        result = fit(model, data, recipe, folder, **self.fit_options)
        pairs = bool(recipe.augment.mixup or recipe.augment.cutmix)
        batches = EpochBatches(len(data.train), train.batch_size, recipe.seed, 0, result.processes, pairs)
        self.cost["steps"] += result.images // batches.batch_size
        self.cost["images"] += result.images
        self.cost["seconds"] = round(self.cost["seconds"] + result.seconds, 3)
        return model

    def _whole_epochs(self, steps, settings):
        "Count the epochs that hold so many steps, and an epoch's images where one is too many."
        size = settings.get("batch_size", self.recipe.train.batch_size)
        per_epoch = max(1, len(self.data.train) // size)
        return (1, steps * size) if steps < per_epoch else (-(-steps // per_epoch), None)

    def _some(self, n):
        "Cut the training images to n, the same for every run with these splits."
        order = torch.randperm(len(self.data.train), generator=torch.Generator().manual_seed(0))[:n]
        return dataclasses.replace(self.data.train, index=self.data.train.index[order.sort().values.numpy()])


def check_settings(
    settings: dict,  # what a method's option `train` holds
) -> None:
    "Raise ValueError for what is no setting of `train`, or is given elsewhere."
    given = {"epochs", "drop_path", "eval_every"} & set(settings)
    if given:
        raise ValueError(f"train states {', '.join(sorted(given))}, which stage 1 gives itself; leave it out "
                         "(the option `epochs` says how long it trains).")
    try:
        TrainSpec(**settings)
    except ValueError as error:
        raise ValueError(f"train: {error}") from None
