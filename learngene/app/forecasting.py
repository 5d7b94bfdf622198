"""How long the runs of the queue will take, by the records of runs on this kind of device."""
import dataclasses
import json
import statistics
from functools import cache
from pathlib import Path

from ..checkpoints import checkpoint_paths
from ..data import count_training_images
from ..ledger import read_record
from ..processes import device_name
from ..recipe import Recipe
from .queue import jobs_left


def current_device() -> str:
    "Name the device that runs would use, as records do."
    import torch

    return device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


class KnownSpeeds:
    "What records of one kind of device tell about the time of runs."

    def __init__(
        self,
        records,  # of runs, on any device
        device: str,  # from `current_device`
    ):
        self.seconds, self.speeds, self.images = {}, {}, {}  # by key, by work of an image, by images used
        for record in records:
            run_info, train_info, meta_info = (record[part] for part in ("run_info", "train_info", "meta_info"))
            if run_info.get("device", device) != device:
                continue
            self.seconds.setdefault(run_info["key"], train_info.get("seconds"))
            recipe = meta_info.get("recipe")
            if train_info.get("images_per_second"):
                self.speeds.setdefault(_work_per_image(recipe), []).append(train_info["images_per_second"])
            if images := (meta_info.get("data_sizes") or {}).get("train"):
                self.images.setdefault(_images_used(recipe or {}), images)

    def estimate(
        self,
        recipe: Recipe,
    ):  # seconds of training, or None when no record tells
        "Estimate from the same run, else from runs of the same architecture."
        if recipe.train.epochs == 0:
            return 0.0
        if recipe.key in self.seconds:
            return self.seconds[recipe.key]
        settings = recipe.to_dict()
        speeds = self.speeds.get(_work_per_image(settings))
        images = speeds and (self.images.get(_images_used(settings)) or _count_images(recipe.data))
        if not images:
            return None
        batch = min(recipe.train.batch_size, images)
        return recipe.train.epochs * (images // batch) * batch / statistics.median(speeds)


def _work_per_image(recipe):
    "Return what the time of a training image depends on, from a recipe as a dict."
    if not recipe:
        return None
    shape, data, augment, train = (recipe.get(part) or {} for part in ("shape", "data", "augment", "train"))
    settings = [shape.get("depth"), shape.get("heads"), data.get("image_size"), augment.get("rand_augment"),
                train.get("precision"), train.get("workers")]
    return str([recipe.get("ancestry"), recipe.get("model"), settings])


def _images_used(recipe):
    "Name the images of a recipe, given as a dict, in text that can be compared."
    return json.dumps(recipe.get("data"), sort_keys=True)


@cache
def _count_images(spec):
    "Count the images of an epoch; None when the images are not here."
    try:
        return count_training_images(dataclasses.replace(spec, download=False))
    except (OSError, ValueError, ImportError):
        return None


def _share_done(job, home):
    "Return the share of a run that its newest checkpoint has done."
    folders = (Path(home) / "checkpoints").glob(f"{job.recipe.key}-*")
    epochs = [int(path.stem.split("-")[1]) for folder in folders for path in checkpoint_paths(folder)]
    return max(epochs, default=0) / max(1, job.recipe.train.epochs)


def forecast(
    jobs,  # from `plan_jobs`
    ledger,  # records here need no run
    ledgers,  # all Ledgers whose records tell speeds
    home,  # folder with ancestries and checkpoints
    workers: int,  # runs side by side
) -> list:  # lines
    "Say what has a record, what would run, in the queue's order, and how long it would take."
    device = current_device()
    speeds = KnownSpeeds((record for known in ledgers for record in _all_records(known)), device)
    keys_left = {job.recipe.key for job in jobs_left(jobs, ledger, home)}
    lines, total, unknown = [], 0.0, 0
    for job in jobs:
        seconds, share = speeds.estimate(job.recipe), _share_done(job, home)
        is_left = job.recipe.key in keys_left
        if is_left:
            total += 0 if seconds is None else seconds * (1 - share)
            unknown += seconds is None
        lines.append(_line(job, seconds, share, is_left))
    return [*lines, _total_line(total, unknown, workers, device)]


def _line(job, seconds, share, is_left):
    "Describe the forecast of one job."
    cost = "time unknown" if seconds is None else f"{seconds:.0f} s"
    if seconds is not None and is_left and share:
        cost += f", {share:.0%} done"
    status = "would run   " if is_left else "has a record"
    return f"  {status}  {job}  ({job.recipe.data.name}, {job.recipe.train.epochs} epochs, {cost})"


def _total_line(total, unknown, workers, device):
    "Return the last line of a forecast."
    if unknown and not total:
        return (f"{unknown} runs of unknown time would run: no record here of such a run tells how long it takes on "
                f"this kind of device ({device})")
    minutes = f" ({total / 60:.0f} minutes)"
    if workers > 1:
        minutes = f"; {total / workers / 60:.0f} minutes with {workers} side by side"
    more = f", and {unknown} runs of unknown time" if unknown else ""
    return (f"about {total:.0f} s of training would run{more}{minutes if total else ''}, at the speeds of records from "
            f"this kind of device ({device})")


def _all_records(ledger):
    "Yield every record of a ledger, counted or not."
    for store in ("local", "records", "local/dirty"):
        for path in sorted((ledger.folder / store).glob("*.json")):
            yield read_record(path)
