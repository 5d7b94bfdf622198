"Alternatives to the paper's choices: clusters, spread, centroids, orders, heads by depth; the released code."
import numpy as np
import pytest
import torch
from conftest import make, pictures
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import DBSCAN

import learngene as lg
from learngene.cluster import HeadCluster
from learngene.condensing import gather
from learngene.density import attention_distance_signature, patch_distances
from learngene.inheriting import ORDERS, PROJ, heads_by_depth, order_clusters
from learngene.methods import Shape
from learngene.methods.released import near_constant, with_runs, without_qkv_bias


def draws(n, seed=0, size=12):
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(size, generator=g, dtype=torch.float64) * 60 for _ in range(n)]


def groups(clusters):
    return {frozenset(c.heads) for c in clusters}


# ---- clusters

@pytest.mark.parametrize("k", [1, 2, 3])
def test_kmeans_makes_k_clusters_that_no_head_wants_to_leave(k):
    for d in draws(20):
        clusters = lg.cluster_heads(d, cluster_by="kmeans", k=k)
        assert len(clusters) == k and sorted(h for c in clusters for h in c.heads) == list(range(12))
        for c in clusters:
            assert all(abs(d[h] - c.mean) <= min(abs(d[h] - o.mean) for o in clusters) + 1e-9 for h in c.heads)
            assert c.mean == pytest.approx(d[list(c.heads)].mean().item())
            assert abs(d[c.centroid] - c.mean) == min(abs(d[h] - c.mean) for h in c.heads)
        assert clusters == lg.cluster_heads(d, cluster_by="kmeans", k=k)


@pytest.mark.parametrize("options", [
    dict(cluster_by="kmeans", k=3), dict(cluster_by="complete", eps=7), dict(cluster_by="dbscan", eps=3, min_heads=2),
])
@pytest.mark.parametrize("spread", [False, True])
def test_numbering_does_not_matter(options, spread):
    g = torch.Generator().manual_seed(5)
    for d in draws(20, seed=3):
        s = torch.rand(12, generator=g, dtype=torch.float64) * 20 if spread else None
        order = torch.randperm(12, generator=g)
        shuffled = lg.cluster_heads(d[order], spread=None if s is None else s[order], **options)
        renamed = {frozenset(order[list(c.heads)].tolist()) for c in shuffled}
        assert renamed == groups(lg.cluster_heads(d, spread=s, **options))


def test_complete_linkage_does_not_chain():
    chain = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert len(lg.cluster_heads(chain, eps=1)) == 1
    assert sorted(c.size for c in lg.cluster_heads(chain, eps=1, cluster_by="complete")) == [1, 2, 2]
    chained = 0
    for d in draws(50, seed=1):
        clusters = lg.cluster_heads(d, eps=6, cluster_by="complete")
        assert all(max(d[h] for h in c.heads) - min(d[h] for h in c.heads) <= 6 for c in clusters)
        labels = fcluster(linkage(d.numpy()[:, None], "complete"), 6, "distance")
        assert groups(clusters) == {frozenset(np.flatnonzero(labels == i).tolist()) for i in set(labels)}
        chains = lg.cluster_heads(d, eps=6)
        assert all(any(small <= big for big in groups(chains)) for small in groups(clusters))
        chained += len(clusters) > len(chains)
    assert chained > 10


def test_complete_linkage_joins_heads_exactly_eps_apart():
    for values in ([1.0, 3.0], [1.0]):
        assert len(lg.cluster_heads(values, eps=2, cluster_by="complete")) == 1


