"""What is known of the paper itself: its published numbers, each with its source, in a checkout's results/paper."""
import pandas as pd
import torch

from .files import project_root


def paper_folder():
    "Find the folder of the paper's numbers. FileNotFoundError outside a checkout."
    root = project_root()
    if root is None:
        raise FileNotFoundError(
            "the paper's numbers lie in results/paper/published.csv of a checkout of the project; run this inside one.")
    return root / "results/paper"


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
