"Stitched families: their routes, their linear maps, what a descendant computes, and what is refused."
import numpy as np
import pytest
import torch
from conftest import SMALL, make, pictures, shake
from timm.models.vision_transformer import VisionTransformer

import learngene as lg
from learngene.methods import Shape
from learngene.methods.sn_net import Route, follow, nearest_layers, routes_of, stitch_anchors, streams, windows
from learngene.vit import build_vit, count_flops, fill_vit, save_vit, vit_config

D = {1: 8, 2: 16, 4: 32}  # heads -> width


class Untrained:
    "Stands in for stage 1: trains nothing."
    def __init__(self):
        self.cost, self.asked = dict(steps=0, images=0, seconds=0.0), []

    def __call__(self, model, epochs, **settings):
        self.asked.append((type(model).__name__, epochs))
        return model


@pytest.fixture(scope="module")
def ancestry():
    return make("plain", seed=3)


@pytest.fixture(scope="module")
def family():
    "Three trained models of one depth, narrow to wide."
    return [shake(VisionTransformer(**SMALL | dict(embed_dim=width, num_heads=heads)), heads)
            for heads, width in D.items()]


@pytest.fixture(scope="module")
def payload(family):
    return lg.methods.get("sn-net").condense(family, pictures(family[0], 8), Untrained())


def test_three_anchors_of_12_blocks_have_71_configurations():
    routes = routes_of([12] * 3)
    assert len(routes) == len(set(routes)) == 71 and routes[:3] == [Route(0, 12), Route(1, 12), Route(2, 12)]
    assert len({route.stitch for route in routes if route.back == 1}) == 11
    assert len({route.stitch for route in routes if route.back == 2}) == 11


@pytest.mark.parametrize("depth", [2, 3, 7])
@pytest.mark.parametrize("size", [2, 3])
def test_windows_slide(depth, size):
    if size > depth:
        return
    pairs = windows(depth, size)
    assert {(j, k) for j, k, _ in pairs} == {(j, k) for j in range(depth) for k in range(depth) if abs(j - k) < size}
    for j, k, window in pairs:  # the first window that holds both
        assert window == max(0, max(j, k) - size + 1)


@pytest.mark.parametrize("front, back", [(2, 6), (6, 2), (5, 7), (3, 4)])
def test_unequal_depths_pair_the_nearest(front, back):
    pairs = nearest_layers(front, back)
    assert {j for j, *_ in pairs} == set(range(front)) and {k for _, k, _ in pairs} == set(range(back))
    assert all(stitch == j for j, _, stitch in pairs)
    assert all(abs((j + 0.5) / front - (k + 0.5) / back) <= 1 / min(front, back) for j, k, _ in pairs)


def test_stitches_solve_a_case_with_a_known_answer(family):
    "An anchor stitched to a copy of itself: the map from what a block made to what the next expects is the identity."
    front = family[1]
    images = pictures(front, 12)
    net = stitch_anchors([front, front], [Route(0, 2, 1, 2, 0)], images)
    assert torch.allclose(net[0].weight, torch.eye(16), atol=1e-3) and net[0].bias.abs().max() < 1e-3


def test_shared_stitches_are_means_of_least_squares_in_numpy(family):
    images = pictures(family[0], 6)
    routes = [route for route in routes_of([3, 3]) if route.stitch == 1]
    assert len(routes) == 3
    a, b = (streams(model, images) for model in family[:2])
    solved = []
    for route in routes:
        A, B = a[route.layers].numpy(), b[route.skipped].numpy()
        solved.append(np.linalg.pinv(np.c_[A, np.ones(len(A))]) @ B)
    wanted = np.mean(solved, 0)
    stitch = stitch_anchors(family[:2], [route._replace(stitch=0) for route in routes], images)[0]
    np.testing.assert_allclose(stitch.weight.detach().numpy(), wanted[:-1].T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stitch.bias.detach().numpy(), wanted[-1], rtol=1e-3, atol=1e-4)


def test_streams_are_what_blocks_get(family):
    model, images = family[0], pictures(family[0], 2)
    stream = streams(model, images)
    with torch.no_grad():
        last = model.norm(stream[-1].float().view(2, 17, 8))
        assert torch.allclose(model.forward_head(last), model(images), atol=1e-4)
    assert len(stream) == 4 and stream[0].shape == (34, 8)