@pytest.mark.parametrize("min_heads", [1, 2, 3])
def test_two_numbers_agree_with_dbscan_in_the_plane(min_heads):
    g = torch.Generator().manual_seed(2)
    for d in draws(60, seed=4):
        s = torch.rand(12, generator=g, dtype=torch.float64) * 10
        reference = DBSCAN(eps=6, min_samples=min_heads).fit(torch.stack([d, s], 1))
        core = set(reference.core_sample_indices_.tolist())
        wanted = {frozenset(i for i in core if reference.labels_[i] == k) for k in set(reference.labels_) - {-1}}
        clusters = lg.cluster_heads(d, 6, min_heads, spread=s)
        assert {frozenset(c.heads) & core for c in clusters} == wanted
        assert {h for c in clusters for h in c.heads} == set(np.flatnonzero(reference.labels_ >= 0).tolist())


def test_a_constant_spread_changes_nothing():
    for d in draws(20):
        assert groups(lg.cluster_heads(d, 5, spread=torch.full((12,), 3.0))) == groups(lg.cluster_heads(d, 5))


def test_equal_heads_are_one_cluster_for_kmeans():
    assert groups(lg.cluster_heads([2.0, 2.0, 2.0], cluster_by="kmeans", k=3)) == {frozenset({0, 1, 2})}


@pytest.mark.parametrize("options, words", [
    (dict(cluster_by="k-means", k=2), "did you mean 'kmeans'"), (dict(cluster_by="kmeans"), "k is None"),
    (dict(cluster_by="kmeans", k=0), "k is 0"), (dict(cluster_by="kmeans", k=4), "k is 4"),
    (dict(k=2), "Leave k out"), (dict(cluster_by="complete", k=2), "Leave k out"),
    (dict(cluster_by="complete", min_heads=2), "no core heads"), (dict(spread=[1.0]), "spread"),
    (dict(spread=[1.0, -1.0, 0.0]), "spread"), (dict(cluster_by="complete", eps=0), "eps"),
])
def test_cluster_errors(options, words):
    with pytest.raises(ValueError, match=words):
        lg.cluster_heads([1.0, 2.0, 3.0], **options)


# ---- the second number

@pytest.mark.parametrize("name", ["plain", "registers", "avg", "qk norm"])
def test_spread_is_the_standard_deviation_under_attention(name):
    model = make(name, seed=4)
    x, maps = pictures(model), []
    mean, spread = attention_distance_signature(model, x, batch_size=2)
    assert torch.equal(mean, lg.mean_attention_distance(model, x, batch_size=2))
    for b in model.blocks:
        b.attn.fused_attn = False
        b.attn.attn_drop.register_forward_hook(lambda m, args, A: maps.append(A.double()))
    with torch.no_grad():
        model(x)
    n = model.num_prefix_tokens
    T = patch_distances(model.patch_embed.grid_size, model.patch_embed.patch_size).double().flatten()
    for layer, A in enumerate(maps):
        weights = A[:, :, n:, n:].sum(0).flatten(1)  # of each pair of patches, by head
        for head, w in enumerate(weights):
            m = np.average(T, weights=w)
            assert spread[layer, head].item() == pytest.approx(np.average((T - m) ** 2, weights=w) ** 0.5, rel=1e-4)


def test_condense_with_other_clusters():
    model = make("plain", seed=3)
    x = pictures(model)
    d, s = attention_distance_signature(model, x)
    two = lg.condense(model, x, eps=0.4, signature="mean+spread")
    assert two.clusters == [lg.cluster_heads(a, 0.4, spread=b) for a, b in zip(d, s)] and torch.equal(two.distances, d)
    km = lg.condense(model, x, eps=0.4, cluster_by="kmeans", k=2)
    assert km.n_centroids == [2, 2, 2] and km.ffn_groups == lg.cluster_ffns(d, km.clusters, 0.4)
    assert two.provenance["signature"] == "mean+spread"
    assert (km.provenance["cluster_by"], km.provenance["k"]) == ("kmeans", 2)
    plain = lg.condense(model, x, eps=0.4)
    assert set(plain.provenance) == {"eps", "ffn_eps", "min_heads", "rule", "ancestry"}
    for option, value in [("signature", "spread"), ("centroid", "mean"), ("ffn_centroid", "first")]:
        with pytest.raises(ValueError, match=option):
            lg.condense(model, x, **{option: value})


