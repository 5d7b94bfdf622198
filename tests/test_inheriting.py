"Descendants against weights placed by hand, and against the ancestry's own function."
import copy
import itertools
import json
import random
import subprocess
import sys

import pytest
import timm
import torch
from conftest import SMALL, TINY, ZOO, make, pictures, shake
from timm.models.vision_transformer import VisionTransformer
from torch.nn.utils import parametrize

import learngene as lg
from learngene import inheriting
from learngene.condensing import gather
from learngene.drawing import draw_rows
from learngene.vit import fingerprint, vit_config

PROJ = ("paper", "aligned", "folded")
# clusters of 4 heads by hand: (heads, centroid), in priority order
CLUSTERS = [[((1, 2, 3), 2), ((0,), 0)], [((0, 3), 3), ((1, 2), 1)], [((0, 1, 2, 3), 1)]]
DEEP = ["plain", "distilled", "registers", "dinov2", "qk norm", "no qkv bias", "packed swiglu", "swiglu", "siglip",
        "post norm", "clip", "mlp norm, no proj bias", "not square"]


def learngene_of(model, clusters=CLUSTERS, groups=((0,), (1, 2))):
    head_clusters = [[lg.HeadCluster(heads, centroid, 0.0) for heads, centroid in layer] for layer in clusters]
    return gather(model, head_clusters, [list(group) for group in groups])


def copy_of(module):
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def unchanged(before, module):
    after = module if isinstance(module, dict) else module.state_dict()
    return before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())


def module_types(model):
    return {name: type(m).__name__ for name, m in model.named_modules()}


# ---- weights placed by hand

def qkv_by_hand(t, clusters, order, n_heads, head_dim):
    "Rows of queries, keys and values for the centroids in `order`."
    rows = []
    for which in range(3):
        for k in order:
            first = which * n_heads * head_dim + clusters[k][1] * head_dim
            rows += [t[first + r] for r in range(head_dim)]
    return torch.stack(rows)


def proj_by_hand(t, clusters, order, n_heads, head_dim, proj):
    "Columns of W^O for the centroids in `order`, one at a time."
    columns = []
    for j, k in enumerate(order):
        heads, centroid = clusters[k]
        for e in range(head_dim):
            if proj == "paper":
                columns.append(t[:, (j % n_heads) * head_dim + e])
            elif proj == "aligned":
                columns.append(t[:, centroid * head_dim + e])
            else:
                columns.append(sum(t[:, h * head_dim + e] for h in heads) / order.count(k))
    return torch.stack(columns, 1)


