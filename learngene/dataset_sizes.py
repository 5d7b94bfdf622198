"""How large the datasets are: as their authors state, as the library counts, and as records of runs tell (Table 6)."""

import pandas as pd

from .data import load_data
from .paper import published
from .recipe import DataSpec, Sweep, recipe_files

SIZES = ["training images", "held-out images", "classes"]


def dataset_name(
    name: str,  # of a recipe's data, e.g. "parquet:cifar-10"
) -> str:
    "Name a dataset as the paper's list does, wherever its files come from."
    plain = name.rpartition(":")[2]
    return next((known for known in published("table6").row.unique() if plain.replace("-", "") == known), plain)


def stated_sizes() -> pd.DataFrame:  # index: dataset; columns: `SIZES`
    "Read what the authors of the paper's datasets state of them."
    known = published("table6")
    return known.pivot(index="row", columns="column", values="value").astype(int).loc[known.row.unique(), SIZES]


def used_data(
    profile: str,
) -> dict:  # name in the recipe -> the DataSpecs that its sweeps use
    "Collect the data that a profile's sweeps train on."
    sweeps = [f"{profile}/{path.stem}" for path in recipe_files(profile) if "vary:" in path.read_text(encoding="utf-8")]
    used = {}
    for _, recipe in (cell for sweep in sweeps for cell in Sweep.load(sweep).cells()):
        specs = used.setdefault(recipe.data.name, [])
        if recipe.data not in specs:
            specs.append(recipe.data)
    return used


def counted_sizes(
    names,  # of datasets that may be here
    used=None,  # from `used_data`: where a profile says that they lie
) -> dict:  # dataset -> sizes
    "Count the datasets whose files are here."
    specs = {name: DataSpec(name, image_size=8 if name == "digits" else 224) for name in names}
    specs |= {
        name: DataSpec(name, path=found[0].path, image_size=found[0].image_size) for name, found in (used or {}).items()
    }
    counted = {}
    for name, spec in specs.items():
        try:
            data = load_data(spec)
        except (OSError, ImportError):
            continue  # not here
        numbers = data.sizes["train"] + data.sizes["val"], data.sizes["test"], len(data.classes)
        counted[dataset_name(name)] = dict(zip(SIZES, numbers))
    return counted


def recorded_sizes(
    records,  # of runs
) -> dict:  # dataset -> sizes, without classes
    """Tell from records how large their datasets are.

    A run on a share of the images still sets validation images aside from all of them, by which the whole is known."""
    wholes = {}
    for record in records:
        meta = record["meta_info"]
        data, sizes = meta["recipe"]["data"], meta["data_sizes"]
        if data["fraction"] == 1:
            whole = sizes["train"] + sizes["val"]
        elif sizes["val"]:
            whole = round(sizes["val"] / data["val_fraction"])
        else:
            continue  # how many there were is not known
        candidates = wholes.setdefault(dataset_name(data["name"]), {})
        candidates[data["fraction"]] = dict(zip(SIZES, (whole, sizes["test"])))
    return {name: candidates[max(candidates)] for name, candidates in wholes.items()}


def sizes_table(
    stated,  # from `stated_sizes`
    counted,  # from `counted_sizes`
    recorded,  # from `recorded_sizes`
    used,  # from `used_data`
) -> pd.DataFrame:  # index: dataset
    "Put together what is known of each dataset, and what a profile uses of it."
    shares = {}
    for name, specs in used.items():
        shares.setdefault(dataset_name(name), set()).update(spec.fraction for spec in specs)
    rows = {}
    for name in dict.fromkeys([*stated.index, *counted, *recorded, *shares]):
        of_authors = stated.loc[name].to_dict() if name in stated.index else {}
        found = counted.get(name) or recorded.get(name, {})
        use = ", ".join(f"{share:.0%}" for share in sorted(shares.get(name, ()), reverse=True))
        rows[name] = {f"{size}, stated": _number(of_authors.get(size)) for size in SIZES}
        rows[name] |= {f"{size}, counted": _number(found.get(size)) for size in SIZES}
        rows[name] |= {"counted on": "files" if name in counted else "records" if found else "", "use": use}
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="dataset"))


def _number(value):
    return "" if value is None else f"{value:,}"
