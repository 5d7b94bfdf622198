"Every method is drawn in one way, and methods that are drawn together can be told apart, in grey too."
from itertools import combinations

import matplotlib.colors
import pytest

from learngene.plotting import METHOD_STYLES, VERDICT_STYLES, method_marker, method_style, verdict_marker
from learngene.recipe import Sweep, profiles, recipes_folder


def sweeps():
    "Every recipe file of every profile that varies its method."
    for profile in profiles():
        for path in sorted((recipes_folder() / profile).glob("*.yaml")):
            if "\nvary:" in path.read_text(encoding="utf-8"):
                yield Sweep.load(f"{profile}/{path.stem}")


def lightness(color):
    "CIE L* of a colour, 0 to 100: what is left of it in grey."
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(color)]
    return 116 * sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear)) ** (1 / 3) - 16


def test_a_method_has_one_style_under_all_its_names():
    assert method_style("priority") == method_style("Algorithm 1") == method_style("cluster-learngene")
    assert method_style("cluster-learngene, Eps 2 x") == method_style("cluster-learngene")
    assert method_style("front 10 layers") == method_style("front 3 layers") != method_style("last 3 layers")
    assert method_style("no such method") == method_style("no such method")


def test_methods_of_one_table_differ():
    "Figure 4 is left out: there a kind of start has a style, whatever its size."
    for sweep in sweeps():
        pairs = combinations([] if sweep.name.startswith("figure4") else sweep.vary.get("method", {}), 2)
        same = [pair for pair in pairs if str(method_style(pair[0])) == str(method_style(pair[1]))]
        assert [pair for pair in same if not all(name.startswith("random ") for name in pair)] == [], sweep.name


@pytest.mark.parametrize("together", [
    ["cluster-learngene", "pretraining-finetuning", "from-scratch"],
    ["cluster-learngene", "front 10 layers", "last 10 layers"],
    ["the paper's rule", "first heads, refitted with values", "from-scratch"],
    ["budget, params", "budget, flops", "first layers"]])
def test_methods_of_one_figure_differ_in_lightness_marker_and_dash(together):
    styles = [method_style(name) for name in together]
    for a, b in combinations(styles, 2):
        assert abs(lightness(a["color"]) - lightness(b["color"])) > 10
        assert a["marker"] != b["marker"] and a["linestyle"] != b["linestyle"]


def test_all_styles_can_be_drawn():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    for name in METHOD_STYLES:
        ax.plot([0, 1], [0, 1], **method_style(name))
        ax.errorbar([0], [1], xerr=[1], **method_marker(name, "left"))
    for verdict in VERDICT_STYLES:
        ax.plot([0], [0], **verdict_marker(verdict))
    ax.figure.canvas.draw()
    plt.close("all")
