"What the paper's scale would cost, beside a count by PyTorch and a sum by hand."
import pytest
import timm

from learngene import scale
from learngene.claims import CLAIMS, claims_beside
from learngene.recipe import Recipe, Sweep
from learngene.vit import count_flops


def recipe(**shape):
    return Recipe.from_dict(dict(name="a", ancestry="deit_tiny_patch16_224.fb_in1k", shape=shape,
                                 data=dict(name="cifar10", val_fraction=0.1, fraction=0.5), train=dict(epochs=4)))


@pytest.mark.parametrize("shape, change", [
    ({}, {}), (dict(depth=6), dict(depth=6)),
])
def test_operations_are_those_of_a_count(shape, change):
    "Three passes an image over half of the images, less a tenth for validation; layers alone, without the two ends."
    model = timm.create_model("deit_tiny_patch16_224", **change)
    model.reset_classifier(0)
    ends = 2 * 196 * 192 * 768  # the patch embedding
    counted = count_flops(model) - ends
    expected = 3 * counted * 1000 * 0.5 * 0.9 * 4
    assert scale.training_operations(recipe(**shape), 1000) == pytest.approx(expected, rel=0.002)


def test_heads_of_each_layer_count():
    "A head more costs its queries, keys, values and columns of W^O, and its two products of all pairs of tokens."
    one, two = (scale.training_operations(recipe(heads=heads), 1000) for heads in ([3] * 6, [3] * 5 + [4]))
    assert one == scale.training_operations(recipe(depth=6), 1000)
    head = 197 * 4 * 192 * 64 + 2 * 197**2 * 64
    assert two - one == pytest.approx(6 * head * 1000 * 0.5 * 0.9 * 4)


def test_a_table_is_the_sum_of_its_runs():
    cost = scale.cost_at_scale("table4")
    recipes = [r for _, r in Sweep.load("paper/table4").cells()]
    assert cost["runs"] == len(recipes)
    assert cost["operations"] == pytest.approx(sum(scale.training_operations(r, 50_000) for r in recipes))
    assert cost["hours"] == pytest.approx(cost["operations"] / 3e14 / 3600)
    assert scale.describe_cost("table4").startswith(f"{len(recipes)} runs of paper/table4, about ")
    assert scale.cost_at_scale("no_such_table") == {} and scale.describe_cost("no_such_table") == "no recipe"


def test_profiles_stand_side_by_side():
    claim = CLAIMS[0].text
    effect = dict(verdict="holds", difference=1.25, low=0.5, high=2.0)
    table = claims_beside({"digits": {claim: effect}, "pico": {}})
    assert list(table) == ["the paper", "digits", "pico", "to settle it"] and len(table) == len(CLAIMS)
    assert table.loc[claim, "digits"].startswith("holds: +1.2") and set(table.pico) == {"not run"}
    assert table["to settle it"].str.contains("runs of paper/").all()