def test_every_descendant_computes_its_route(family, payload):
    images, n = pictures(family[0]), len(payload.config["routes"])
    assert n == 3 + 7 + 7 and payload.n_params == sum(p.numel() for m in family for p in m.parameters()) + sum(
        2 * (D[a] * D[b] + D[b]) for a, b in ((1, 2), (2, 4)))
    anchors, stitches = family, torch.nn.ModuleList()
    for i in range(4):
        weight, bias = payload.tensors[f"stitches.{i}.weight"], payload.tensors[f"stitches.{i}.bias"]
        linear = torch.nn.Linear(*weight.shape[::-1])
        linear.load_state_dict(dict(weight=weight, bias=bias))
        stitches.append(linear)
    for i, route in enumerate(payload.config["routes"]):
        method = lg.methods.get("sn-net", stitch=i)
        child = method.expand(payload)
        with torch.no_grad():
            wanted = follow(Route(*route), anchors, stitches, images)
            assert torch.allclose(child(images), wanted, atol=1e-5)
        assert method.inherited_params(payload) == sum(p.numel() for p in child.parameters())
        fresh = method.expand(payload, Shape(num_classes=9))
        assert fresh(images).shape == (3, 9)
        assert method.inherited_params(payload, Shape(num_classes=9)) == sum(
            p.numel() for name, p in child.named_parameters() if not name.startswith("head."))
        assert count_flops(child) > 0


def test_a_whole_anchor_is_plain_and_a_stitched_model_trains(payload, tmp_path):
    whole = lg.methods.get("sn-net").expand(payload, Shape(heads=2))
    assert type(whole) is VisionTransformer and whole.embed_dim == 16
    save_vit(whole, tmp_path / "whole")
    child = lg.methods.get("sn-net", stitch=5).expand(payload)
    child.train()(pictures(child)).sum().backward()
    assert all(p.grad is not None for p in child.parameters())
    with pytest.raises(TypeError):
        save_vit(child, tmp_path / "child")


def test_training_draws_every_route(family):
    torch.manual_seed(0)
    seen, train = [], Untrained()

    def watch(model, epochs):
        images = pictures(model)
        for _ in range(60):
            seen.append(round(model.train()(images)[0, 0].item(), 3))
        model.eval()
        assert torch.equal(model(images), model(images))
        return model

    watch.cost = train.cost
    lg.methods.get("sn-net").condense(family[:2], pictures(family[0]), watch)
    assert len(set(seen)) == 2 + 7


def test_narrower_anchors_are_trained_beside_the_ancestry(ancestry):
    train = Untrained()
    payload = lg.methods.get("sn-net", epochs=5, anchor_epochs=3).condense(ancestry, pictures(ancestry), train)
    assert train.asked == [("VisionTransformer", 3), ("VisionTransformer", 3), ("StitchedNet", 5)]
    assert [c["heads"][0] for c in payload.config["anchors"]] == [1, 2, 4]
    whole = lg.methods.get("sn-net").expand(payload)
    assert torch.allclose(whole(pictures(ancestry)), ancestry(pictures(ancestry)), atol=1e-5)
    assert not any("distillation" in name for name in payload.tensors)


# ---- learngene-pool

POOL = dict(layers=3, epochs=1, instance_epochs=1)


@pytest.mark.parametrize("instances, pairs, routes, stitches", [
    (None, "released", 2 + 7, 2), ([1, 2, 4], "released", 3 + 7, 2), ([1, 2, 4], "all", 3 + 21, 6),
    ([1, 2], "all", 2 + 7, 2),
])
def test_pool(ancestry, instances, pairs, routes, stitches):
    torch.manual_seed(0)
    maps = []

    def train(model, epochs):
        if hasattr(model, "maps"):
            maps.append({name: m.weight.detach().clone() for name, m in model.maps.items()})
        else:
            maps.append([s.weight.detach().clone() for s in model.stitches])
        return model

    train.cost = {}
    method = lg.methods.get("learngene-pool", **POOL, instances=instances, pairs=pairs)
    payload = method.condense(ancestry, pictures(ancestry), train)
    assert len(payload.config["routes"]) == routes
    *maps, started = maps
    assert len(started) == stitches and not any("maps" in name for name in payload.tensors)
    assert set(maps[0]) == {f"{kind}_{i}" for kind in ("layer", "attention") for i in range(3)}  # narrowest: thirds
    assert set(maps[-1]) == {"layer_2", "attention_2"}
    narrow = np.mean([maps[0][f"layer_{i}"].numpy() for i in range(3)], 0)
    widest = maps[-1]["layer_2"].numpy()
    wanted = widest @ narrow.T if instances == [1, 2] else narrow.T  # into the teacher's own width
    index = 2 if pairs == "all" and instances == [1, 2, 4] else 0  # of the pair (narrowest, widest)
    np.testing.assert_allclose(started[index].numpy(), wanted, rtol=1e-4, atol=1e-6)
    for i in range(routes):
        child = lg.methods.get("learngene-pool", **POOL, stitch=i).expand(payload)
        assert child(pictures(ancestry)).isfinite().all()


