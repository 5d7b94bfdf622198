"Descendants against weights placed by hand, and against the ancestry's own function."
import copy
import itertools
import random
import subprocess
import sys

import pytest
import timm
import torch
from conftest import SMALL, ZOO, make, pictures, shake
from timm.models.vision_transformer import VisionTransformer
from torch.nn.utils import parametrize

import learngene as lg
from learngene.condensing import gather

PROJ = ("paper", "aligned", "folded")
# clusters of 4 heads by hand: (heads, centroid), in priority order
CLUSTERS = [[((1, 2, 3), 2), ((0,), 0)], [((0, 3), 3), ((1, 2), 1)], [((0, 1, 2, 3), 1)]]
DEEP = ["plain", "distilled", "registers", "dinov2", "qk norm", "no qkv bias", "packed swiglu", "swiglu", "siglip", "post norm", "clip", "mlp norm, no proj bias", "not square"]


def learngene_of(model, clusters=CLUSTERS, groups=((0,), (1, 2))):
    return gather(model, [[lg.HeadCluster(h, c, 0.0) for h, c in layer] for layer in clusters], [list(g) for g in groups])


def copy_of(module):
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def unchanged(before, module):
    after = module if isinstance(module, dict) else module.state_dict()
    return before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())


def kinds(model):
    return {name: type(m).__name__ for name, m in model.named_modules()}


# ---- weights placed by hand