def by_hand(model, sources, counts, proj, groups, clusters=CLUSTERS, with_head=True):
    "The descendant's state dict, one head at a time."
    state, out = model.state_dict(), {}
    size = model.blocks[0].attn.num_heads, model.blocks[0].attn.head_dim
    for key, t in state.items():
        if not key.startswith("blocks.") and (with_head or not key.startswith("head")):
            out[key] = t
    for i, (source, n) in enumerate(zip(sources, counts)):
        c = len(clusters[source])
        order = list(range(c)) * (n // c) + list(range(n % c))
        ffn = next(group[0] for group in groups if source in group)
        for key, t in state.items():
            if key.startswith(f"blocks.{ffn}.mlp."):
                out[f"blocks.{i}." + key.split(".", 2)[2]] = t
            if not key.startswith(f"blocks.{source}.") or key.startswith(f"blocks.{source}.mlp."):
                continue
            if ".qkv." in key:
                t = qkv_by_hand(t, clusters[source], order, *size)
            elif key.endswith("attn.proj.weight"):
                t = proj_by_hand(t, clusters[source], order, *size, proj)
            out[f"blocks.{i}." + key.split(".", 2)[2]] = t
    return out


SHAPES = [  # arguments, ancestry layers, heads
    (dict(), [0, 1, 2], [4, 4, 4]), (dict(depth=2), [0, 1], [4, 4]), (dict(depth=1, heads=1), [0], [1]),
    (dict(heads=2), [0, 1, 2], [2, 2, 2]), (dict(heads=7), [0, 1, 2], [7, 7, 7]),
    (dict(heads=[1, 9, 3]), [0, 1, 2], [1, 9, 3]), (dict(heads=64, depth=1), [0], [64]),
    (dict(omega=2), [0, 1, 2], [2, 2, 2]), (dict(omega=0.5), [0, 1, 2], [8, 8, 8]),
    (dict(omega=4 / 3), [0, 1, 2], [3, 3, 3]), (dict(depth=2, layers="even"), [0, 2], [4, 4]),
    (dict(depth=2, layers="even", heads=[3, 5]), [0, 2], [3, 5]), (dict(depth=1, layers="even"), [0], [4]),
    (dict(depth=3, layers="even"), [0, 1, 2], [4, 4, 4]),
]


def check_weights(child, wanted, proj):
    state = child.state_dict()
    assert state.keys() == wanted.keys()
    for name, t in wanted.items():
        assert torch.allclose(state[name], t, atol=1e-7 if proj == "folded" else 0, rtol=0), name


@pytest.mark.parametrize("ffn", ["copy", "transform"])
@pytest.mark.parametrize("proj", PROJ)
@pytest.mark.parametrize("shape, sources, counts", SHAPES)
def test_every_weight_is_where_it_belongs(shape, sources, counts, proj, ffn):
    model, groups = make("dinov2", seed=4), [[0, 1], [2]]
    before = copy_of(model)
    child = lg.merge(lg.inherit(learngene_of(model, groups=groups), proj=proj, ffn=ffn, **shape))
    check_weights(child, by_hand(model, sources, counts, proj, groups), proj)
    assert [b.attn.num_heads for b in child.blocks] == counts and unchanged(before, model)
    with torch.no_grad():
        assert child(pictures(model)).shape == (3, 5)


@pytest.mark.parametrize("proj", PROJ)
@pytest.mark.parametrize("name", ZOO)
def test_every_weight_in_every_architecture(name, proj):
    model = make(name)
    clusters, groups = CLUSTERS[: len(model.blocks)], [[0, 1], [2]][: len(model.blocks) - 1]
    child = lg.merge(lg.inherit(learngene_of(model, clusters, groups), heads=6, proj=proj))
    check_weights(child, by_hand(model, range(len(model.blocks)), [6] * 3, proj, groups, clusters), proj)
    assert type(child) is type(model)


# ---- the ancestry's function

def deep(name, seed=7):
    "A model whose rounding errors could add up; one of them as deep as DeiT."
    return make(name, seed=seed, depth=12 if name == "plain" else 5)


@pytest.mark.parametrize("name", DEEP)
def test_every_head_its_own_cluster_gives_the_ancestry(name):
    model = deep(name)
    x = pictures(model)
    learngene = lg.condense(model, x, eps=1e-7, ffn_eps=1e-9)
    assert learngene.n_centroids == [4] * len(model.blocks) and len(learngene.ffn_groups) == len(model.blocks)
    with torch.no_grad():
        wanted = model(x)
        assert wanted.std() > 0.05
        for proj, ffn in [*itertools.product(PROJ, ["copy"]), ("paper", "transform")]:
            child = lg.inherit(learngene, proj=proj, ffn=ffn)
            assert (child(x) - wanted).abs().max() < 1e-5, (proj, ffn)
            assert not child.training


def duplicate_heads(model, seed=0):
    "Copy q, k, v of some heads over others of the same layer; return the partition of the heads in each layer."
    generator, partitions = random.Random(seed), []
    for block in model.blocks:
        n_heads, head_dim, sets = block.attn.num_heads, block.attn.head_dim, {}
        for head, label in enumerate([generator.randrange(3) for _ in range(n_heads)]):
            sets.setdefault(label, []).append(head)
        for heads in sets.values():
            for which, head in itertools.product(range(3), heads[1:]):
                target, source = (which * n_heads + head) * head_dim, (which * n_heads + heads[0]) * head_dim
                for t in (block.attn.qkv.weight, block.attn.qkv.bias):
                    if t is not None:
                        t.data[target:target + head_dim] = t.data[source:source + head_dim].clone()
        partitions.append(sorted(tuple(heads) for heads in sets.values()))
    return partitions


@pytest.mark.parametrize("name", DEEP)
def test_folding_keeps_the_function_when_the_heads_of_a_cluster_are_identical(name):
    model = deep(name)
    partitions = duplicate_heads(model)
    x = pictures(model)
    learngene = lg.condense(model, x, eps=1e-4, ffn_eps=1e-9)
    assert [sorted(c.heads for c in layer) for layer in learngene.clusters] == partitions
    assert {len(sets) for sets in partitions} >= {2, 3}
    limit = 1e-4 if name == "post norm" else 1e-5  # norms after every block enlarge rounding
    with torch.no_grad():
        wanted = model(x)

        def error(**shape):
            return (lg.inherit(learngene, **shape)(x) - wanted).abs().max()

        for heads in (None, 3, 7, [c + i % 2 * 3 for i, c in enumerate(learngene.n_centroids)]):
            assert error(heads=heads, proj="folded") < limit, heads
        assert error(heads=8, proj="aligned") > 1e-2  # not for free
        if min(learngene.n_centroids) < max(learngene.n_centroids):
            assert error(heads=1, proj="folded") > 1e-2


def test_identical_ffns_can_be_shared():
    model = make("dinov2", depth=5)
    for i in (2, 3):
        model.blocks[i].mlp.load_state_dict(model.blocks[1].mlp.state_dict())
    learngene = learngene_of(model, [[((h,), h) for h in range(4)]] * 5, [[0], [1, 2, 3], [4]])
    x = pictures(model)
    with torch.no_grad():
        for ffn in ("copy", "transform"):
            assert (lg.inherit(learngene, ffn=ffn)(x) - model(x)).abs().max() < 1e-5


# ---- inherited parameters, counted

def numbered(model):
    "Give every value of the model a number of its own: 1, 2, 3, ..."
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
    learngene = learngene_of(model, groups=groups)
    for shape in [dict(), dict(heads=1), dict(heads=3), dict(heads=9), dict(heads=[1, 9, 4]), dict(depth=2),
                  dict(depth=1, heads=2), dict(depth=2, layers="even", heads=[2, 1]), dict(num_classes=7),
                  dict(num_classes=0, heads=5)]:
        plan = lg.plan(learngene, proj=proj, **shape)
        state = lg.merge(lg.build(learngene, plan)).state_dict()
        fresh = {k for k in state if shape.get("num_classes") is not None and k.startswith("head")}
        values = [t.flatten() for k, t in state.items() if k not in fresh]
        assert plan.inherited_params == torch.cat(values).unique().numel(), shape


def test_inherited_params_of_one_head_a_cluster_are_all_of_the_ancestry():
    model = make("plain")
    learngene = learngene_of(model, [[((h,), h) for h in range(4)]] * 3, [[0], [1], [2]])
    for proj in PROJ:
        assert lg.plan(learngene, proj=proj).inherited_params == sum(p.numel() for p in model.parameters())


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
    "In code from 0; as text and as a table from 1."
    learngene = learngene_of(make("plain"))
    plan = lg.plan(learngene, depth=2, heads=[3, 5], layers="even")
    layers = [(p.source, p.heads, p.positions, p.ffn) for p in plan.layers]
    assert layers == [(0, (2, 0, 2), (0, 1, 0), 0), (2, (1,) * 5, (0,) * 5, 1)]
    text = str(plan)
    assert text.splitlines()[1:] == ["  layer  1 <-  1   heads <-  3  1  3   FFN <- 1",
                                     "  layer  2 <-  3   heads <-  2  2  2  2  2   FFN <- 2"]
    assert "2 layers" in text and "M inherited" in text and repr(plan) == text
    page = plan._repr_html_()
    assert page.count("<tr>") == 3 and "<td>3 1 3</td>" in page and "<td>2 2 2 2 2</td>" in page
    assert "descendant of 1 layer," in str(lg.plan(learngene, depth=1))


def test_plan_is_drawn_from_1():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    ax = lg.plan(learngene_of(make("plain")), heads=[3, 5, 2]).draw()
    numbers = [t.get_text() for t in ax.texts if t.get_text().isdigit()]
    assert len(numbers) == 3 + 5 + 2 + 2 * 3  # every head, and source and FFN of every layer
    assert numbers[:5] == ["3", "1", "3", "1", "1"]  # the heads of the first layer, its source and FFN
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2", "3"]
    plt.close("all")


def test_rows_are_drawn():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    ax = draw_rows({"ancestry": [(1, 0), (2, 1), (3, "0.7")], "descendant": [(2, 1)]})
    assert [t.get_text() for t in ax.texts] == ["1", "2", "3", "2"] and len(ax.patches) == 4
    assert ax.patches[1].get_facecolor() == ax.patches[3].get_facecolor() != ax.patches[0].get_facecolor()
    plt.close("all")


@pytest.mark.parametrize("L, depth, wanted", [
    (12, 6, None), (12, 9, None), (12, 12, list(range(12))), (12, 2, [0, 11]), (12, 1, [0]), (12, 4, None),
    (5, 3, [0, 2, 4]),
])
def test_layers(L, depth, wanted):
    learngene = learngene_of(make("plain", depth=L), [[((0, 1, 2, 3), 0)]] * L, [[i] for i in range(L)])
    assert [p.source for p in lg.plan(learngene, depth=depth).layers] == list(range(depth))
    even = [p.source for p in lg.plan(learngene, depth=depth, layers="even").layers]
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
    learngene, x = learngene_of(model), pictures(model)
    kept = lg.inherit(learngene).state_dict()
    heads = [k for k in model.state_dict() if k.startswith("head")]
    assert len(heads) == (4 if name == "distilled" else 2)
    assert all(torch.equal(kept[k], model.state_dict()[k]) for k in heads)
    for n in (5, 11):  # a fresh one even where the number is the ancestry's
        torch.manual_seed(0)
        fresh = lg.inherit(learngene, num_classes=n)
        torch.manual_seed(0)
        assert unchanged(copy_of(fresh), lg.inherit(learngene, num_classes=n))
        assert fresh(x).shape == (3, n) and fresh.num_classes == n
        for k in heads:
            t = fresh.state_dict()[k]
            assert t.shape[0] == n
            if t.ndim == 1:
                assert not t.any()
            else:
                assert 0.01 < t.std() < 0.03 and not torch.equal(t[:5], model.state_dict()[k])
        rest = {k: v for k, v in copy_of(fresh).items() if not k.startswith("head")}
        assert unchanged(rest, {k: v for k, v in kept.items() if not k.startswith("head")})
    none = lg.inherit(learngene, num_classes=0)
    assert none(x).shape == (3, 32) and not any(k.startswith("head") for k in none.state_dict())
    assert lg.inherit(learngene, num_classes=1)(x).shape == (3, 1)


def test_an_ancestry_without_classifier():
    model = make("grey, no classes")
    learngene, x = learngene_of(model), pictures(model)
    assert lg.inherit(learngene)(x).shape == (3, 32) and lg.inherit(learngene, num_classes=4)(x).shape == (3, 4)


# ---- independence

def memory_of(tensors):
    return [t.untyped_storage().data_ptr() for t in tensors]


@pytest.mark.parametrize("num_classes", [None, 3])
def test_parameters_are_independent(num_classes):
    model = make("dinov2")
    learngene = learngene_of(model, groups=[[0, 1, 2]])
    a, b = (lg.inherit(learngene, heads=8, ffn="copy", num_classes=num_classes) for _ in range(2))
    memory = memory_of([t for m in (a, b, model) for t in m.state_dict().values()] + [*learngene.tensors.values()])
    assert len(memory) == len(set(memory))
    assert len({id(p) for p in a.parameters()}) == len(list(a.named_parameters(remove_duplicate=False)))


@pytest.mark.parametrize("ffn", ["copy", "transform"])
@pytest.mark.parametrize("name", ZOO)
def test_all_parameters_train_and_nothing_else_changes(name, ffn):
    model = make(name)
    L = len(model.blocks)
    learngene, x = learngene_of(model, CLUSTERS[:L], [list(range(L))]), pictures(model)
    ancestry, stored = copy_of(model), {k: v.clone() for k, v in learngene.tensors.items()}
    child = lg.inherit(learngene, heads=6, num_classes=3, ffn=ffn).train()
    assert all(p.requires_grad and p.is_leaf and not p.is_meta for p in child.parameters())
    assert not any(b.is_meta for b in child.buffers())
    outputs = child(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(logits.logsumexp(1).sum() for logits in outputs).backward()
    before = {k: p.detach().clone() for k, p in child.named_parameters()}
    assert not {k for k, p in child.named_parameters() if p.grad is None}
    torch.optim.SGD(child.parameters(), lr=0.1).step()
    still = {k for k, p in child.named_parameters() if torch.equal(before[k], p)}
    assert all("k_norm.bias" in k or "attn_pool" in k for k in still), still
    assert unchanged(ancestry, model) and unchanged(stored, learngene.tensors)


def test_plain_timm_model():
    "Uniform shapes: the state dict goes strictly into a model that timm builds itself, with the same logits."
    model = make("dinov2")
    child = lg.merge(lg.inherit(learngene_of(model), depth=2, heads=4, num_classes=9))
    twin = ZOO["dinov2"](depth=2, num_classes=9).eval()
    twin.load_state_dict(child.state_dict(), strict=True)
    x = pictures(model)
    with torch.no_grad():
        assert torch.equal(twin(x), child(x))
    assert type(child) is VisionTransformer and module_types(child) == module_types(twin)
    deit = make("timm deit")
    child = lg.inherit(learngene_of(deit, CLUSTERS[:2], [[0], [1]]), depth=1, ffn="copy")
    twin = timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, **TINY | dict(depth=1))
    twin.load_state_dict(child.state_dict(), strict=True)


def test_timms_own_methods_work():
    child = lg.inherit(learngene_of(make("plain")), heads=[2, 8, 4], ffn="copy")
    x = pictures(child)
    child.reset_classifier(3)
    assert child(x).shape == (3, 3) and len(child.forward_intermediates(x, intermediates_only=True)) == 3
    child.set_grad_checkpointing()
    child.train()(x).sum().backward()
    assert all(p.grad is not None for p in child.parameters())


# ---- the FFN transform

def unmerged(name="plain", groups=((0, 1, 2),), **shape):
    "An ancestry, and a descendant whose layers share FFNs."
    model = make(name)
    return model, lg.inherit(learngene_of(model, groups=groups), **shape)


def transformed(model):
    "Names of the layers whose weights are computed by a transform."
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


def test_layers_share_the_centroid_as_one_parameter():
    model, child = unmerged()
    a, b, c = (block.mlp.fc1.parametrizations.weight for block in child.blocks)
    assert a.original is b.original is c.original and a[0].transform is b[0].transform is c[0].transform
    ancestry = sum(p.numel() for p in model.parameters())
    matrices, transforms = 2 * 2 * 32 * 128, 2 * (6 + 6 + 18 + 3)  # of two FFNs; 1 -> 6 -> 3, twice
    assert sum(p.numel() for p in child.parameters()) == ancestry - matrices + transforms


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
    assert (a - b).abs().max() > 1e-4 and (a - centroid).abs().max() > 1e-4  # they differ
    slope = (a - b).flatten() @ centroid.flatten()  # and not by a constant alone
    assert slope.abs() > 0


def stepped(child, steps=3):
    "Train a descendant for some steps."
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
    assert child.state_dict().keys() == twin.state_dict().keys() and module_types(child) == module_types(twin)
    assert len(set(memory_of(child.parameters()))) == len(list(child.parameters()))
    assert all(p.requires_grad for p in child.parameters())
    state = copy_of(child)
    assert unchanged(state, lg.merge(child))  # merging again changes nothing
    stepped(child)


def test_merging_a_plain_model_changes_nothing():
    model = make("plain")
    state = copy_of(model)
    assert unchanged(state, lg.merge(model))


def test_deep_copies_are_models_of_their_own():
    model, child = unmerged()
    x = pictures(model)
    twin = copy.deepcopy(child)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (twin, child)]
    assert sizes[0] == sizes[1]  # what is shared stays shared
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


