"""What every caption says of its runs: how long they trained, and how alike their ancestry's heads are."""

from functools import cache

from .ancestry import load_ancestry, shipped
from .head_distances import DEIT_B_PATCHES, against_uniform, uniform_distance, uniform_distance_of
from .paper import has_numbers, published_distances, published_value
from .distances import known_distances


def steps_of(
    record: dict,  # of a run
) -> int:
    "Count the optimiser steps of a run: epochs times whole batches of its training images."
    train, images = record["meta_info"]["recipe"]["train"], record["meta_info"]["data_sizes"]["train"]
    return train["epochs"] * (images // min(train["batch_size"], images))


def paper_steps() -> int:
    """Compute the optimiser steps of the paper's Base models.

    They train for 50 epochs of ImageNet in batches of 640.
    """
    images = published_value("settings", "ImageNet", "training images")
    batch = published_value("settings", "cluster-learngene, DeiT-B", "batch on ImageNet")
    return int(published_value("settings", "cluster-learngene", "epochs on ImageNet") * (images // batch))


def training_budget(
    records,  # of the runs that are shown
) -> str:  # one sentence; "" without records
    "State the optimiser steps of some runs, beside the paper's where its numbers are at hand."
    if not records:
        return ""
    trained = [r for r in records if steps_of(r)]
    if not trained:
        return "Nothing is trained here."
    epochs = _range([r["meta_info"]["recipe"]["train"]["epochs"] for r in trained])
    steps = _range([steps_of(r) for r in trained])
    budget = f"A run here takes {steps} optimiser steps ({epochs} epoch{'s' * (epochs != '1')})"
    return (
        f"{budget}; the paper's about {round(paper_steps(), -3):,} (50 epochs of ImageNet)."
        if has_numbers()
        else f"{budget}."
    )


def _range(values):
    "Format the least and the greatest number, or the one that all are."
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


@cache
def head_spread(
    ancestry: str,  # a name of `shipped()`
) -> tuple:  # as `against_uniform`
    "Measure an ancestry by the distances that come with it. FileNotFoundError when none do."
    return against_uniform(known_distances(ancestry)["distances"], uniform_distance_of(load_ancestry(ancestry)))


def _known_ancestries(records):
    "List the ancestries of some runs that come with the library, and so with distances."
    return sorted({r["meta_info"]["recipe"].get("ancestry") for r in records} & set(shipped()))


def alike_heads(
    records,  # of the runs that are shown
) -> str:  # one sentence for each ancestry with distances; "" where there is none
    "State how near the ancestries' heads are to attending to all tokens alike."
    sentences = []
    for ancestry in _known_ancestries(records):
        mean, most = head_spread(ancestry)
        sentences.append(
            f"The heads of {ancestry} look {mean:.2f} times as far as attention to all tokens alike, "
            f"none differs from it by more than {most:.0%}{_beside_deit_b()}."
        )
    return " ".join(sentences)


def _beside_deit_b():
    if not has_numbers():
        return ""
    mean, most = against_uniform(published_distances(), uniform_distance(*DEIT_B_PATCHES))
    return f" (DeiT-B's: {mean:.2f} times, up to {most:.0%})"


def caption_facts(
    records,  # of the runs that are shown
) -> str:
    "State what every caption has to say of its runs."
    return " ".join(filter(None, [training_budget(records), alike_heads(records)]))


def caveats(
    records,  # of the runs behind a report
) -> list:  # of sentences
    """State what a reader has to know before the verdicts.

    That is how short the training is, and how alike the heads are.
    """
    budget, heads = training_budget(records), alike_heads(records)
    alike = heads and max(head_spread(name)[1] for name in _known_ancestries(records)) < 0.5
    return [
        *filter(
            None,
            [
                budget
                and f"Short training. {budget} A start shows most early, so effects here may exceed the paper's.",
                heads and f"Heads at nearly the same distance. {heads} Clustering by distance has little to find."
                if alike
                else heads,
            ],
        )
    ]


def describe_data(
    records,  # of the runs behind a report
) -> list:  # one phrase for each dataset
    "Say which datasets some runs were trained on, and how large they are."
    metas = [r["meta_info"] for r in records]
    phrases = []
    for name in sorted({m["data"] for m in metas if "data" in m}):
        sizes = [m["data_sizes"] for m in metas if m.get("data") == name]
        train, test = max(s["train"] for s in sizes), max(s["test"] for s in sizes)
        phrases.append(f"{name} (up to {train:,} training and {test:,} test images)")
    return phrases


def describe_ancestries(
    records,  # of the runs behind a report
) -> list:  # one phrase for each ancestry
    "Say which ancestries some runs inherit from, and how many layers and heads they have."
    names = {r["meta_info"]["recipe"].get("ancestry") for r in records} - {None}
    known = {name: known_distances(name)["distances"] for name in _known_ancestries(records)}
    sizes = {name: f" ({len(d)} layers of {len(d[0])} heads)" for name, d in known.items()}
    return [name + sizes.get(name, "") for name in sorted(names)]
