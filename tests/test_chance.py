"Tests draw the same random numbers wherever and in whatever order they run."

import random

import numpy as np
import pytest
import torch
from conftest import seed_all


def draw():
    return torch.randn(2).tolist(), np.random.rand(), random.random()


AT_IMPORT = draw()


@pytest.fixture(scope="module")
def of_a_module():
    return draw()


@pytest.fixture(params=["a", "b"])
def of_a_test(request):
    return draw()


def after(*names):
    seed_all(*names)
    return draw()


def test_fixtures_and_tests_draw_by_their_names(request, of_a_module, of_a_test):
    own, folder = draw(), request.node.path.parent.name
    assert own == after("test_chance.py", request.node.name)
    assert AT_IMPORT == after("test_chance.py")
    assert of_a_module == after(f"{folder}/test_chance.py", "of_a_module", 0)
    assert of_a_test == after(f"{folder}/test_chance.py", "of_a_test", int("[b]" in request.node.name))


@pytest.mark.xdist_group("a group")
def test_a_group_changes_nothing(request):
    assert draw() == after("test_chance.py", "test_a_group_changes_nothing")
