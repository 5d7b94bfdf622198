"The report: one html page that parses, shows everything, and escapes what it is given."

import base64
import html.parser
import json

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from records import with_own_key
from test_tables import record

from learngene.ledger import file_name
from learngene.app.report import write_report
from learngene.tables import Results

PAPER = "https://openreview.net/forum?id=92vVuJVLVW"
VOID = {"meta", "img", "link", "br", "hr"}


class Page(html.parser.HTMLParser):
    "Elements in order; complains about a tag that is closed out of order, or never."

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data.strip())

    def all(self, tag):
        return [attrs for t, attrs in self.elements if t == tag]


@pytest.fixture
def results(tmp_path):
    return Results("demo", tmp_path)


def page(results):
    path = write_report(results.folder)
    assert path == results.folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def figure():
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([1, 2])
    return fig


def test_everything_is_there(results):
    fig = figure()
    results.publish("figure5", "Figure 5: curves", "caption five", "one\ntwo", figure=fig)
    results.publish(
        "table2",
        "Table 2: three ways",
        "caption two",
        "three",
        table=pd.DataFrame({"all": ["97.10 ± 0.20 (5)"]}, index=pd.Index(["ours"], name="method")),
    )
    results.publish("figure1c", "Figure 1c: heads", "caption one", figure=fig)
    plt.close("all")
    p = page(results)
    assert [s["id"] for s in p.all("section")] == ["summary", "table2", "figure1c", "figure5"]
    pictures = [i["src"] for i in p.all("img")]
    assert len(pictures) == 2
    for source in pictures:
        assert base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).lstrip().startswith(b"<?xml")
    assert {
        "97.10 ± 0.20 (5)",
        "ours",
        "caption one",
        "caption two",
        "caption five",
        "one",
        "two",
        "three",
        "Figure 1c: heads",
    } <= set(p.text)
    ids = {a["id"] for _, a in p.elements if "id" in a}
    assert all(a["href"][1:] in ids for a in p.all("a") if a["href"].startswith("#"))


def test_nothing_is_fetched_from_elsewhere(results):
    results.publish("t", "T", "c", figure=figure())
    plt.close("all")
    p = page(results)
    for _, attrs in p.elements:
        for name in ("src", "href"):
            assert attrs.get(name) == PAPER or not attrs.get(name, "").startswith(("http", "//", "/")), attrs
    assert PAPER not in [attrs.get("src") for _, attrs in p.elements], (
        "a link to the paper, which nothing follows by itself"
    )


def test_text_is_escaped(results):
    evil = "<script>alert('x')</script> & <b>"
    results.publish("t", f"T {evil}", evil, evil, table=pd.DataFrame({evil: [evil]}, index=pd.Index([evil], name="m")))
    p = page(results)
    assert not p.all("script") and not p.all("b")
    assert "".join(p.text).count(evil) >= 5


def test_numbers_are_shown_as_written(results):
    "A table's cells are text: 97.10 stays 97.10, 007 stays 007, NA stays NA."
    results.publish(
        "t",
        "T",
        "c",
        table=pd.DataFrame(
            {"a": ["97.10", "90.00"], "b": ["007", "010"], "c": ["NA", ""]}, index=pd.Index(["x", "y"], name="m")
        ),
    )
    assert {"97.10", "90.00", "007", "NA"} <= set(page(results).text)


def test_a_table_without_a_named_index_has_no_invented_column(results):
    results.publish("t", "T", "c", table=pd.DataFrame({"a": [1, 2]}))
    assert not [t for t in page(results).text if "Unnamed" in t]


def test_it_says_which_records_are_whose(results):
    mine, project, dirty = record(1, name="mine"), record(2, name="project"), record(3, name="dirty", clean=False)
    results.ledger.add(mine)
    results.ledger.add(dirty)
    (results.folder / "records").mkdir()
    (results.folder / "records" / file_name(project)).write_text(json.dumps(project))
    results.publish("t", "T", "c", records=[mine, project, dirty])
    results.publish("u", "U", "c", records=[mine])
    p = page(results)
    text = " ".join(p.text)
    assert (
        "1 run on this machine" in text
        and "1 committed record" in text
        and "1 run of a modified tree: not counted as results" in text
    )
    assert "1 made here, 1 replayed from the project's records" in text and "1 of a modified tree" in text
    links = {a["href"] for a in p.all("a") if not a["href"].startswith("#")} - {PAPER}
    assert links == {f"local/{file_name(mine)}", f"records/{file_name(project)}", f"local/dirty/{file_name(dirty)}"}
    assert all((results.folder / link).is_file() for link in links)
    rows = text[text.index("The runs behind") :]
    assert (
        "(3)" in rows
        and [rows.count(n) for n in ("mine", "project", "dirty")] == [1, 1, 1]
        and {"made here", "replayed", "not counted"} <= set(p.text)
    )


def test_no_warning_without_modified_runs(results):
    results.ledger.add(record(1))
    results.publish("t", "T", "c", records=[record(1)])
    assert "not counted" not in " ".join(page(results).text)


def test_without_anything_to_show(results):
    with pytest.raises(FileNotFoundError, match="learngene run all --profile demo"):
        write_report(results.folder)
    assert not results.folder.exists()


def test_a_damaged_record_is_an_error_and_the_old_report_stays(results):
    results.publish("t", "T", "c", records=[record(1)])
    path = results.ledger.add(record(1))
    results.publish("t", "T", "c", records=[record(1)])
    old = write_report(results.folder).read_bytes()
    path.write_text("{")
    with pytest.raises(ValueError, match="truncated"):
        write_report(results.folder)
    assert (results.folder / "report.html").read_bytes() == old


