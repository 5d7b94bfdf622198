"Tables: numbers against scipy and by hand, and what is published of them."

import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from records import make_record, with_own_key
from scipy import stats

from learngene import tables as T
from learngene.ledger import file_name


def record(seed=0, accuracy=0.5, clean=True, name="r", of=None, epochs=2):
    history = [
        dict(
            epoch=e,
            lr=1e-3,
            train_loss=None if e == 0 else 2.0 / e,
            val_accuracy=accuracy * e / max(epochs, 1),
            val_loss=1.0,
        )
        for e in range(epochs + 1)
    ]
    recipe = dict(ancestry=None, train=dict(epochs=epochs, batch_size=40)) | (dict(of=of) if of else {})
    return make_record(
        accuracy=accuracy,
        clean=clean,
        name=name,
        seed=seed,
        recipe=recipe,
        run_info=dict(device="cpu", code=dict(clean=clean, commit="c0ffee", version="1")),
        train_info=dict(seconds=3.0, history=history),
        meta_info=dict(
            params=10, flops=4 * 10**9, inherited_params=7, data_sizes=dict(train=100, val=10, test=10)
        ),
    )


def cells_and_records(accuracies):
    "One cell a method, one run a seed."
    cells = [
        (dict(method=m, images="all", seed=s), None) for m, values in accuracies.items() for s in range(len(values))
    ]
    records = [
        record(s, a, name=m, of=i)
        for i, (m, values) in enumerate(accuracies.items())
        for s, a in enumerate(values)
    ]
    return cells, records


AB = dict(learngene=[0.91, 0.93, 0.95, 0.90], scratch=[0.90, 0.90, 0.91, 0.91])


@pytest.mark.parametrize(
    "values, text",
    [
        ([0.5], "50.00 (1)"),
        ([0.9, 0.9], "90.00 ± 0.00 (2)"),
        ([0.1, 0.2, 0.3], "20.00 ± 10.00 (3)"),
        ([1.0, 0.98765], "99.38 ± 0.87 (2)"),
    ],
)
def test_mean_sd(values, text):
    assert T.mean_sd(values) == text
    assert T.mean_sd(pd.Series(values)) == text


def test_mean_sd_is_the_sample_deviation():
    values = np.random.RandomState(0).rand(7)
    mean, sd = (float(x) for x in T.mean_sd(values).removesuffix(" (7)").split(" ± "))
    assert mean == pytest.approx(values.mean() * 100, abs=0.006) and sd == pytest.approx(
        np.std(values, ddof=1) * 100, abs=0.006
    )


def test_to_frame():
    cells, records = cells_and_records(AB)
    frame = T.to_frame(cells, records)
    assert len(frame) == 8 and list(frame.accuracy) == AB["learngene"] + AB["scratch"]
    row = frame.iloc[5]
    assert (row.method, row.seed, row.params, row.gmacs, row.inherited_params, row.seconds, row.epochs) == (
        "scratch",
        1,
        10,
        2.0,
        7,
        3.0,
        2,
    ) and row.record == file_name(records[5])
    with pytest.raises(ValueError):
        T.to_frame(cells, records[1:])


def test_to_curves_and_epochs_to():
    curves = T.to_curves(*cells_and_records(dict(a=[0.8, 0.6], b=[0.2, 0.2])))
    assert len(curves) == 12 and set(curves.epoch) == {0, 1, 2}
    means = {e: curves[(curves.method == "a") & (curves.epoch == e)].accuracy.mean() for e in (0, 1, 2)}
    assert means == {0: 0.0, 1: pytest.approx(0.35), 2: pytest.approx(0.7)}
    assert [T.epochs_to(curves, "a", t) for t in (0.0, 0.1, 0.35, 0.351, 0.7, 0.71)] == [0, 1, 1, 2, 2, None]
    assert T.epochs_to(curves, "b", 0.7) is None
    assert (
        "does not reach" in T.describe_epochs(curves, "b", 0.7)
        and T.describe_epochs(curves, "a", 0.3) == "a reaches it after 1 epoch"
        and T.describe_epochs(curves, "a", 0.7) == "a reaches it after 2 epochs"
        and "before training" in T.describe_epochs(curves, "a", 0)
    )


def test_curves_of_runs_without_validation_are_a_clear_error():
    cells, records = cells_and_records(dict(a=[0.8]))
    for entry in records[0]["train_info"]["history"]:
        del entry["val_accuracy"]
    with pytest.raises(ValueError, match="validation"):
        T.to_curves(cells, records)


