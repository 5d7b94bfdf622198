"Every family that can be cut, with random heads, layers and options: sound models that are saved and read back."

import random
import tempfile
import warnings
from functools import partial

import torch
from families import family_pictures

import learngene as lg
from learngene.families.examples import EXAMPLES, small_model
from learngene.families.table import support_of
from learngene.inheriting import PROJ
from learngene.vit import fingerprint

QUICK = 4


def cases(seed):
    rng = random.Random(seed)
    for name in rng.sample(list(EXAMPLES), len(EXAMPLES)):
        options = dict(eps=rng.choice([1e-9, 0.3, 100.0]), proj=rng.choice(PROJ), classes=rng.choice([None, 0, 3]),
                       keep=rng.choice(["one", "half", "all", "more"]), share=rng.choice([0.6, 0.8, 1.0]), seed=seed)
        yield f"{name} {options}", partial(_cut, name, **options)


def _cut(name, eps, proj, classes, keep, share, seed):
    model = small_model(name, seed)
    images = family_pictures(model, seed=seed + 1)
    try:
        _inherit_and_save(model, images, eps, proj, classes, keep, seed)
    except (TypeError, ValueError, OSError) as error:
        raise AssertionError("nothing in this case may be refused") from error
    if support_of(model)["neurons"] and share < 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = lg.inherit(None, budget=lg.Budget(flops=share), refit=images, ancestry=model)
        with torch.no_grad():
            assert small(images).isfinite().all()


def _inherit_and_save(model, images, eps, proj, classes, keep, seed):
    learngene = lg.condense(model, images, eps=eps)
    heads = [{"one": 1, "half": max(1, n // 2), "all": n, "more": 2 * n}[keep] for n in learngene.config["heads"]]
    torch.manual_seed(seed)
    child = lg.inherit(learngene, heads=heads, proj=proj, num_classes=classes)
    with torch.no_grad():
        logits = child(images)
    assert logits.isfinite().all() and len(logits) == len(images)
    assert logits.shape[1] == (child.num_features if classes == 0 else classes or model.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        back = lg.load_descendant(lg.save_descendant(lg.merge(child), f"{folder}/child"))
        assert fingerprint(back) == fingerprint(child)
        with torch.no_grad():
            torch.testing.assert_close(back(images), logits, rtol=1e-5, atol=1e-5)
