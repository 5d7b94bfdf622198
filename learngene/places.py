"Whether everything that a run writes can be written, asked before it trains."
from pathlib import Path

from .files import cache_folder, check_folder, check_writable


def check_places(
    recipe,  # about to be run
    ledger,  # where its record goes
    save=None,  # folder for the trained model, if any
    home=None,  # folder for ancestries and checkpoints; None = the cache
) -> None:
    "Raise ValueError or OSError unless record, checkpoints and model can be written."
    ledger.check(recipe)
    check_writable(Path(home or cache_folder()) / "checkpoints" / recipe.key, is_folder=True)
    if save:
        check_folder(save)