def test_an_unmerged_state_dict_loads_into_an_unmerged_model():
    model, child = unmerged()
    stepped(child)
    other = unmerged()[1]
    other.load_state_dict(child.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(pictures(model)), child(pictures(model)))


# ---- saving

def test_save_leaves_the_model_and_loads_in_a_fresh_process(tmp_path):
    wanted, x = {}, pictures(make("dinov2"))
    for ffn in ("copy", "transform"):
        _, child = unmerged("dinov2", heads=[2, 9, 4], ffn=ffn, num_classes=3)
        stepped(child)
        state, names = copy_of(child), transformed(child)
        with torch.no_grad():
            logits = child(x)
            assert lg.save_descendant(child, tmp_path / ffn, recipe="mine") == tmp_path / ffn
            assert torch.equal(child(x), logits)
        assert unchanged(state, child) and transformed(child) == names
        assert len(names) == (6 if ffn == "transform" else 0)
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
    assert type(m).__module__.startswith('timm.') and not m.training
    assert all(p.requires_grad for p in m.parameters())
    with torch.no_grad():
        torch.save((m(x), fingerprint(m)), ffn + '.pt')
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    for ffn, (logits, weights) in wanted.items():
        loaded = torch.load(tmp_path / f"{ffn}.pt", weights_only=True)
        assert torch.equal(loaded[0], logits) and loaded[1] == weights