# ---- centroids

@pytest.mark.parametrize("centroid", ["nearest", "averaged"])
@pytest.mark.parametrize("ffn_centroid", ["nearest", "averaged"])
def test_centroids(tmp_path, centroid, ffn_centroid):
    model = make("plain", seed=3)
    state, x = {k: v.clone() for k, v in model.state_dict().items()}, pictures(model)
    options = dict(cluster_by="kmeans", k=2, ffn_eps=100.0)
    method = lg.methods.get("cluster-learngene", centroid=centroid, ffn_centroid=ffn_centroid, **options)
    payload = method.condense(model, x)
    assert payload.ffn_groups == [[0, 1, 2]] and max(c.size for layer in payload.clusters for c in layer) > 1
    for layer, clusters in enumerate(payload.clusters):
        for part in ("weight", "bias"):
            heads = state[f"blocks.{layer}.attn.qkv.{part}"].view(3, 4, 8, -1)
            for k, c in enumerate(clusters):
                wanted = heads[:, c.centroid] if centroid == "nearest" else sum(heads[:, h] for h in c.heads) / c.size
                stored = payload.tensors[f"blocks.{layer}.attn.qkv.{part}"][:, k].reshape(wanted.shape)
                assert torch.allclose(stored, wanted, atol=1e-6, rtol=0 if centroid == "nearest" else 1e-5)
    for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
        same = [state[f"blocks.{i}.mlp.{part}"] for i in range(3)]
        wanted = same[0] if ffn_centroid == "nearest" else sum(same) / 3
        assert torch.allclose(payload.tensors[f"blocks.0.mlp.{part}"], wanted, atol=1e-6)
    plain = lg.methods.get("cluster-learngene", **options).condense(model, x)
    assert payload.n_params == plain.n_params
    assert {k: t.shape for k, t in payload.tensors.items()} == {k: t.shape for k, t in plain.tensors.items()}
    others = [k for k in payload.tensors if ".qkv." not in k and ".mlp." not in k]
    assert all(torch.equal(payload.tensors[k], state[k]) for k in others)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    payload.save(tmp_path / "it")
    assert lg.Learngene.load(tmp_path / "it").provenance == payload.provenance
    child = method.expand(payload, Shape(depth=2, heads=3, num_classes=2))
    assert child(x).shape == (3, 2)
    assert method.inherited_params(payload, Shape(depth=2)) == method.inherited_params(plain, Shape(depth=2))


def test_a_cluster_of_one_is_its_own_average():
    model = make("plain", seed=3)
    nearest, averaged = (lg.condense(model, pictures(model), eps=1e-7, ffn_eps=1e-9, centroid=c, ffn_centroid=c)
                         for c in ("nearest", "averaged"))
    assert all(torch.equal(t, averaged.tensors[k]) for k, t in nearest.tensors.items())


# ---- orders

CLUSTERS = [HeadCluster((1, 4, 5), 4, 20.0), HeadCluster((2, 3), 2, 50.0),
            HeadCluster((0,), 0, 35.0), HeadCluster((6,), 6, 5.0)]