def test_table_keeps_the_order_of_the_sweep():
    rows = [
        dict(method=m, images=i, seed=s, accuracy=0.5 + 0.1 * s + 0.01 * len(m))
        for m in ("z", "aa", "mmm")
        for i in ("small", "all")
        for s in (0, 1)
    ]
    shown = T.table(pd.DataFrame(rows), "method", "images")
    assert list(shown.index) == ["z", "aa", "mmm"] and list(shown.columns) == ["small", "all"]
    assert shown.loc["aa", "all"] == "57.00 ± 7.07 (2)"


def test_compare_is_the_paired_t_test():
    frame = T.to_frame(*cells_and_records(AB))
    compared = T.compare(frame, "learngene", "scratch")
    a, b = np.array(AB["learngene"]) * 100, np.array(AB["scratch"]) * 100
    ttest = stats.ttest_rel(a, b)
    interval = ttest.confidence_interval(0.95)
    assert compared["n"] == 4 and compared["difference"] == pytest.approx((a - b).mean())
    assert (compared["p"], compared["low"], compared["high"]) == (
        pytest.approx(ttest.pvalue),
        pytest.approx(interval.low),
        pytest.approx(interval.high),
    )
    d = a - b
    t = d.mean() / math.sqrt(((d - d.mean()) ** 2).sum() / 3 / 4)
    assert compared["p"] == pytest.approx(2 * stats.t.sf(abs(t), 3))
    reversed_pair = T.compare(frame, "scratch", "learngene")
    assert (
        reversed_pair["difference"] == -compared["difference"]
        and reversed_pair["p"] == pytest.approx(compared["p"])
        and reversed_pair["low"] == pytest.approx(-compared["high"])
    )
    difference, low, high = (f"{compared[k]:+.2f}" for k in ("difference", "low", "high"))
    assert T.describe_difference(compared) == f"{difference} points [{low}, {high}], p = {compared['p']:.2g}, 4 seeds"


def test_compare_pairs_by_seed_not_by_order():
    frame = T.to_frame(*cells_and_records(AB))
    pair = ("learngene", "scratch")
    assert T.compare(frame.sample(frac=1, random_state=1), *pair) == T.compare(frame, *pair)


def test_compare_of_equal_methods():
    frame = T.to_frame(
        *cells_and_records(dict(a=[0.5, 0.75], b=[0.5, 0.75], c=[0.25, 0.5], d=[0.5, 0.5], e=[0.25, 0.25]))
    )
    assert T.compare(frame, "a", "b")["p"] == 1.0 and T.compare(frame, "a", "b")["difference"] == 0
    assert T.compare(frame, "d", "e") == dict(difference=25.0, low=25.0, high=25.0, p=0.0, n=2)  # no seed matters
    same = T.compare(frame, "a", "c")  # it does, and twice the same difference is chance
    assert same["difference"] == 25.0 and math.isnan(same["p"]) and T.verdict(same) == "no clear difference"


@pytest.mark.parametrize("n", [3, 5])
def test_compare_of_a_difference_that_is_the_same_at_every_seed(n, recwarn):
    "Starts that do not depend on the seed: rounding is no spread, and nothing warns."
    compared = T.compare(T.to_frame(*cells_and_records(dict(a=[40 / 216] * n, b=[106 / 216] * n))), "a", "b")
    assert compared["low"] == compared["difference"] == compared["high"] == pytest.approx(-66 / 2.16)
    assert compared["p"] == 0.0
    assert not recwarn.list


@pytest.mark.parametrize(
    "accuracies",
    [
        dict(learngene=[0.9], scratch=[0.8]),
        dict(learngene=[0.9, 0.8, 0.7], scratch=[0.8, 0.7]),
        pytest.param(dict(learngene=[0.9, 0.8])),
    ],
)
def test_compare_wants_the_same_seeds(accuracies):
    with pytest.raises(ValueError, match="seeds"):
        T.compare(T.to_frame(*cells_and_records(accuracies)), "learngene", "scratch")


def test_compare_of_mixed_cells_is_an_error():
    frame = T.to_frame(*cells_and_records(AB))
    with pytest.raises(ValueError):
        T.compare(pd.concat([frame, frame.assign(images="half")]), "learngene", "scratch")