def test_the_loss_of_an_instance_in_numpy(ancestry):
    from learngene.methods.learngene_pool import FeatureDistillation

    torch.manual_seed(0)
    student = shake(VisionTransformer(**SMALL | dict(embed_dim=16, num_heads=2)), 5)
    loss = FeatureDistillation(student, ancestry, [(2, 2)], alpha=0.3)
    images, seen = pictures(ancestry), {}
    for name, model in (("s", student), ("t", ancestry)):
        for kind, module in (("layer", model.blocks[2]), ("attention", model.blocks[2].attn)):
            module.register_forward_hook(lambda m, i, o, key=(name, kind): seen.__setitem__(key, o.detach().numpy()))
    logits = student(images)
    value = loss(logits, images, torch.tensor(2.0)).item()
    teacher = ancestry(images).detach().double().numpy()
    p = np.exp(teacher) / np.exp(teacher).sum(1, keepdims=True)
    z = logits.detach().double().numpy()
    wanted = -(p * (z - np.log(np.exp(z).sum(1, keepdims=True)))).sum(1).mean()
    for kind in ("layer", "attention"):
        T, b = (t.detach().numpy() for t in (student.maps[f"{kind}_2"].weight, student.maps[f"{kind}_2"].bias))
        wanted += ((seen["s", kind] - (seen["t", kind] @ T.T + b)) ** 2).mean()
    np.testing.assert_allclose(value, 0.3 * 2.0 + 0.7 * wanted, rtol=1e-4)


@pytest.mark.parametrize("maps, moved", [("learned", True), ("fixed", False)])
def test_maps_are_in_the_optimiser_unless_fixed(ancestry, maps, moved):
    from learngene.recipe import Recipe
    from learngene.train import make_optimizer

    held = []

    def train(model, epochs):
        if hasattr(model, "maps"):
            recipe = Recipe.from_dict(dict(name="x", ancestry="y"))
            ids = {id(p) for group in make_optimizer(recipe, model).param_groups for p in group["params"]}
            held.append([id(p) in ids for p in model.maps.parameters()])
        return model

    train.cost = {}
    lg.methods.get("learngene-pool", **POOL, maps=maps).condense(ancestry, None, train)
    assert all(set(one) == {moved} for one in held) and len(held) == 2


def test_a_pool_can_start_from_least_squares(ancestry):
    method = lg.methods.get("learngene-pool", **POOL, stitches="least-squares")
    payload = method.condense(ancestry, pictures(ancestry, 6), Untrained())
    assert payload.tensors["stitches.0.bias"].abs().sum() > 0
    with pytest.raises(ValueError, match="no images"):
        method.condense(ancestry, torch.zeros(0, 3, 32, 32), Untrained())


# ---- refusals

@pytest.mark.parametrize("options, shape, words", [
    (dict(stitch=99), Shape(), "stitch is 99, wanted 0 to 16"), (dict(), Shape(heads=3), "the whole anchors have"),
    (dict(stitch=4), Shape(depth=9), "depth 9"), (dict(stitch=4), Shape(heads=2), "heads 2"),
    (dict(), Shape(depth=2), "depth 2"), (dict(), Shape(width=16), "width is 16"),
], ids=str)
def test_impossible_shapes_raise(payload, options, shape, words):
    with pytest.raises(ValueError, match=words):
        lg.methods.get("sn-net", **options).expand(payload, shape)


@pytest.mark.parametrize("name, options, words", [
    ("sn-net", dict(stitch=-1), "stitch"), ("sn-net", dict(anchors=3), "anchors"),
    ("learngene-pool", dict(maps="free"), "maps"), ("learngene-pool", dict(pairs="some"), "pairs"),
    ("learngene-pool", dict(positions="front"), "positions"), ("learngene-pool", dict(label_weight=2), "label_weight"),
    ("learngene-pool", dict(stitches="map"), "did you mean 'maps'"), ("learngene-pool", dict(layers=1), "layers"),
])
def test_options_are_checked(name, options, words):
    with pytest.raises(ValueError, match=words):
        lg.methods.get(name, **options)


def test_what_cannot_be_stitched_raises(ancestry, family):
    def condense(models, name="sn-net", **options):
        lg.methods.get(name, **options).condense(models, pictures(ancestry), Untrained())

    for models in (family[:1], family[::-1], [family[0], make("registers")]):
        with pytest.raises(ValueError, match="cannot be stitched"):
            condense(models)
    with pytest.raises(ValueError, match="anchors is"):
        condense(ancestry, anchors=[4])
    with pytest.raises(ValueError, match="instances is"):
        condense(ancestry, "learngene-pool", instances=[2])
    shallow = VisionTransformer(**SMALL | dict(depth=1))
    with pytest.raises(ValueError, match="cannot be stitched"):
        condense([family[0], fill_vit(build_vit(vit_config(shallow)), shallow.state_dict())])
