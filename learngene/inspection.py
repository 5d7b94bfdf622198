"""What figures need beside records: the payload of a run's method, and a look at the run's models."""
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .ancestry_sources import set_image_size
from .ledger import SEEN
from .recipe import Recipe
from .running import ResolvedRun, condense_seeded, find_ancestry, find_record, load_ancestry_of
from .running import replay, run, start_model
from .vit import load_vit

INSPECTED_IMAGES = 100  # for validation, at most


def payload_of(
    recipe: Recipe,  # of a run
) -> tuple:  # (payload, Data); (None, None) in replay where images or ancestry are not here
    """Make what the recipe's method keeps of its ancestry.

    Raises errors as `load_data`, `load_ancestry`.
    """
    resolved = ResolvedRun(recipe)
    try:
        data, ancestry = resolved.data, find_ancestry(recipe.ancestry)
        if recipe.ancestry_size is not None:
            set_image_size(ancestry, recipe.ancestry_size)
    except OSError:
        if replay():
            return None, None
        raise
    return condense_seeded(resolved, ancestry), data


def inspect_run(
    recipe: Recipe,  # of a run
    ledger,  # with its record
    look,  # called with a model and validation images (B, C, H, W); returns a dict of small tensors
    home=None,  # as in `run`
) -> tuple:  # (record, dict of tensors "ancestry.<name>", "start.<name>", "trained.<name>")
    "Look at a run's ancestry, start and trained model; the run is repeated if nothing is kept."
    resolved = ResolvedRun(recipe)
    record = find_record(resolved, ledger)
    tensors = _kept_tensors(record, ledger) if record else None
    return (record, tensors) if tensors else _inspect_again(resolved, ledger, look, home)


def _inspect_again(resolved, ledger, look, home):
    "Repeat a run, look at its three models, and keep what was seen beside the record."
    recipe, data = resolved.recipe, resolved.data
    if not len(data.val):
        raise ValueError(f"{recipe.name} has no validation images to look at; set data.val_fraction.")
    with tempfile.TemporaryDirectory() as folder:
        record = run(resolved, ledger, save=Path(folder) / "model", on_epoch=False, again=True, home=home)
        trained = load_vit(Path(folder) / "model")
    images = torch.stack([data.val[i][0] for i in range(min(INSPECTED_IMAGES, len(data.val)))])
    models = dict(ancestry=load_ancestry_of(resolved, home), start=start_model(resolved, home)[0], trained=trained)
    tensors = {f"{stage}.{name}": tensor.contiguous()
               for stage, model in models.items() for name, tensor in look(model, images).items()}
    about = dict(weights=record["meta_info"]["weights"], data=data.fingerprint, images=str(len(images)),
                 commit=str(record["run_info"]["code"]["commit"]))
    path = ledger.places(record)[0].with_suffix(SEEN)
    save_file(tensors, path, metadata=about)
    path.chmod(0o644)
    return record, tensors


def _kept_tensors(record, ledger):
    "Load the tensors beside a record; None without them, or where they are of other weights."
    for path in ledger.places(record):
        if path.with_suffix(SEEN).is_file():
            with safe_open(path.with_suffix(SEEN), "pt") as file:
                if file.metadata()["weights"] == record["meta_info"]["weights"]:
                    return {name: file.get_tensor(name) for name in file.keys()}