def test_draw_curves():
    curves = T.to_curves(*cells_and_records(dict(a=[0.8, 0.6], b=[0.2, 0.2])))
    _, ax = plt.subplots()
    assert T.draw_curves(curves, ax) is ax
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert (
        list(lines) == ["a", "b"]
        and list(lines["a"].get_ydata()) == pytest.approx([0, 35, 70])
        and list(lines["a"].get_xdata()) == [0, 1, 2]
    )
    top = ax.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(70 + np.std([80, 60], ddof=1))
    plt.close("all")


def test_intervals_reach_from_low_to_high():
    _, ax = plt.subplots()
    T.draw_intervals(
        pd.DataFrame([dict(difference=1.0, low=0.5, high=3.0), dict(difference=-2.0, low=-2.1, high=-1.0)]),
        ["a", "b"],
        ax,
    )
    assert [bar.get_segments()[0].tolist() for bar in ax.collections] == [
        [[0.5, 0], [3, 0]],
        [[-2.1, 1], [-1, 1]],
    ] and ax.yaxis_inverted()
    plt.close("all")


# --- publishing


@pytest.fixture
def results(tmp_path):
    return T.Results("demo", tmp_path)


def origin(results, records):
    results.publish("t", "T", "c", records=records)
    return json.loads((results.folder / "tables/t.json").read_text())["records"]


def test_publish_writes_what_it_is_given(results):
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    frame = pd.DataFrame({"all": ["1 ± 2"]}, index=pd.Index(["a,b"], name="method"))
    results.publish("t1", "Title", "Caption", "Text", frame, fig)
    results.publish("t2", "Title", "Caption")
    plt.close("all")
    folder = results.folder
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "figures/t1.png",
        "figures/t1.svg",
        "tables/t1.csv",
        "tables/t1.json",
        "tables/t2.json",
    ]
    assert "dc:date" not in (folder / "figures/t1.svg").read_text(), "a figure made again is the same file"
    assert (folder / "tables/t1.csv").read_text() == 'method,all\n"a,b",1 ± 2\n'
    card = json.loads((folder / "tables/t1.json").read_text())
    assert (card["title"], card["caption"], card["text"], card["table"], card["figure"]) == (
        "Title",
        "Caption",
        "Text",
        "tables/t1.csv",
        "figures/t1.svg",
    )
    card = json.loads((folder / "tables/t2.json").read_text())
    assert (
        card["table"] is None
        and card["figure"] is None
        and card["records"] == dict(yours=[], committed=[], not_counted=[])
    )


def test_publish_says_where_records_lie(results):
    local, committed, dirty = record(1), record(2), record(3, clean=False)
    results.ledger.add(local)
    results.ledger.add(dirty)
    store = results.folder / "records"
    store.mkdir()
    (store / file_name(committed)).write_text(json.dumps(committed))
    assert origin(results, [local, committed, dirty]) == dict(
        yours=[file_name(local)], committed=[file_name(committed)], not_counted=[file_name(dirty)]
    )


def test_a_run_of_a_modified_tree_is_not_called_committed(tmp_path):
    "`--fresh` on a modified tree: numbers do not come from the committed record of the same run."
    results = T.Results("demo", tmp_path, fresh=True)
    (results.folder / "records").mkdir(parents=True)
    (results.folder / "records" / file_name(record(1))).write_text(json.dumps(record(1, accuracy=0.1)))
    dirty = record(1, accuracy=0.9, clean=False)
    results.ledger.add(dirty)
    assert origin(results, [dirty]) == dict(yours=[], committed=[], not_counted=[file_name(dirty)])


def test_fresh_ignores_the_committed_records(tmp_path):
    for fresh in (False, True):
        results = T.Results("demo", tmp_path, fresh=fresh)
        (results.folder / "records").mkdir(parents=True, exist_ok=True)
        (results.folder / "records" / file_name(record(1))).write_text(json.dumps(record(1)))
        assert (results.ledger.find(record(1)["run_info"]["key"]) is None) is fresh


# --- shorter trainings


