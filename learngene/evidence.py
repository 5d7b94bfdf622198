"""What is on record: the runs of a sweep when all of them are there, and the effects that they show."""
import pandas as pd

from .tables import Results, compare, differences, judge, to_frame


def stores_of(
    profile: str,  # the profile that is shown
    results="",  # its folder of results; "" = results/ of the checkout
    fresh=False,  # True: ignore its committed records
    others=("digits", "pico"),  # profiles that are shown beside it, by their committed records
) -> dict:  # name -> Results, the profile first
    """Return the results of a profile, followed by those of other profiles.

    With `fresh`, its own committed records come among the others, so that what was not made now is still answered.
    """
    committed = {f"{name} (committed)" if name == profile else name: Results(name)
                 for name in others if fresh or name != profile}
    return {profile: Results(profile, results, fresh)} | committed


def runs_on_record(
    results: Results,  # of a profile
    sweep: str,  # name of a recipe file in the profile
) -> tuple:  # (cells, records), two empty lists when a run is missing
    """Return a sweep's cells and records if every run has one.

    Nothing is run; a profile without the sweep has none.
    """
    try:
        cells, records, n = results.find(sweep)
    except FileNotFoundError:
        return [], []
    return (cells, records) if len(cells) == n else ([], [])


def first_on_record(
    stores: dict,  # from `stores_of`
    sweep: str,  # name of a recipe file
    methods=(),  # methods that the sweep must have
) -> tuple:  # (profile, cells, records); (None, [], []) when no profile has all of its runs
    "Return the runs of a sweep from the first profile that has them all on record."
    for name, results in stores.items():
        cells, records = runs_on_record(results, sweep)
        if cells and set(methods) <= {labels.get("method") for labels, _ in cells}:
            return name, cells, records
    return None, [], []


def mean_effect(
    stores: dict,  # from `stores_of`
    sweep: str,  # name of a recipe file
    method: str,  # as the sweep labels it
    others: list,  # methods that it is compared with
) -> dict | None:  # as from `tables.judge` without its verdict, and `profile`
    """Return the mean paired difference in test accuracy between a method and others.

    Over all columns of a sweep, from the first profile that has all runs on record; None where there is none.
    """
    profile, cells, records = first_on_record(stores, sweep, [method, *others])
    if profile is None:
        return None
    frame = to_frame(cells, records)
    labels = [label for label in cells[0][0] if label not in ("method", "seed")]
    frame["column"] = frame[labels].astype(str).agg(", ".join, axis=1)
    effect = judge(differences(frame, method, others, by="column")) | dict(profile=profile)
    del effect["verdict"]  # claims has those, corrected for each other
    return effect


def describe_effect(
    effect: dict | None,  # from `mean_effect`
) -> str:
    """Say an effect with its interval, p-value and where it was measured.

    It gets no verdict: only claims has those, where all p-values are corrected together.
    """
    if effect is None:
        return "not measured: no profile has all runs on record"
    difference, *interval = short_effect(effect).split(" ", 1)
    numbers = " ".join([difference, "points", *interval]) + (f", p = {effect['p']:.2g}" if interval else "")
    counts = f"{effect['n']} seeds, {effect['comparisons']} comparison{'s' * (effect['comparisons'] > 1)}"
    return f"{numbers} ({effect['profile']}: {counts})"


def short_effect(
    effect,  # difference, low and high, in points
) -> str:
    "Write an effect and its interval; without one where every seed has the same difference."
    interval = f" [{effect['low']:+.1f}, {effect['high']:+.1f}]" if effect["high"] > effect["low"] else ""
    return f"{effect['difference']:+.1f}{interval}"


def compare_pairs(
    frames: dict,  # when -> frame with method, seed and accuracy
    pairs: list,  # (group, label, method, the method it is compared with)
) -> pd.DataFrame:  # one row for each frame and pair: when, group, label, and what `tables.compare` gives
    "Compare many pairs of methods, seed by seed, at several moments."
    return pd.DataFrame([dict(when=when, group=group, label=label) | compare(frame, method, other)
                         for when, frame in frames.items() for group, label, method, other in pairs])


def describe_pairs(
    effects: pd.DataFrame,  # from `compare_pairs`
    group,  # which of its groups
) -> str:  # one line for each label
    "Say the effects of one group at every moment."
    lines = []
    for label, rows in effects[effects.group == group].groupby("label", sort=False):
        moments = [f"{short_effect(row)} {row['when']}" for row in rows.to_dict("records")]
        lines.append(f"{label}: {', '.join(moments)}")
    return "\n".join(lines)