@pytest.mark.parametrize("order, wanted", [
    ("priority", [4, 2, 0, 6]), ("original", [0, 2, 4, 6]), ("ascending", [6, 4, 0, 2]), ("descending", [2, 0, 4, 6]),
])
def test_orders(order, wanted):
    assert [CLUSTERS[k].centroid for k in order_clusters(CLUSTERS, order)] == wanted


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("proj", PROJ)
def test_an_order_says_which_heads_are_copied(order, proj):
    model = make("plain", seed=3)
    x, state = pictures(model), model.state_dict()
    learngene = lg.condense(model, x, eps=0.2, ffn_eps=1e-9)
    assert max(learngene.n_centroids) > 1
    plan = lg.plan(learngene, heads=3, proj=proj, order=order)
    child = lg.inherit(learngene, heads=3, proj=proj, order=order)
    for p, block, clusters in zip(plan.layers, child.blocks, learngene.clusters):
        by_mean = sorted(clusters, key=lambda c: c.mean)
        ordered = dict(priority=clusters, original=sorted(clusters, key=lambda c: c.centroid), ascending=by_mean,
                       descending=by_mean[::-1])[order]
        assert list(p.heads) == [ordered[i % len(ordered)].centroid for i in range(3)]
        assert [clusters[k].centroid for k in p.positions] == list(p.heads)
        qkv = state[f"blocks.{p.source}.attn.qkv.weight"].view(3, 4, 8, 32)[:, list(p.heads)]
        assert torch.equal(block.attn.qkv.weight.view(3, 3, 8, 32), qkv)
        if proj == "aligned":
            columns = state[f"blocks.{p.source}.attn.proj.weight"].view(32, 4, 8)[:, list(p.heads)]
            assert torch.equal(block.attn.proj.weight.view(32, 3, 8), columns)
    assert (f"order={order!r}" in str(plan)) == (order != "priority")
    method = lg.methods.get("cluster-learngene", eps=0.2, ffn_eps=1e-9, proj=proj, order=order)
    expanded = method.expand(learngene, Shape(heads=3)).state_dict()
    assert all(torch.equal(v, child.state_dict()[k]) for k, v in expanded.items())
    with pytest.raises(ValueError, match="did you mean 'ascending'"):
        lg.plan(learngene, order="ascend")


# ---- heads that vary with depth

@pytest.mark.parametrize("heads, depth, more, middle, wanted", [
    (12, 12, "later", 3 / 4, [6] * 4 + [9] * 4 + [12] * 4), (12, 12, "earlier", 3 / 4, [12] * 4 + [9] * 4 + [6] * 4),
    (12, 6, "later", 2 / 3, [6, 6, 8, 8, 12, 12]), (6, 6, "later", 3 / 4, [3, 3, 4, 4, 6, 6]),
    (8, 4, "later", 3 / 4, [4, 4, 6, 8]), (1, 3, "earlier", 3 / 4, [1, 1, 1]), (12, 1, "later", 3 / 4, [12]),
    (12, 2, "later", 2 / 3, [6, 12]), (12, 2, "earlier", 3 / 4, [12, 6]),
])
def test_heads_by_depth(heads, depth, more, middle, wanted):
    assert heads_by_depth(heads, depth, more, middle) == wanted


@pytest.mark.parametrize("options", [dict(more="last"), dict(middle=0), dict(middle=1.5), dict(heads=0), dict(depth=0)])
def test_heads_by_depth_errors(options):
    with pytest.raises(ValueError):
        heads_by_depth(**(dict(heads=12, depth=6) | options))


def test_heads_by_depth_makes_descendants():
    model = make("plain", seed=3)
    learngene = lg.condense(model, pictures(model), eps=0.2)
    counts = heads_by_depth(4, 3)
    assert [b.attn.num_heads for b in lg.inherit(learngene, heads=counts).blocks] == counts == [2, 3, 4]


# ---- the released code's differences

OFF = dict(qkv="heads", drop_qkv_bias=False, proj="paper", ffn="copy", pixels="normalised")
BASE = dict(eps=0.2, ffn_eps=1e-9)


@pytest.fixture(scope="module")
def ancestry():
    return make("plain", seed=3)


def started(ancestry, shape=Shape(), **options):
    method = lg.methods.get("cluster-learngene-released", **options)
    payload = method.condense(ancestry, pictures(ancestry))
    return method, payload, method.expand(payload, shape)