def test_what_is_missing_takes_the_place_of_what_was_there(results, tmp_path):
    from learngene.app.report import note_missing

    notebook = tmp_path / "t.ipynb"
    notebook.write_text(json.dumps(dict(cells=[dict(cell_type="markdown", source=["# T & co\n", "\n", "> x"])])))
    results.publish("t", "Old", "c", table=pd.DataFrame(dict(a=[12345])))
    note_missing(results.folder, "t", notebook, "2 of 10 runs have records; missing: x, seed 0; and 7 more.")
    text = " ".join(page(results).text)
    assert (
        "T & co: not yet run: 2 of 10 runs have records; missing: x, seed 0; and 7 more." in text
        and "12345" not in text
    )
    note_missing(results.folder, "t", notebook, "there is no recipe 'a/b': give one of c, d.")
    p = page(results)
    assert "T & co: no recipe in this profile." in p.text and [s["id"] for s in p.all("section")] == [
        "summary",
        "missing",
    ]


CLAIMS = pd.DataFrame(
    {
        "verdict": ["holds", "does not hold"],
        "effect (points)": ["+1.00", "-2.00"],
        "95 % interval": ["[+0.50, +1.50]", "[-3.00, -1.00]"],
        "by the first rule": ["holds in part", "does not hold"],
        "shown in": ["Table 2", "Table 9"],
    },
    index=pd.Index(["a beats b", "c beats d"], name="claim"),
)


def test_it_opens_with_the_answer(results):
    "The paper, the data and ancestry, the verdicts, the number of runs, and the two caveats, before anything else."
    run = record(epochs=1)
    run["meta_info"]["data"], run["meta_info"]["recipe"]["ancestry"] = "digits", "vit_nano_p2_8.digits"
    run = with_own_key(run)
    results.ledger.add(run)
    results.publish("table2", "Table 2: ways to start", "c", records=[run])
    results.publish("claims", "The claims", "c", table=CLAIMS)
    text = " ".join(page(results).text)
    summary = text[: text.index("Table 2: ways to start")]
    for said in (
        "Cluster-Learngene: Inheriting Adaptive Clusters",
        "digits (up to 100 training and 10 test images)",
        "vit_nano_p2_8.digits (12 layers of 8 heads)",
        "a beats b holds +1.00 [+0.50, +1.50] holds in part",
        "was changed 5 times after results had been seen",
        "1 made here, 0 replayed",
        "Short training. A run here takes 2 optimiser steps",
        "Clustering by distance has little to find",
    ):
        assert said in summary, said


def test_sections_come_in_the_papers_order_and_titles_differ(results):
    names = [
        "beyond",
        "claims",
        "cost",
        "fidelity",
        "figure1c",
        "figure7",
        "related",
        "reviewers",
        "start",
        "table1",
        "table9",
        "beyond_shapes",
        "zebra",
    ]
    for name in names:
        results.publish(name, f"Title: {name}", "c")
    p = page(results)
    assert [s["id"] for s in p.all("section")] == [
        "summary",
        "claims",
        "table1",
        "table9",
        "figure1c",
        "figure7",
        "fidelity",
        "start",
        "beyond",
        "beyond_shapes",
        "cost",
        "reviewers",
        "related",
        "zebra",
    ]
    assert set(names) <= set(p.text), "a short title that several share is no label"


def test_no_empty_column_and_one_cell_for_a_shared_label(results):
    frame = pd.DataFrame(
        {"empty": ["", "", ""], "effect": ["+1.0", "", "-2.0"]},
        index=pd.MultiIndex.from_product([["x"], list("abc")], names=["images", "method"]),
    )
    results.publish("t", "T", "c", table=frame)
    p = page(results)
    assert (
        "empty" not in p.text
        and p.text.count("x") == 1
        and [a["rowspan"] for a in p.all("th") if "rowspan" in a] == ["3"]
    )
    assert [a["class"] for a in p.all("td")].count("number") == 3, (
        "a column of numbers is set as one, its empty cells too"
    )


def test_the_papers_numbers_stand_in_their_section(results):
    results.publish("table9", "Table 9", "c")
    results.publish("table4", "Table 4", "c")
    text = " ".join(page(results).text)
    assert "1.45 points (the paper's text on Table 9" in text and "stand in an image; none is known" in text


def test_it_can_be_used_without_a_mouse_or_eyes(results):
    fig = figure()
    results.publish(
        "t", "Title", "c", table=pd.DataFrame({"a": [1]}), figure=fig, alt="Two lines that rise.", notes=["A note."]
    )
    results.publish("u", "Other", "c", figure=fig)
    plt.close("all")
    p = page(results)
    assert [i["alt"] for i in p.all("img")] == ["Two lines that rise.", "Other"] and "A note." in p.text
    areas = [a for a in p.all("div") if "scroll" in a.get("class", "")]
    assert areas and all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in areas)


def test_the_link_to_the_runs_opens_them(results):
    results.ledger.add(record(1))
    results.publish("t", "T", "c", records=[record(1)])
    p = page(results)
    (link,) = [a for a in p.all("a") if a["href"] == "#runs"]
    assert f"getElementById('{p.all('details')[0]['id']}').open = true" in link["onclick"]
    assert "runs" in {a.get("id") for a in p.all("div")}, (
        "inside the details, so that its address alone opens them, too"
    )