def by_hand(model, sources, counts, proj, groups, clusters=CLUSTERS, with_head=True):
    "The descendant's state dict, one head at a time."
    state, out = model.state_dict(), {}
    H, hd = model.blocks[0].attn.num_heads, model.blocks[0].attn.head_dim
    for key, t in state.items():
        if not key.startswith("blocks.") and (with_head or not key.startswith("head")):
            out[key] = t
    for i, (s, n) in enumerate(zip(sources, counts)):
        order, c = [], len(clusters[s])
        for _ in range(n // c):
            order += list(range(c))
        order += list(range(n % c))
        ffn = next(g[0] for g in groups if s in g)
        for key, t in state.items():
            if key.startswith(f"blocks.{ffn}.mlp."):
                out[f"blocks.{i}." + key.split(".", 2)[2]] = t
            if not key.startswith(f"blocks.{s}.") or key.startswith(f"blocks.{s}.mlp."):
                continue
            if ".qkv." in key:
                rows = []
                for which in range(3):
                    for k in order:
                        head = clusters[s][k][1]
                        rows += [t[which * H * hd + head * hd + r] for r in range(hd)]
                t = torch.stack(rows)
            elif key.endswith("attn.proj.weight"):
                columns = []
                for j, k in enumerate(order):
                    heads, centroid = clusters[s][k]
                    for e in range(hd):
                        if proj == "paper":
                            columns.append(t[:, (j % H) * hd + e])
                        elif proj == "aligned":
                            columns.append(t[:, centroid * hd + e])
                        else:
                            columns.append(sum(t[:, h * hd + e] for h in heads) / order.count(k))
                t = torch.stack(columns, 1)
            out[f"blocks.{i}." + key.split(".", 2)[2]] = t
    return out


SHAPES = [
    (dict(), [0, 1, 2], [4, 4, 4]), (dict(depth=2), [0, 1], [4, 4]), (dict(depth=1, heads=1), [0], [1]), (dict(heads=2), [0, 1, 2], [2, 2, 2]),
    (dict(heads=7), [0, 1, 2], [7, 7, 7]), (dict(heads=[1, 9, 3]), [0, 1, 2], [1, 9, 3]), (dict(heads=64, depth=1), [0], [64]),
    (dict(omega=2), [0, 1, 2], [2, 2, 2]), (dict(omega=0.5), [0, 1, 2], [8, 8, 8]), (dict(omega=4 / 3), [0, 1, 2], [3, 3, 3]),
    (dict(depth=2, layers="even"), [0, 2], [4, 4]), (dict(depth=2, layers="even", heads=[3, 5]), [0, 2], [3, 5]), (dict(depth=1, layers="even"), [0], [4]),
    (dict(depth=3, layers="even"), [0, 1, 2], [4, 4, 4]),
]


@pytest.mark.parametrize("ffn", ["copy", "transform"])
@pytest.mark.parametrize("proj", PROJ)
@pytest.mark.parametrize("how, sources, counts", SHAPES)
def test_every_weight_is_where_it_belongs(how, sources, counts, proj, ffn):
    model, groups = make("dinov2", seed=4), [[0, 1], [2]]
    before = copy_of(model)
    found = learngene_of(model, groups=groups)
    child = lg.inherit(found, proj=proj, ffn=ffn, **how)
    if ffn == "transform":
        lg.merge(child)
    wanted, state = by_hand(model, sources, counts, proj, groups), child.state_dict()
    assert state.keys() == wanted.keys()
    for k, t in wanted.items():
        assert torch.allclose(state[k], t, atol=1e-7 if proj == "folded" else 0, rtol=0), k
    assert [b.attn.num_heads for b in child.blocks] == counts and unchanged(before, model)
    with torch.no_grad():
        assert child(pictures(model)).shape == (3, 5)


@pytest.mark.parametrize("proj", PROJ)
@pytest.mark.parametrize("name", ZOO)
def test_every_weight_in_every_architecture(name, proj):
    model = make(name)
    clusters, groups = CLUSTERS[: len(model.blocks)], [[0, 1], [2]][: len(model.blocks) - 1]
    child = lg.merge(lg.inherit(learngene_of(model, clusters, groups), heads=6, proj=proj))
    wanted, state = by_hand(model, range(len(model.blocks)), [6] * 3, proj, groups, clusters), child.state_dict()
    assert state.keys() == wanted.keys() and type(child) is type(model)
    assert all(torch.allclose(state[k], t, atol=1e-7 if proj == "folded" else 0, rtol=0) for k, t in wanted.items())


# ---- the ancestry's function

def deep(name, seed=7):
    return make(name, seed=seed, depth=12)


@pytest.mark.parametrize("name", DEEP)
def test_every_head_its_own_cluster_gives_the_ancestry(name):
    model = deep(name)
    x = pictures(model)
    found = lg.condense(model, x, eps=1e-7, ffn_eps=1e-9)
    assert found.n_centroids == [4] * 12 and len(found.ffn_groups) == 12
    with torch.no_grad():
        wanted = model(x)
        assert wanted.std() > 0.05
        for proj, ffn in [*itertools.product(PROJ, ["copy"]), ("paper", "transform")]:
            child = lg.inherit(found, proj=proj, ffn=ffn)
            assert (child(x) - wanted).abs().max() < 1e-5, (proj, ffn)
            assert not child.training


def with_twins(model, seed=0):
    "Copy q, k, v of some heads over others of the same layer: returns the partition of the heads in each layer."
    r, parts = random.Random(seed), []
    for block in model.blocks:
        H, hd, parts_here = block.attn.num_heads, block.attn.head_dim, {}
        label = [r.randrange(3) for _ in range(H)]
        for h in range(H):
            parts_here.setdefault(label[h], []).append(h)
        with torch.no_grad():
            for heads in parts_here.values():
                for which, h in itertools.product(range(3), heads[1:]):
                    to, of = (which * H + h) * hd, (which * H + heads[0]) * hd
                    for t in (block.attn.qkv.weight, block.attn.qkv.bias):
                        if t is not None:
                            t[to:to + hd] = t[of:of + hd].clone()
        parts.append(sorted(tuple(p) for p in parts_here.values()))
    return parts


@pytest.mark.parametrize("name", DEEP)
def test_folded_keeps_the_function_when_the_heads_of_a_cluster_are_identical(name):
    model = deep(name)
    parts = with_twins(model)
    x = pictures(model)
    found = lg.condense(model, x, eps=1e-4, ffn_eps=1e-9)
    assert [sorted(c.heads for c in layer) for layer in found.clusters] == parts
    assert {len(p) for p in parts} >= {2, 3}
    limit = 1e-4 if name == "post norm" else 1e-5  # norms after every block enlarge rounding
    with torch.no_grad():
        wanted = model(x)
        for heads in (None, 3, 7, [c + i % 2 * 3 for i, c in enumerate(found.n_centroids)]):
            assert (lg.inherit(found, heads=heads, proj="folded")(x) - wanted).abs().max() < limit, heads
        assert (lg.inherit(found, heads=8, proj="aligned")(x) - wanted).abs().max() > 1e-2  # not for free
        if min(found.n_centroids) < max(found.n_centroids):
            assert (lg.inherit(found, heads=1, proj="folded")(x) - wanted).abs().max() > 1e-2


def test_identical_ffns_may_be_shared():
    model = make("dinov2", depth=5)
    for i in (2, 3):
        model.blocks[i].mlp.load_state_dict(model.blocks[1].mlp.state_dict())
    found = learngene_of(model, [[((h,), h) for h in range(4)]] * 5, [[0], [1, 2, 3], [4]])
    x = pictures(model)
    with torch.no_grad():
        for ffn in ("copy", "transform"):
            assert (lg.inherit(found, ffn=ffn)(x) - model(x)).abs().max() < 1e-5


# ---- inherited parameters, counted

def numbered(model, fill=False):
    "Every value of the model is a number of its own: 1, 2, 3, ..."
    n = 1
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(n, n + p.numel(), dtype=torch.float32).view(p.shape))
            n += p.numel()
    assert n < 2**24  # all exact in float32
    return model


