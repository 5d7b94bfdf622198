"""What is on record: the runs of a sweep when all of them are there, in a profile or in others."""
from .tables import Results


def stores_of(
    profile: str,  # the profile that is shown
    results="",  # its folder of results; "" = results/ of the checkout
    fresh=False,  # True: ignore its committed records
    others=("digits", "pico"),  # profiles that are shown beside it, by their committed records
) -> dict:  # name -> Results, the profile first
    "Return the results of a profile, followed by those of other profiles."
    return {profile: Results(profile, results, fresh)} | {name: Results(name) for name in others if name != profile}


def runs_on_record(
    results: Results,  # of a profile
    sweep: str,  # name of a recipe file in the profile
) -> tuple:  # (cells, records), two empty lists when a run is missing
    "Return a sweep's cells and records if every run has one. Nothing is run; a profile without the sweep has none."
    try:
        cells, records, n = results.find(sweep)
    except FileNotFoundError:
        return [], []
    return (cells, records) if len(cells) == n else ([], [])


def first_on_record(
    stores: dict,  # from `stores_of`
    sweep: str,  # name of a recipe file
) -> tuple:  # (profile, cells, records); (None, [], []) when no profile has all of its runs
    "Return the runs of a sweep from the first profile that has them all on record."
    for name, results in stores.items():
        cells, records = runs_on_record(results, sweep)
        if cells:
            return name, cells, records
    return None, [], []