@pytest.mark.parametrize("name", ZOO)
def test_saved_descendants_of_every_architecture(name, tmp_path):
    model = make(name)
    L = len(model.blocks)
    child = lg.inherit(learngene_of(model, CLUSTERS[:L], [list(range(L))]), heads=6)
    lg.save_descendant(child, tmp_path / "d")
    again, x = lg.load_descendant(tmp_path / "d"), pictures(model)
    with torch.no_grad():
        assert torch.equal(again(x), child(x))
    assert lg.load_ancestry(tmp_path / "d")(x).shape == child(x).shape  # a descendant can be an ancestry


@pytest.mark.parametrize("heads", [8, [2, 8, 3]], ids=str)
def test_a_descendant_is_condensed_again(heads):
    model, child = unmerged(ffn="copy", heads=heads)
    x, counts = pictures(model), heads if isinstance(heads, list) else [heads] * 3
    learngene = lg.condense(child, x, eps=1e-7, ffn_eps=1e-9)
    assert learngene.config["heads"] == counts
    for layer, n in zip(learngene.clusters, counts):
        assert layer and all(head < n for cluster in layer for head in cluster.heads)
    with torch.no_grad():
        assert (lg.inherit(learngene, proj="folded")(x) - child(x)).abs().max() < 1e-5