@pytest.mark.parametrize("groups", [[[0], [1], [2]], [[0, 1], [2]], [[0, 1, 2]]])
@pytest.mark.parametrize("proj", ["paper", "aligned"])
@pytest.mark.parametrize("name", ["dinov2", "distilled", "siglip", "qk norm"])
def test_inherited_params_are_the_distinct_values(name, proj, groups):
    model = numbered(make(name))
    found = learngene_of(model, groups=groups)
    for how in [dict(), dict(heads=1), dict(heads=3), dict(heads=9), dict(heads=[1, 9, 4]), dict(depth=2), dict(depth=1, heads=2), dict(depth=2, layers="even", heads=[2, 1]),
                dict(num_classes=7), dict(num_classes=0, heads=5)]:
        plan = lg.plan(found, proj=proj, **how)
        child = lg.merge(lg.inherit(found, proj=proj, **how))
        values = [t.flatten() for k, t in child.state_dict().items() if not (how.get("num_classes") is not None and k.startswith("head"))]
        assert plan.inherited_params == torch.cat(values).unique().numel(), how


def test_inherited_params_of_one_head_a_cluster_is_the_whole_ancestry():
    model = make("plain")
    found = learngene_of(model, [[((h,), h) for h in range(4)]] * 3, [[0], [1], [2]])
    for proj in PROJ:
        assert lg.plan(found, proj=proj).inherited_params == sum(p.numel() for p in model.parameters())


# ---- the sharing rule and the plan