def test_all_switches_off_is_our_method(ancestry):
    shape = Shape(depth=2, heads=5)
    method = lg.methods.get("cluster-learngene", ffn="copy", **BASE)
    payload = method.condense(ancestry, pictures(ancestry))
    _, released_payload, released_model = started(ancestry, shape, **OFF | BASE)
    expected, state = method.expand(payload, shape).state_dict(), released_model.state_dict()
    assert released_payload.tensors.keys() == payload.tensors.keys()
    assert all(torch.equal(t, payload.tensors[k]) for k, t in released_payload.tensors.items())
    assert all(torch.equal(t, state[k]) for k, t in expected.items())


@pytest.mark.parametrize("heads", [2, 4, 7])
def test_contiguous_rows(ancestry, heads):
    method, payload, model = started(ancestry, Shape(heads=heads), **OFF | BASE | dict(qkv="contiguous"))
    for i, (block, p) in enumerate(zip(model.blocks, method.plan(payload, Shape(heads=heads)).layers)):
        for part in ("weight", "bias"):
            rows = ancestry.state_dict()[f"blocks.{i}.attn.qkv.{part}"]
            wanted = torch.cat([rows[24 * h: 24 * h + 24] for h in p.heads])  # head_dim is 8
            assert torch.equal(getattr(block.attn.qkv, part), wanted)


def test_dropped_bias(ancestry):
    method, payload, model = started(ancestry, Shape(heads=2), **OFF | BASE | dict(drop_qkv_bias=True))
    with_bias, payload_with_bias, other = started(ancestry, Shape(heads=2), **OFF | BASE)
    assert all(b.attn.qkv.bias is None for b in model.blocks)
    assert all(torch.equal(t, other.state_dict()[k]) for k, t in model.state_dict().items())
    assert payload_with_bias.n_params - payload.n_params == 24 * sum(payload.n_centroids)
    distinct = sum(len(set(p.heads)) for p in with_bias.plan(payload_with_bias, Shape(heads=2)).layers)
    inherited = with_bias.inherited_params(payload_with_bias, Shape(heads=2))
    assert inherited - method.inherited_params(payload, Shape(heads=2)) == 24 * distinct


@pytest.mark.parametrize("ffn", ["random-group", "random"])
def test_random_transform(ancestry, ffn):
    options = OFF | dict(eps=100.0)  # one FFN for all
    torch.manual_seed(0)
    _, payload, model = started(ancestry, ffn_eps=100.0, **options | dict(ffn=ffn))
    _, _, copy = started(ancestry, ffn_eps=100.0, **options)
    assert payload.ffn_groups == [[0, 1, 2]]
    weights = [b.mlp.fc1.weight for b in model.blocks]
    for a in weights:
        others = [copy.blocks[0].mlp.fc1.weight, *(w for w in weights if w is not a)]
        assert not any(torch.equal(a, b) for b in others)
    assert all(isinstance(p, torch.nn.Parameter) and p.requires_grad for p in weights)
    assert not any("parametrizations" in k for k in model.state_dict())
    same = [k for k in model.state_dict() if "mlp.fc" not in k or k.endswith("bias") and ffn == "random"]
    assert all(torch.equal(model.state_dict()[k], copy.state_dict()[k]) for k in same)
    by_value = {}  # equal weights become equal weights: it works value by value
    for before, after in zip(copy.blocks[0].mlp.fc1.weight.flatten().tolist(), weights[1].flatten().tolist()):
        assert by_value.setdefault(before, after) == after
    _, _, alone = started(ancestry, **OFF | BASE | dict(ffn=ffn))  # no group, nothing replaced
    assert torch.equal(alone.blocks[1].mlp.fc1.weight, ancestry.blocks[1].mlp.fc1.weight)


def test_near_constant_images():
    x = torch.rand(2, 3, 4, 4)
    m, s = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.allclose(near_constant((x - m) / s), (x - 255 * m) / (255 * s), atol=1e-5)
    assert torch.allclose(near_constant((x[:, :1] - 0.3) / 0.4, 0.3, 0.4), (x[:, :1] - 76.5) / 102, atol=1e-5)
    for args in [(x, 0.5), (x, None, 0.5), (x[:, :1],), (x, (0.5, 0.5), (0.5, 0.5))]:
        with pytest.raises(ValueError, match="mean"):
            near_constant(*args)