# ---- bad input

@pytest.mark.parametrize("bad, words", [
    (dict(depth=0), "depth is 0, wanted 1 to 3"), (dict(depth=4), "depth is 4"), (dict(depth=-1), "depth"),
    (dict(depth=1.5), "depth"), (dict(depth="2"), "depth is '2'"), (dict(num_classes="2"), "num_classes is '2'"),
    (dict(heads=0), "heads is 0"), (dict(heads=-2), "heads"), (dict(heads=65), "1 to 64"),
    (dict(heads=[4, 4]), "lists 2 layers, the descendant has 3"), (dict(heads=[4, 0, 4]), "heads is 0"),
    (dict(heads=[]), "heads"), (dict(heads=[4, 2.5, 4]), "heads is 2.5"), (dict(heads=4, omega=1), "not both"),
    (dict(omega=3), "omega is 3"), (dict(omega=0), "omega"), (dict(omega=-1), "omega"), (dict(omega=8), "omega"),
    (dict(omega=1 / 17), "16 times"), (dict(num_classes=-1), "num_classes"), (dict(num_classes=2.5), "num_classes"),
    (dict(proj="fold"), "did you mean 'folded'"), (dict(ffn="copies"), "did you mean 'copy'"),
    (dict(order="ascend"), "did you mean 'ascending'"), (dict(layers="evenly"), "did you mean 'even'"),
    (dict(layers=2), "layers is 2"), (dict(layers=[]), "layers is"), (dict(layers=[1, 0]), "wanted 2 ascending layers"),
    (dict(layers=[0, 3]), "ascending layers of 0 to 2"), (dict(layers=[-1, 0]), "ascending layers"),
    (dict(layers=[0, 0.5]), "ascending layers"), (dict(layers=[0, 1], depth=3), "wanted 3 ascending"),
    (dict(heads=[4, None, 4]), "heads"),
], ids=str)
def test_bad_shapes_raise(bad, words):
    learngene = learngene_of(make("plain"))
    for call in (lg.plan, lg.inherit, inheriting.inherit):
        with pytest.raises(ValueError, match=words):
            call(learngene, **bad)