def test_share_heads():
    assert [i + 1 for i in lg.share_heads(5, 8)] == [1, 2, 3, 4, 5, 1, 2, 3]
    assert lg.share_heads(2, 8) == [0, 1] * 4 and lg.share_heads(5, 3) == [0, 1, 2] and lg.share_heads(1, 1) == [0]
    for c, h in itertools.product(range(1, 9), range(1, 20)):
        assert lg.share_heads(c, h) == (list(range(c)) * (h // c) + list(range(h % c)))
    for c, h in [(0, 3), (3, 0), (-1, 2)]:
        with pytest.raises(ValueError):
            lg.share_heads(c, h)


def test_plan_says_what_inherit_does():
    model = make("plain")
    found = learngene_of(model)
    plan = lg.plan(found, depth=2, heads=[3, 5], layers="even")
    assert [(p.source, p.heads, p.positions, p.ffn) for p in plan.layers] == [(0, (2, 0, 2), (0, 1, 0), 0), (2, (1,) * 5, (0,) * 5, 1)]
    text = str(plan)
    assert "2  0  2" in text and "1  1  1  1  1" in text and len(text.splitlines()) == 3 and "M inherited" in text and repr(plan) == text
    page = plan._repr_html_()
    assert page.count("<tr>") == 3 and "<td>2 0 2</td>" in page and "<td>1 1 1 1 1</td>" in page


def test_plan_is_drawn():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    ax = lg.plan(learngene_of(make("plain")), heads=[3, 5, 2]).draw()
    texts = [t.get_text() for t in ax.texts]
    assert sum(t.isdigit() for t in texts) == 3 + 5 + 2 + 2 * 3  # every head, and source and FFN of every layer
    plt.close("all")


@pytest.mark.parametrize("L, depth, wanted", [(12, 6, None), (12, 9, None), (12, 12, list(range(12))), (12, 2, [0, 11]), (12, 1, [0]), (12, 4, None), (5, 3, [0, 2, 4])])
def test_layers(L, depth, wanted):
    found = learngene_of(make("plain", depth=L), [[((0, 1, 2, 3), 0)]] * L, [[i] for i in range(L)])
    assert [p.source for p in lg.plan(found, depth=depth).layers] == list(range(depth))
    even = [p.source for p in lg.plan(found, depth=depth, layers="even").layers]
    assert len(set(even)) == depth and even == sorted(even) and even[0] == 0 and (depth == 1 or even[-1] == L - 1)
    if wanted:
        assert even == wanted
    if depth > 1:
        steps = [b - a for a, b in itertools.pairwise(even)]
        assert max(steps) - min(steps) <= 1


# ---- classifier

@pytest.mark.parametrize("name", ["plain", "distilled", "siglip", "avg"])
def test_classifier(name):
    model = make(name)
    found, x = learngene_of(model), pictures(model)
    kept = lg.inherit(found)
    heads = [k for k in model.state_dict() if k.startswith("head")]
    assert len(heads) == (4 if name == "distilled" else 2) and all(torch.equal(kept.state_dict()[k], model.state_dict()[k]) for k in heads)
    for n in (5, 11):  # a fresh one even where the number is the ancestry's
        torch.manual_seed(0)
        fresh = lg.inherit(found, num_classes=n)
        torch.manual_seed(0)
        assert unchanged(copy_of(fresh), lg.inherit(found, num_classes=n))
        assert fresh(x).shape == (3, n) and fresh.num_classes == n
        for k in heads:
            t = fresh.state_dict()[k]
            assert t.shape[0] == n
            if t.ndim == 1:
                assert not t.any()
            else:
                assert 0.01 < t.std() < 0.03 and not torch.equal(t[:5], model.state_dict()[k])
        rest = {k: v for k, v in copy_of(fresh).items() if not k.startswith("head")}
        assert unchanged(rest, {k: v for k, v in kept.state_dict().items() if not k.startswith("head")})
    none = lg.inherit(found, num_classes=0)
    assert none(x).shape == (3, 32) and not any(k.startswith("head") for k in none.state_dict())
    assert lg.inherit(found, num_classes=1)(x).shape == (3, 1)


def test_an_ancestry_without_classifier():
    model = make("grey, no classes")
    found = learngene_of(model)
    assert lg.inherit(found)(pictures(model)).shape == (3, 32) and lg.inherit(found, num_classes=4)(pictures(model)).shape == (3, 4)


# ---- independence

@pytest.mark.parametrize("num_classes", [None, 3])
def test_parameters_are_independent(num_classes):
    model = make("dinov2")
    found = learngene_of(model, groups=[[0, 1, 2]])
    a, b = (lg.inherit(found, heads=8, ffn="copy", num_classes=num_classes) for _ in range(2))
    stores = [t.untyped_storage().data_ptr() for m in (a, b, model) for t in m.state_dict().values()] + [t.untyped_storage().data_ptr() for t in found.tensors.values()]
    assert len(stores) == len(set(stores))
    assert len({id(p) for p in a.parameters()}) == len(list(a.named_parameters(remove_duplicate=False)))


@pytest.mark.parametrize("ffn", ["copy", "transform"])
@pytest.mark.parametrize("name", ZOO)
def test_all_parameters_train_and_nothing_else_moves(name, ffn):
    model = make(name)
    L = len(model.blocks)
    found, x = learngene_of(model, CLUSTERS[:L], [list(range(L))]), pictures(model)
    ancestry, kept = copy_of(model), {k: v.clone() for k, v in found.tensors.items()}
    child = lg.inherit(found, heads=6, num_classes=3, ffn=ffn).train()
    assert all(p.requires_grad and p.is_leaf and not p.is_meta for p in child.parameters())
    assert not any(b.is_meta for b in child.buffers())
    out = child(x)
    (out[0] if isinstance(out, tuple) else out).logsumexp(1).sum().backward() if not isinstance(out, tuple) else sum(o.logsumexp(1).sum() for o in out).backward()
    before = {k: p.detach().clone() for k, p in child.named_parameters()}
    unused = {k for k, p in child.named_parameters() if p.grad is None}
    assert not unused, unused
    torch.optim.SGD(child.parameters(), lr=0.1).step()
    still = {k for k, p in child.named_parameters() if torch.equal(before[k], p)}
    assert all("k_norm.bias" in k or "attn_pool" in k for k in still), still
    assert unchanged(ancestry, model) and unchanged(kept, found.tensors)


def test_plain_timm_model():
    "Uniform shapes: the state dict goes strictly into a model that timm builds itself, with the same logits."
    model = make("dinov2")
    child = lg.merge(lg.inherit(learngene_of(model), depth=2, heads=4, num_classes=9))
    twin = VisionTransformer(reg_tokens=4, no_embed_class=True, init_values=1e-5, **SMALL | dict(depth=2, num_classes=9)).eval()
    twin.load_state_dict(child.state_dict(), strict=True)
    x = pictures(model)
    with torch.no_grad():
        assert torch.equal(twin(x), child(x))
    assert type(child) is VisionTransformer and kinds(child) == kinds(twin)
    deit = make("timm deit")
    child = lg.inherit(learngene_of(deit, CLUSTERS[:2], [[0], [1]]), depth=1, ffn="copy")
    timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, embed_dim=32, depth=1, num_heads=4, num_classes=5).load_state_dict(child.state_dict(), strict=True)


def test_timms_own_ways_still_work():
    child = lg.inherit(learngene_of(make("plain")), heads=[2, 8, 4], ffn="copy")
    x = pictures(child)
    child.reset_classifier(3)
    assert child(x).shape == (3, 3) and len(child.forward_intermediates(x, intermediates_only=True)) == 3
    child.set_grad_checkpointing()
    child.train()(x).sum().backward()
    assert all(p.grad is not None for p in child.parameters())


# ---- the FFN transform

def unmerged(name="plain", groups=((0, 1, 2),), **how):
    model = make(name)
    return model, lg.inherit(learngene_of(model, groups=groups), **how)


def transformed(model):
    return [n for n, m in model.named_modules() if parametrize.is_parametrized(m)]


@pytest.mark.parametrize("name", ["plain", "swiglu", "packed swiglu", "mlp norm, no proj bias"])
def test_transform_starts_exactly_at_the_centroid(name):
    model, child = unmerged(name)
    linears = [n for n, m in model.blocks[0].mlp.named_modules() if isinstance(m, torch.nn.Linear)]
    assert len(transformed(child)) == 3 * len(linears) >= 6
    for block, n in itertools.product(child.blocks, linears):
        assert torch.equal(block.mlp.get_submodule(n).weight, model.blocks[0].mlp.get_submodule(n).weight)
    x = pictures(model)
    with torch.no_grad():
        assert torch.equal(child(x), lg.inherit(learngene_of(model, groups=[[0, 1, 2]]), ffn="copy")(x))


def test_the_centroid_is_one_parameter_that_the_layers_share():
    model, child = unmerged()
    a, b, c = (block.mlp.fc1.parametrizations.weight for block in child.blocks)
    assert a.original is b.original is c.original and a[0].transform is b[0].transform is c[0].transform
    own = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in child.parameters()) == own - 2 * 2 * 32 * 128 + 2 * (6 + 6 + 18 + 3)  # less two FFNs' matrices, plus 1 -> 6 -> 3 twice