def long_run(seed=0, epochs=4, **changes):
    run = record(seed, epochs=epochs)
    run["meta_info"] |= dict(data_fingerprint="d", ancestry="a") | changes
    run["meta_info"]["recipe"]["train"] = dict(epochs=epochs, warmup_epochs=epochs // 4, batch_size=40)
    return with_own_key(run)


def test_shorter_runs_are_the_same_but_for_their_length(results):
    shown, shorter, other = long_run(), long_run(epochs=2), long_run(epochs=1, ancestry="b")
    for run in (
        shown,
        shorter,
        other,
        long_run(1, epochs=3, data_fingerprint="e"),
        long_run(epochs=0),
        long_run(epochs=8),
    ):
        results.ledger.add(run)
    assert [run["run_info"]["key"] for run in results.shorter_runs(shown)] == [shorter["run_info"]["key"]]


# --- several comparisons, and verdicts


def table_frame(**methods):
    "A frame of two columns, 'a' with the accuracies given and 'b' with the same ones, reversed over seeds."
    rows = [
        dict(method=m, images=images, seed=s, accuracy=v)
        for m, values in methods.items()
        for images in "ab"
        for s, v in enumerate(values if images == "a" else values[::-1])
    ]
    return pd.DataFrame(rows)


def test_against_is_compare_cell_by_cell():
    frame = table_frame(**AB, third=[0.5, 0.6, 0.55, 0.52])
    effects = T.against(frame, "learngene")
    assert list(zip(effects.images, effects.method)) == [
        ("a", "scratch"),
        ("a", "third"),
        ("b", "scratch"),
        ("b", "third"),
    ]
    for row in effects.to_dict("records"):
        alone = T.compare(frame[frame.images == row["images"]], "learngene", row["method"])
        assert all(row[k] == pytest.approx(alone[k]) for k in ("difference", "low", "high", "p", "n"))
    with pytest.raises(ValueError, match="no method 'missing'"):
        T.against(frame, "missing")


def test_say_against_names_every_row_once():
    frame = table_frame(
        learngene=[0.90, 0.91, 0.92],
        worse=[0.80, 0.81, 0.82 - 1e-4],
        same=[0.90, 0.92, 0.91],
        better=[0.95, 0.96, 0.97 + 1e-4],
    )
    lines = T.describe_effects(T.against(frame, "learngene"), "learngene").splitlines()
    assert len(lines) == 3 and all(
        f" {word} {m} (" in line
        for line in lines[:2]
        for word, m in [("better than", "worse"), ("worse than", "better"), ("not clearly different from", "same")]
    )


def test_a_verdict_is_by_p_and_sign():
    assert [T.verdict(dict(difference=d, p=p)) for d, p in [(1, 0.01), (-1, 0.01), (1, 0.05), (0.0, 0.0)]] == [
        "better",
        "worse",
        "no clear difference",
        "no clear difference",
    ]


def test_differences_are_paired_by_seed():
    d = T.differences(table_frame(**AB), "learngene")
    assert (
        d.shape == (4, 2)
        and np.allclose(d["a", "scratch"], [1, 3, 4, -1])
        and np.allclose(d["b", "scratch"], [-1, 4, 3, 1])
    )
    frame = table_frame(**AB)
    for broken in (frame.iloc[1:], frame[frame.seed == 0]):
        with pytest.raises(ValueError, match="same two or more seeds"):
            T.differences(broken, "learngene")


def test_judge_against_scipy():
    random = np.random.RandomState(0)
    for shift in (0.0, 1.0, 4.0):
        d = pd.DataFrame(random.randn(5, 3) + shift)
        judged, mean = T.judge(d), d.mean(axis=1)
        interval = stats.ttest_1samp(mean, 0).confidence_interval(0.95)
        assert (judged["low"], judged["high"]) == pytest.approx((interval.low, interval.high))
        ps = sorted([*stats.ttest_1samp(d, 0).pvalue, judged["p"]])  # the mean's is corrected with the others
        clear = next((i for i, p in enumerate(ps) if p * (4 - i) >= 0.05), 4)  # Holm: stop at the first that is not
        assert judged["better"] + judged["worse"] + judged["clear"] == clear and judged["comparisons"] == 3


def test_holm():
    "The least of three p is compared with a third of the level, the next with half, the last with all of it."
    assert (
        T.holm([0.03, 0.01, 0.02]) == [True] * 3
        and T.holm([0.001, 0.04, 0.03]) == [True, False, False]
        and T.holm([0.02, 0.02, 0.02]) == [False] * 3
    )


CLEAR, NOISE = [1.0, 1.1, 0.9, 1.05], [0.5, -0.5, 0.4, -0.4]


@pytest.mark.parametrize(
    "columns, verdict",
    [
        ([CLEAR], "holds"),
        ([CLEAR, NOISE], "holds"),
        ([[5 * x for x in CLEAR], NOISE, NOISE[::-1]], "holds in part"),
        ([NOISE], "undecided"),
        ([[-x for x in CLEAR]], "does not hold"),
        ([CLEAR, [-x for x in CLEAR]], "holds in part"),
        ([[5 * x for x in CLEAR], [-x for x in CLEAR]], "holds in part"),
        ([CLEAR, [-5 * x for x in CLEAR]], "does not hold"),
        ([NOISE, [-x / 9 for x in CLEAR]], "does not hold"),
        ([[0.0] * 4], "undecided"),
        ([[x + 0.2 for x in NOISE]], "undecided"),
        ([[x - 0.2 for x in NOISE]], "undecided"),
    ],
)
def test_verdicts(columns, verdict):
    assert T.judge(pd.DataFrame(columns).T)["verdict"] == verdict


def test_find_runs_nothing(tmp_path):
    cells, records, n = T.Results("smoke", tmp_path).find("table2")
    assert (cells, records) == ([], []) and n == 12 and not list(tmp_path.rglob("*.json"))


# --- the paper's numbers


def test_published_numbers_have_sources_and_are_sane():
    import csv

    with open(Path(__file__).parents[1] / "results/paper/published.csv", encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == ["table", "row", "column", "value", "unit", "source"] and all(all(r.values()) for r in rows)
    assert len({(r["table"], r["row"], r["column"]) for r in rows}) == len(rows)
    assert all(math.isfinite(float(r["value"])) for r in rows) and {r["unit"] for r in rows} >= {
        "%",
        "points",
        "M",
        "G",
        "times",
        "images",
    }


@pytest.mark.parametrize(
    "table, row, column, value",
    [
        ("table8", "10", "cifar100", 85.38),
        ("table8", "100", "cifar100", 80.45),
        ("table1", "DeiT-B, 12 heads, 12 layers", "parameters", 64.385),
        ("table2", "cluster-learngene - auto-learngene", "inat2019", 11.17),
        ("figure4", "cluster-learngene, DeiT-S", "accuracy", 78.43),
        ("figure8", "from-scratch / cluster-learngene", "cost of training, DeiT-S", 4.0),
        ("table9", "more heads in later layers - more heads in earlier layers", "accuracy", 1.45),
    ],
)
def test_published(table, row, column, value):
    known = T.published(table).set_index(["row", "column"])
    assert known.value[row, column] == value and known.source[row, column]


def test_published_of_what_is_not_known(monkeypatch):
    assert T.published("table5").empty and list(T.published("table5")) == ["row", "column", "value", "unit", "source"]
    monkeypatch.setattr("learngene.paper.project_root", lambda: None)
    with pytest.raises(FileNotFoundError, match="results/paper/published.csv of a checkout"):
        T.published("table8")


def test_beside_paper():
    frame = pd.DataFrame(
        [dict(eps=e, seed=s, accuracy=a + s / 100) for e, a in ((1, 0.80), (10, 0.85), (30, 0.84)) for s in (0, 1)]
    )
    side = T.beside_paper(frame, "table8", "eps")
    assert list(side.index) == ["1", "10", "30"] and list(side.columns) == ["paper", "ours", "difference"]
    assert list(side.loc["1"]) == ["85.27", "80.50 ± 0.71 (2)", "-4.77"] and list(side.loc["30"]) == [
        "",
        "84.50 ± 0.71 (2)",
        "",
    ]
    assert list(T.beside_paper(frame, "table5", "eps").paper) == ["", "", ""]
    sizes = pd.DataFrame([dict(model="DeiT-B, 12 heads, 12 layers", seed=s, accuracy=0.8) for s in (0, 1)])
    assert list(T.beside_paper(sizes, "table1", "model").paper) == [""], (
        "what the paper tells of it are parameters and operations"
    )
    with pytest.raises(ValueError, match="several runs of one seed"):
        T.beside_paper(pd.concat([frame, frame]), "table8", "eps")


def test_beside_paper_of_a_difference_is_paired():
    accuracies = {
        ("cluster-learngene", "25 %"): [0.9, 0.7],
        ("from-scratch", "25 %"): [0.8, 0.5],
        ("cluster-learngene", "100 %"): [0.9, 0.9],
    }
    frame = pd.DataFrame(
        [
            dict(method=m, images=i, seed=s, accuracy=a)
            for (m, i), values in accuracies.items()
            for s, a in enumerate(values)
        ]
    )
    side = T.beside_paper(frame.sample(frac=1, random_state=0), "table3", "method", "images")
    assert (
        list(side.loc["cluster-learngene - from-scratch", "25 %"]) == ["7.09", "15.00 ± 7.07 (2)", "+7.91"]
        and len(side) == 4
    )
    with pytest.raises(ValueError, match="same seeds"):
        T.beside_paper(frame[(frame.seed == 0) | (frame.method == "from-scratch")], "table3", "method", "images")