def test_pixels_reach_the_density(ancestry):
    _, payload, _ = started(ancestry, **OFF | BASE | dict(pixels="near-constant"))
    assert torch.equal(payload.distances, lg.mean_attention_distance(ancestry, near_constant(pictures(ancestry))))
    assert not torch.equal(payload.distances, lg.mean_attention_distance(ancestry, pictures(ancestry)))


@pytest.mark.parametrize("shape", [
    Shape(), Shape(depth=2, heads=2, num_classes=7), Shape(heads=[3, 8, 1], num_classes=2),
], ids=str)
def test_released_shapes_and_a_step(ancestry, shape):
    _, _, model = started(ancestry, shape)
    x = pictures(ancestry)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    loss = torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 1]))
    loss.backward()
    optimizer.step()
    assert model(x).shape == (3, shape.num_classes or 5) and loss.isfinite()


# the released computation, written as plain loops over values, heads and columns

KEPT = [[2, 0], [3, 1, 0], [1], [0, 1, 2, 3], [3, 2], [2, 1, 3]]  # centroids of each of six layers, by priority
GROUPS = [[0], [1], [2, 3], [4, 5]]  # layers that share an FFN: one group in the middle, one at the end


@pytest.fixture(scope="module")
def six_layers():
    return make("plain", seed=5, depth=6)


def released_payload(model):
    "A learngene of the stated heads and groups, cut as the released code cuts: runs of rows, no bias."
    clusters = [[HeadCluster((h,), h, 0.0) for h in heads] for heads in KEPT]
    return without_qkv_bias(with_runs(gather(model, clusters, GROUPS), model))