def test_transform_only_where_ffns_are_shared():
    for groups, wanted in [([[0], [1], [2]], set()), ([[0], [1, 2]], {1, 2}), ([[0, 1], [2]], {0, 1})]:
        assert {int(n.split(".")[1]) for n in transformed(unmerged(groups=groups)[1])} == wanted
    assert transformed(unmerged(groups=[[0, 1], [2]], depth=1)[1]) == []  # one FFN of a group is no group
    assert transformed(unmerged(ffn="copy")[1]) == []


def test_transform_is_trained_end_to_end():
    model, child = unmerged(groups=[[0, 1], [2]])
    child.train()
    x = pictures(model)
    names = [k for k, _ in child.named_parameters() if "parametrizations" in k]
    assert len({k.rsplit(".", 1)[1] for k in names}) == 5  # shared weight, scale, shift, mix, offset
    child(x).logsumexp(1).sum().backward()
    for k, p in child.named_parameters():
        if "parametrizations" in k:
            assert p.grad is not None and p.grad.abs().sum() > 0, k
    centroid = model.blocks[0].mlp.fc1.weight.detach()
    torch.optim.AdamW(child.parameters(), lr=1e-2).step()
    a, b = child.blocks[0].mlp.fc1.weight, child.blocks[1].mlp.fc1.weight
    assert (a - b).abs().max() > 1e-4 and (a - centroid).abs().max() > 1e-4  # they part
    slope = (a - b).flatten() @ centroid.flatten()  # and not by a constant alone
    assert slope.abs() > 0


