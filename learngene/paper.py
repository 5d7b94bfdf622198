"""What is known of the paper itself: its published numbers, each with its source, in a checkout's results/paper."""

import pandas as pd
import torch

from .files import project_root

NUMBERS = "results/paper/published.csv"


def has_numbers() -> bool:
    """Whether the paper's numbers are at hand.

    They lie in a checkout, not in the installed library.
    """
    root = project_root()
    return root is not None and (root / NUMBERS).is_file()


def paper_folder():
    "Find the folder of the paper's numbers. FileNotFoundError outside a checkout."
    if not has_numbers():
        raise FileNotFoundError(
            f"the paper's numbers lie in {NUMBERS} of a checkout of the project; run this inside one."
        )
    return (project_root() / NUMBERS).parent


def published(
    name: str,  # of a paper notebook, e.g. "table8"
) -> pd.DataFrame:  # row, column, value, unit, source
    """Look up what is known of one of the paper's tables or figures.

    No rows where nothing is known. FileNotFoundError outside a checkout."""
    known = pd.read_csv(paper_folder() / "published.csv", dtype=dict(row=str, column=str))
    return known[known.table == name].drop(columns="table").reset_index(drop=True)


def published_value(
    name: str,  # of a paper notebook, e.g. "table8"
    row: str,  # as in `published(name)`
    column: str,  # as in `published(name)`
) -> float:
    "Look up one number of the paper. KeyError when it is not known."
    return float(published(name).set_index(["row", "column"]).value[row, column])


def published_distances() -> torch.Tensor:  # (12, 12): layer, head; pixels of a 224-px image
    "Read the mean attention distances of DeiT-B that the authors published (Figure 1c)."
    table = pd.read_csv(paper_folder() / "deit_base_mean_attention_distance.csv")
    return torch.tensor(table.pivot(index="layer", columns="head").values)


def published_effects(
    name: str,  # of a paper notebook, e.g. "table8"
    ours: str,  # the method that is compared, as it is called here
    names=None,  # the paper's name of a row or column -> ours, where the two differ
) -> dict:  # (other method, column) -> points
    "Look up the paper's lead of one method over others, stated or between two accuracies."
    effects, known = {}, published(name)
    called = lambda text: (names or {}).get(text, text)
    for row, column, value in known[known.unit == "points"][["row", "column", "value"]].itertuples(index=False):
        better, _, other = row.partition(" - ")
        if called(better) == ours:
            effects[called(other), called(column)] = value
    for column, part in known[known.unit == "%"].groupby("column", sort=False):
        accuracy = {called(row): value for row, value in zip(part.row, part.value)}
        others = {row: value for row, value in accuracy.items() if ours in accuracy and row != ours}
        effects |= {(row, called(column)): accuracy[ours] - value for row, value in others.items()}
    return effects


IN_IMAGES = ("table4", "table5", "table7", "figure3", "figure6")  # whose numbers stand in images, and are not known


ROW_NAMES = dict(table8="ε {} px")  # for tables whose rows are bare numbers


def published_sentences(
    name: str,  # of a paper notebook, e.g. "table8"
) -> list:  # one sentence a number; empty where the paper states none
    "Say what is known of the paper's own numbers for a table or figure."
    if name in IN_IMAGES:
        return ["The paper's numbers stand in an image; none is known."]
    known = published(name)
    known = known[~known.unit.isin(["images", "classes"])]  # sizes of data sets: the table itself holds them
    rows = ROW_NAMES.get(name, "{}")
    return [
        f"{rows.format(r.row.replace(' - ', ' minus '))}, {r.column}: {r.value:g} {r.unit} ({r.source})."
        for r in known.itertuples()
    ]