def released_attention(x, model, layer, heads):
    "Attention of one layer with so many heads, from the ancestry's matrices, one row, column and head at a time."
    attn, width = model.blocks[layer].attn, x.shape[-1]
    n_before, head_dim = attn.num_heads, attn.head_dim
    copied = [KEPT[layer][i % len(KEPT[layer])] for i in range(heads)]
    rows = [attn.qkv.weight[run * 3 * head_dim + r] for run in copied for r in range(3 * head_dim)]
    columns = range(heads * head_dim)  # of W^O: the first ones, or each so many times in a row
    if heads > n_before:
        columns = [c for c in range(n_before * head_dim) for _ in range(heads // n_before)]
    out = attn.proj.bias.expand(len(x), x.shape[1], width).clone()
    for h in range(heads):
        q, k, v = (torch.stack([x @ rows[(part * heads + h) * head_dim + i] for i in range(head_dim)], -1)
                   for part in range(3))
        mixed = torch.softmax(q @ k.transpose(1, 2) / head_dim ** 0.5, -1) @ v
        for i in range(head_dim):
            out += mixed[..., i, None] * attn.proj.weight[:, columns[h * head_dim + i]]
    return out


def released_values(tensor, inner, outer):
    "Each value w through the network 1 -> k -> k: k tensors."
    k, made = len(outer.bias), torch.zeros(len(outer.bias), *tensor.shape)
    a, b, c, e = inner.weight[:, 0].tolist(), inner.bias.tolist(), outer.weight.tolist(), outer.bias.tolist()
    for at, w in zip(np.ndindex(*tensor.shape), tensor.flatten().tolist()):
        hidden = [max(0.0, a[j] * w + b[j]) for j in range(k)]
        for t in range(k):
            made[(t, *at)] = e[t] + sum(c[t][j] * hidden[j] for j in range(k))
    return made


@pytest.mark.parametrize("heads", [2, 4, 8, 16, 32], ids=lambda heads: f"omega={4 / heads:g}")
def test_released_attention_is_the_plain_loops(six_layers, heads):
    method = lg.methods.get("cluster-learngene-released", ffn="copy")
    child, x = method.expand(released_payload(six_layers), Shape(heads=heads)), pictures(six_layers)
    seen = []  # input and output of each layer's attention
    for block in child.blocks:
        assert block.attn.num_heads == heads
        block.attn.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        child(x)
        for layer, (tokens, out) in enumerate(seen):
            assert torch.allclose(out, released_attention(tokens, six_layers, layer, heads), atol=1e-5, rtol=1e-5)
        if heads > 4:  # the other reading of "in proportion" is another function
            blocks = lg.methods.get("cluster-learngene-released", ffn="copy", proj="paper")
            other = blocks.expand(released_payload(six_layers), Shape(heads=heads))
            assert (other(x) - child(x)).abs().max() > 0.1


def test_one_random_network_makes_the_four_tensors_of_a_group(six_layers):
    method, payload = lg.methods.get("cluster-learngene-released"), released_payload(six_layers)
    torch.manual_seed(7)
    child = method.expand(payload)
    torch.manual_seed(7)
    for group in GROUPS[2:]:
        inner, outer = torch.nn.Linear(1, 2), torch.nn.Linear(2, 2)
        for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
            made = released_values(six_layers.blocks[group[0]].mlp.get_parameter(part), inner, outer)
            for layer, wanted in zip(group, made):
                assert torch.allclose(child.blocks[layer].mlp.get_parameter(part), wanted, atol=1e-6), (layer, part)
    for layer in (0, 1):  # in no group
        own = six_layers.blocks[layer].mlp.state_dict()
        assert all(torch.equal(t, own[name]) for name, t in child.blocks[layer].mlp.state_dict().items())


def test_the_earlier_random_networks_are_what_their_records_mean(six_layers):
    "ffn='random': a network for each weight matrix; biases stay."
    torch.manual_seed(7)
    child = lg.methods.get("cluster-learngene-released", ffn="random").expand(released_payload(six_layers))
    torch.manual_seed(7)
    for group in GROUPS[2:]:
        for part in ("fc1", "fc2"):
            inner, outer = torch.nn.Linear(1, 2), torch.nn.Linear(2, 2)
            stored = six_layers.blocks[group[0]].mlp.get_submodule(part)
            for layer, wanted in zip(group, released_values(stored.weight, inner, outer)):
                made = child.blocks[layer].mlp.get_submodule(part)
                assert torch.allclose(made.weight, wanted, atol=1e-6) and torch.equal(made.bias, stored.bias)


@pytest.mark.parametrize("heads", [1, 3, 4, 5, 6, 8, 12, 16, 32])
def test_two_readings_of_expanded_in_proportion(heads):
    "By blocks, a column of W^O keeps its place within a head; interleaved, columns keep their order. Few heads: one."
    model = make("plain", seed=3)
    learngene = gather(model, [[HeadCluster((h,), h, 0.0) for h in range(4)]] * 3, [[0], [1], [2]])
    plans = {proj: lg.plan(learngene, heads=heads, proj=proj) for proj in ("paper", "interleaved")}
    by_blocks, interleaved = (lg.inherit(learngene, heads=heads, proj=proj) for proj in plans)
    for before, block_wise, in_place in zip(model.blocks, by_blocks.blocks, interleaved.blocks):
        W = before.attn.proj.weight
        for j in range(heads * 8):
            assert torch.equal(block_wise.attn.proj.weight[:, j], W[:, j % 32])
            assert torch.equal(in_place.attn.proj.weight[:, j], W[:, j * 4 // heads if heads > 4 else j])
        if heads % 4 == 0:
            assert torch.equal(in_place.attn.proj.weight, W.repeat_interleave(heads // 4, 1))
    assert plans["paper"].inherited_params == plans["interleaved"].inherited_params


@pytest.mark.parametrize("option", [dict(qkv="rows"), dict(ffn="shared"), dict(pixels="dull")])
def test_released_errors(option):
    with pytest.raises(ValueError, match="wanted one of"):
        lg.methods.get("cluster-learngene-released", **option)