def stepped(child, steps=3):
    child.train()
    optimizer, x = torch.optim.SGD(child.parameters(), lr=0.05), pictures(child, seed=9)
    for _ in range(steps):
        optimizer.zero_grad()
        child(x).logsumexp(1).sum().backward()
        optimizer.step()
    return child.eval()


def test_merge_is_exact_and_leaves_a_plain_model():
    model, child = unmerged()
    stepped(child)
    x = pictures(model)
    with torch.no_grad():
        before = child(x)
        weights = [b.mlp.fc1.weight.clone() for b in child.blocks]
        assert lg.merge(child) is child
        assert torch.equal(child(x), before)
    assert not torch.equal(weights[0], weights[1])
    assert all(torch.equal(b.mlp.fc1.weight, w) for b, w in zip(child.blocks, weights))
    twin = VisionTransformer(**SMALL)
    assert child.state_dict().keys() == twin.state_dict().keys() and kinds(child) == kinds(twin)
    assert len({p.untyped_storage().data_ptr() for p in child.parameters()}) == len(list(child.parameters())) and all(p.requires_grad for p in child.parameters())
    state = copy_of(child)
    assert unchanged(state, lg.merge(child))  # twice is once
    stepped(child)


def test_merging_a_plain_model_does_nothing():
    model = make("plain")
    state = copy_of(model)
    assert unchanged(state, lg.merge(model))