def test_the_refitted_model_is_on_the_device_of_the_ancestry(monkeypatch):
    "A saved learngene is on the CPU, whatever device its ancestry is on."
    model, devices = make("plain"), []

    def record(child, *args, **kwargs):
        devices.append(next(child.parameters()).device.type)

    monkeypatch.setattr("learngene.budgeting.refit", record)
    ancestry = make("plain").to("meta").double()  # another type: its weights are not compared
    lg.inherit(learngene_of(model), refit=pictures(model), ancestry=ancestry)
    assert devices == ["meta"]


@pytest.mark.parametrize("shape, heads", [
    (dict(heads=2.0), [2, 2, 2]), (dict(depth=2.0), [4, 4]), (dict(num_classes=7.0), [4, 4, 4]),
    (dict(heads=torch.tensor(2).numpy()[()]), [2, 2, 2]), (dict(heads=torch.tensor([2, 3, 4]).numpy()), [2, 3, 4]),
    (dict(heads=(2, 3, 4)), [2, 3, 4]), (dict(heads=torch.tensor([2, 3, 4])), [2, 3, 4]),
])
def test_whole_numbers_of_other_types(shape, heads):
    "Numbers as YAML, numpy and torch give them work like ints, all the way to a saved model."
    child = lg.inherit(learngene_of(make("plain")), ffn="copy", **shape)
    assert [b.attn.num_heads for b in child.blocks] == heads
    json.dumps(vit_config(child))
    assert child(pictures(child)).shape[0] == 3


@pytest.mark.parametrize("n", [3, 4, 6, 12])
def test_omega_of_every_whole_head_count(n):
    "omega = H_a / H_d as Python computes it gives H_d, whatever the rounding."
    model = VisionTransformer(**SMALL | dict(num_heads=n, embed_dim=12 * 2, depth=1))
    learngene = learngene_of(shake(model), [[(tuple(range(n)), 0)]], [[0]])
    for wanted in range(1, 16 * n + 1):
        assert len(lg.plan(learngene, omega=n / wanted).layers[0].heads) == wanted