def test_deep_copies_are_models_of_their_own():
    model, child = unmerged()
    x = pictures(model)
    twin = copy.deepcopy(child)
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in child.parameters())  # what is shared stays shared
    before = copy_of(child)
    stepped(twin)
    assert unchanged(before, child)
    with torch.no_grad():
        wanted, moved = child(x), twin(x)
        assert not torch.allclose(wanted, moved)
        lg.merge(twin)
        assert torch.equal(twin(x), moved) and torch.equal(child(x), wanted) and len(transformed(child)) == 6
        third = copy.deepcopy(child)
        lg.merge(child)
        assert len(transformed(third)) == 6 and torch.equal(third(x), wanted) and torch.equal(child(x), wanted)
    stepped(third)


def test_unmerged_state_can_be_restored():
    "A checkpoint of an unmerged model goes into a fresh unmerged one."
    model, child = unmerged()
    stepped(child)
    other = unmerged()[1]
    other.load_state_dict(child.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(pictures(model)), child(pictures(model)))


# ---- saving

def test_save_leaves_the_model_and_loads_in_a_fresh_process(tmp_path):
    from learngene.vit import fingerprint

    wanted, x = {}, pictures(make("dinov2"))
    for ffn in ("copy", "transform"):
        _, child = unmerged("dinov2", heads=[2, 9, 4], ffn=ffn, num_classes=3)
        stepped(child)
        state, parts = copy_of(child), transformed(child)
        with torch.no_grad():
            logits = child(x)
            assert lg.save_descendant(child, tmp_path / ffn, recipe="mine") == tmp_path / ffn
            assert torch.equal(child(x), logits)
        assert unchanged(state, child) and transformed(child) == parts and len(parts) == (6 if ffn == "transform" else 0)
        stepped(copy.deepcopy(child), 1)  # still trains
        wanted[ffn] = logits, fingerprint(lg.merge(child))
    torch.save(x, tmp_path / "x.pt")
    code = """
import learngene as lg, torch
from learngene.vit import fingerprint
torch.set_num_threads(1)
x = torch.load('x.pt', weights_only=True)
for ffn in ('copy', 'transform'):
    m = lg.load_descendant(ffn)
    assert type(m).__module__.startswith('timm.') and not m.training and all(p.requires_grad for p in m.parameters())
    with torch.no_grad():
        torch.save((m(x), fingerprint(m)), ffn + '.pt')
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    for ffn, (logits, print_) in wanted.items():
        found = torch.load(tmp_path / f"{ffn}.pt", weights_only=True)
        assert torch.equal(found[0], logits) and found[1] == print_


@pytest.mark.parametrize("name", ZOO)
def test_saved_descendants_of_every_architecture(name, tmp_path):
    model = make(name)
    child = lg.inherit(learngene_of(model, CLUSTERS[: len(model.blocks)], [list(range(len(model.blocks)))]), heads=6)
    lg.save_descendant(child, tmp_path / "d")
    again = lg.load_descendant(tmp_path / "d")
    with torch.no_grad():
        assert torch.equal(again(pictures(model)), child(pictures(model)))
    assert lg.load_ancestry(tmp_path / "d")(pictures(model)).shape == child(pictures(model)).shape  # a descendant may be an ancestry


def test_a_descendant_is_condensed_again():
    model, child = unmerged(ffn="copy", heads=8)
    x = pictures(model)
    found = lg.condense(child, x, eps=1e-6, ffn_eps=1e-9)
    assert found.config["heads"] == [8, 8, 8]
    with torch.no_grad():
        assert (lg.inherit(found, proj="folded")(x) - child(x)).abs().max() < 1e-5


def test_a_descendant_whose_layers_have_different_numbers_of_heads_is_condensed_again():
    model, child = unmerged(ffn="copy", heads=[2, 8, 3])
    x = pictures(model)
    found = lg.condense(child, x, eps=1e-7, ffn_eps=1e-9)
    assert found.config["heads"] == [2, 8, 3] and [c.size for layer in found.clusters for c in layer] and all(h < n for layer, n in zip(found.clusters, [2, 8, 3]) for c in layer for h in c.heads)
    with torch.no_grad():
        assert (lg.inherit(found, proj="folded")(x) - child(x)).abs().max() < 1e-5


# ---- bad input

@pytest.mark.parametrize("bad, words", [
    (dict(depth=0), "depth is 0, wanted 1 to 3"), (dict(depth=4), "depth is 4"), (dict(depth=-1), "depth"), (dict(depth=1.5), "depth"), (dict(depth="2"), "depth is '2'"), (dict(num_classes="2"), "num_classes is '2'"),
    (dict(heads=0), "heads is 0"), (dict(heads=-2), "heads"), (dict(heads=65), "1 to 64"), (dict(heads=[4, 4]), "lists 2 layers, the descendant has 3"),
    (dict(heads=[4, 0, 4]), "heads is 0"), (dict(heads=[]), "heads"), (dict(heads=[4, 2.5, 4]), "heads is 2.5"), (dict(heads=4, omega=1), "not both"),
    (dict(omega=3), "omega is 3"), (dict(omega=0), "omega"), (dict(omega=-1), "omega"), (dict(omega=8), "omega"), (dict(omega=1 / 17), "16 times"),
    (dict(num_classes=-1), "num_classes"), (dict(num_classes=2.5), "num_classes"), (dict(proj="fold"), "did you mean 'folded'"), (dict(ffn="copies"), "did you mean 'copy'"),
    (dict(layers="evenly"), "did you mean 'even'"), (dict(heads=[4, None, 4]), "heads"),
])
def test_bad_shapes(bad, words):
    found = learngene_of(make("plain"))
    for call in (lg.plan, lg.inherit):
        with pytest.raises(ValueError, match=words):
            call(found, **bad)


def test_the_new_model_goes_to_the_device_of_the_ancestry(monkeypatch):
    "A learngene that was saved lies on the CPU, wherever its ancestry works."
    model, seen = make("plain"), []
    found = learngene_of(model)
    monkeypatch.setattr("learngene.budgeting.refit", lambda child, *args, **how: seen.append(next(child.parameters()).device.type))
    lg.inherit(found, refit=pictures(model), ancestry=make("plain").to("meta").double())  # another type: its weights are not compared
    assert seen == ["meta"]


@pytest.mark.parametrize("how, heads, depth", [
    (dict(heads=2.0), [2, 2, 2], 3), (dict(depth=2.0), [4, 4], 2), (dict(num_classes=7.0), [4] * 3, 3), (dict(heads=torch.tensor(2).numpy()[()]), [2] * 3, 3),
    (dict(heads=torch.tensor([2, 3, 4]).numpy()), [2, 3, 4], 3), (dict(heads=(2, 3, 4)), [2, 3, 4], 3), (dict(heads=torch.tensor([2, 3, 4])), [2, 3, 4], 3),
])
def test_whole_numbers_of_other_types(how, heads, depth):
    "Numbers as YAML, numpy and torch hand them over work like ints, all the way to a saved model; what is accepted does not fail later."
    import json

    from learngene.vit import vit_config

    child = lg.inherit(learngene_of(make("plain")), ffn="copy", **how)
    assert [b.attn.num_heads for b in child.blocks] == heads and len(child.blocks) == depth
    json.dumps(vit_config(child))
    assert child(pictures(child)).shape[0] == 3


@pytest.mark.parametrize("ancestry", [3, 4, 6, 12])
def test_omega_of_every_whole_head_count(ancestry):
    "omega = H_a / H_d as Python computes it gives H_d, whatever the rounding."
    model = VisionTransformer(**SMALL | dict(num_heads=ancestry, embed_dim=12 * 2, depth=1))
    found = learngene_of(shake(model), [[(tuple(range(ancestry)), 0)]], [[0]])
    for h in range(1, 16 * ancestry + 1):
        assert len(lg.plan(found, omega=ancestry / h).layers[0].heads) == h
