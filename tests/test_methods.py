"Every method behind the protocol: what it keeps, what it makes of it, what it counts."
from pathlib import Path

import pytest
import torch
from conftest import SMALL, make, pictures
from timm.models.vision_transformer import VisionTransformer

import learngene as lg
from learngene.methods import Shape, core
from learngene.methods.options import check_options
from learngene.methods.pretraining_finetuning import one_of_each

THREE = ["cluster-learngene", "from-scratch", "pretraining-finetuning"]
D, HD, H, L, HIDDEN = 32, 8, 4, 3, 128  # the small ancestry
QKV = 3 * HD * (D + 1)  # of one head, with biases
FFN = 2 * D * HIDDEN + D + HIDDEN
PROJ = D * D + D
NORMS = 4 * D
STEM = 3 * 64 * D + D + D + 17 * D  # patches, class token, positions
HEAD = 5 * D + 5
WHOLE = STEM + L * (H * QKV + FFN + PROJ + NORMS) + 2 * D + HEAD
SHAPES = [Shape(), Shape(depth=2, heads=2, num_classes=7), Shape(depth=3, heads=[3, 8, 1], num_classes=2),
          Shape(depth=1, heads=9)]


@pytest.fixture(scope="module")
def ancestry():
    model = make("plain", seed=3)
    assert sum(p.numel() for p in model.parameters()) == WHOLE
    return model


@pytest.fixture(scope="module")
def images(ancestry):
    return pictures(ancestry)


def test_registry():
    assert set(THREE) <= set(lg.methods.names()) and lg.methods.names() == sorted(lg.methods.names())
    for name in lg.methods.names():
        method = lg.methods.get(name)
        assert method.name == name
        assert all(callable(getattr(method, f)) for f in ("condense", "expand", "inherited_params"))


def test_every_module_of_the_folder_is_imported():
    "The decorator is the one place where a method registers."
    modules = {lg.methods.module_of(name) for name in lg.methods.names()}
    files = [p for p in Path(core.__file__).parent.glob("*.py") if "\n@register(" in p.read_text(encoding="utf-8")]
    assert len(files) >= 7 and {f"learngene.methods.{p.stem}" for p in files} == modules


@pytest.mark.parametrize("name, options, words", [
    ("cluster-learngen", {}, "did you mean 'cluster-learngene'"), ("scratch", {}, "from-scratch"),
    ("", {}, "there is no method"), ("cluster-learngene", dict(ep=1), "did you mean 'eps'"),
    ("cluster-learngene", dict(projection="paper"), "did you mean 'proj'"),
    ("from-scratch", dict(eps=1), "no option 'eps'"), ("from-scratch", dict(weights="kaiming"), "timm, xavier"),
    ("pretraining-finetuning", dict(layer="even"), "did you mean 'layers'"),
])
def test_unknown_names_and_options_raise(name, options, words):
    with pytest.raises(ValueError, match=words):
        lg.methods.get(name, **options)


@pytest.mark.parametrize("option, words", [
    (dict(proj="foldd"), "did you mean 'folded'"), (dict(ffn="x"), "ffn is 'x'"), (dict(order="x"), "order"),
    (dict(cluster_by="y"), "cluster_by"), (dict(rule="state"), "'stated'"),
    (dict(eps="0.07"), "eps is '0.07'"), (dict(eps="120%"), "at most 100%"),
    (dict(eps=True), "eps is True"), (dict(ffn_eps=0), "ffn_eps is 0"), (dict(min_heads=0), "min_heads"),
    (dict(layers="evn"), "'even'"), (dict(cluster_by="kmeans"), "k is None"), (dict(k=2), "Leave k out"),
    (dict(signature="x"), "signature"), (dict(centroid="x"), "centroid"), (dict(ffn_centroid="x"), "ffn_centroid"),
], ids=str)
@pytest.mark.parametrize("name", ["cluster-learngene", "cluster-learngene+refit", "cluster-learngene+budget",
                                  "cluster-learngene-released"])
def test_options_are_checked_before_anything_runs(name, option, words):
    with pytest.raises(ValueError, match=f"method '{name.replace('+', '.')}': .*{words}"):
        lg.methods.get(name, **option)


BUDGET = "cluster-learngene+budget"


@pytest.mark.parametrize("name, option", [
    ("pretraining-finetuning", dict(layers="evn")), ("pretraining-finetuning+refit", dict(heads="frst")),
    ("slice", dict(part="fron")), ("auto-learngene", dict(blocks="6")), ("minivit", dict(weights="x")),
    ("cluster-learngene-released", dict(pixels="x")), ("cluster-learngene+refit", dict(ridge=0)),
    ("cluster-learngene+refit", dict(values=-1)), (BUDGET, dict(params=0)), (BUDGET, dict(proj="folded")),
    (BUDGET, dict(ffn="transform")), (BUDGET, dict(order="original")), (BUDGET, dict(layers="even")),
    (BUDGET, dict(ffn_width=0.5)),
], ids=str)
def test_options_of_other_methods_are_checked(name, option):
    words = f"method '{name.replace('+', '.')}': {next(iter(option))} is .*, (wanted|but it is given by the budget)"
    with pytest.raises(ValueError, match=words):
        lg.methods.get(name, **option)


@pytest.mark.parametrize("value, rule, wanted", [
    ("a", ("a", "b"), None), ("c", ("a", "b"), "one of a, b"), ([1], ("a", list), None),
    (1, ("a", list), "one of a, a list"), (2, 1, None), (0, 1, "a whole number of at least 1"),
    (2.0, 1, "a whole number"), (True, 1, "a whole number"), (0.1, 0.0, None), (0, 0.0, "a number of more than 0"),
    ("1", 0.0, "a number"), (True, 0.0, "a number"), (None, 0.0, "a number"),
])
def test_option_rules(value, rule, wanted):
    class Method:
        option = 3  # the default

    method = Method()
    method.option = value
    if wanted is None:
        return check_options(method, option=rule)
    with pytest.raises(ValueError, match=f"option is {value!r}.*, wanted {wanted}"):
        check_options(method, option=rule)


def test_none_passes_where_it_is_the_default():
    class Method:
        option = None

    check_options(Method(), option=0.0)


def test_layers_can_be_listed():
    assert lg.methods.get("cluster-learngene", layers=[0, 2]).layers == [0, 2]
    assert lg.methods.get("pretraining-finetuning", layers=(0, 2)).layers == (0, 2)


@pytest.mark.parametrize("distances, k, wanted", [
    ([2.0, 2.0, 2.0, 2.0], 2, [0, 1]), ([2.0, 5.0, 5.0, 5.0], 3, [1, 0, 2]), ([1.0, 1.1, 1.3, 9.0], 2, [1, 3]),
])
def test_one_of_each_when_heads_are_copies(distances, k, wanted):
    assert one_of_each(torch.tensor(distances), k) == wanted


@pytest.mark.parametrize("name, option", [
    ("cluster-learngene", dict(proj="fold")), ("cluster-learngene", dict(ffn="copied")),
    ("cluster-learngene", dict(rule="state")), ("cluster-learngene", dict(eps=-1.0)),
    ("pretraining-finetuning", dict(layers="lasst")),
])
def test_bad_values_raise_before_a_model_is_made(ancestry, images, name, option):
    with pytest.raises(ValueError):
        method = lg.methods.get(name, **option)
        method.expand(method.condense(ancestry, images), Shape())


def test_a_name_is_given_once(monkeypatch):
    monkeypatch.setattr(core, "_methods", dict(core._methods))
    with pytest.raises(ValueError, match="already"):
        @lg.methods.register("from-scratch")
        class Other:
            pass
    assert lg.methods.get("from-scratch").__class__.__name__ == "FromScratch"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", THREE)
def test_shapes_and_one_step(ancestry, images, name, shape):
    before = {k: v.clone() for k, v in ancestry.state_dict().items()}
    method = lg.methods.get(name)
    payload = method.condense(ancestry, images)
    model = method.expand(payload, shape)
    depth = shape.depth or L
    heads = shape.heads if isinstance(shape.heads, list) else [shape.heads or H] * depth
    assert [b.attn.num_heads for b in model.blocks] == heads and {b.attn.head_dim for b in model.blocks} == {HD}
    assert not model.training
    assert model(images).shape == (3, shape.num_classes or 5)
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    old = {k: p.detach().clone() for k, p in model.named_parameters()}
    loss = torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 1]))
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        after = torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 1]))
    assert after.isfinite() and after < loss
    assert not [k for k, p in model.named_parameters() if torch.equal(old[k], p)]
    # training a descendant changes neither the ancestry nor the payload
    assert all(torch.equal(v, ancestry.state_dict()[k]) for k, v in before.items())
    if name != "from-scratch" and shape.num_classes is None:
        first, second = (lg.merge(method.expand(payload, shape)).blocks[0].attn.qkv.weight for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", THREE)
@pytest.mark.parametrize("shape, words", [
    (Shape(depth=4), "depth"), (Shape(depth=0), "depth"), (Shape(heads=0), "heads"), (Shape(heads=[1, 2]), "heads"),
    (Shape(heads=100), "heads"), (Shape(num_classes=-1), "num_classes"),
])
def test_impossible_shapes_raise(ancestry, images, name, shape, words):
    method = lg.methods.get(name)
    with pytest.raises(ValueError, match=words):
        method.expand(method.condense(ancestry, images), shape)


@pytest.mark.parametrize("name", THREE)
def test_other_modules_raise(name):
    with pytest.raises(TypeError):
        lg.methods.get(name).condense(torch.nn.Linear(1, 1), torch.zeros(1, 3, 8, 8))


# ---- cluster-learngene

def test_payload_of_cluster_learngene(ancestry, images):
    for options in (dict(eps=0.2, ffn_eps=1.0), dict(eps=100), dict(eps=1e-7, ffn_eps=1e-9),
                    dict(eps=0.3, min_heads=1, rule="stated")):
        method = lg.methods.get("cluster-learngene", **options)
        payload = method.condense(ancestry, images)
        d = lg.mean_attention_distance(ancestry, images)
        clusters = [lg.cluster_heads(row, options["eps"]) for row in d]
        groups = lg.cluster_ffns(d, clusters, options.get("ffn_eps", options["eps"]), options.get("rule", "printed"))
        centroids = sum(len(c) * QKV for c in clusters) + len(groups) * FFN
        assert payload.n_params == STEM + centroids + L * (PROJ + NORMS) + 2 * D + HEAD
    coarse = lg.methods.get("cluster-learngene", eps=100).condense(ancestry, images)
    assert coarse.n_params == WHOLE - L * 3 * QKV - 2 * FFN


@pytest.mark.parametrize("options", [dict(), dict(proj="folded", ffn="copy"), dict(proj="aligned", layers="even")])
def test_cluster_learngene_is_condense_and_inherit(ancestry, images, options):
    method = lg.methods.get("cluster-learngene", eps=0.2, ffn_eps=1.0, **options)
    shape = Shape(depth=2, heads=[3, 6])
    payload = method.condense(ancestry, images)
    state = method.expand(payload, shape).state_dict()
    learngene = lg.condense(ancestry, images, eps=0.2, ffn_eps=1.0)
    wanted = lg.inherit(learngene, depth=2, heads=[3, 6], **options).state_dict()
    assert state.keys() == wanted.keys() and all(torch.equal(v, wanted[k]) for k, v in state.items())
    plan = lg.plan(learngene, depth=2, heads=[3, 6], **options)
    assert method.plan(payload, shape) == plan and method.inherited_params(payload, shape) == plan.inherited_params


def test_inherited_params_of_cluster_learngene_by_hand(ancestry, images):
    method = lg.methods.get("cluster-learngene", eps=100)  # one centroid a layer, one FFN
    payload = method.condense(ancestry, images)
    shared = STEM + 2 * D + FFN
    assert method.inherited_params(payload, Shape()) == shared + HEAD + L * (QKV + PROJ + NORMS)
    small = Shape(depth=2, heads=2, num_classes=9)
    assert method.inherited_params(payload, small) == shared + 2 * (QKV + 2 * HD * D + D + NORMS)


# ---- pretraining-finetuning

def test_payload_of_pretraining_is_the_whole_ancestry(ancestry):
    payload = lg.methods.get("pretraining-finetuning").condense(ancestry, None)
    assert payload.n_params == WHOLE
    for k, t in payload.tensors.items():
        assert torch.equal(t.flatten(), ancestry.state_dict()[k].flatten()), k


def test_pretraining_keeps_the_first_layers_and_heads(ancestry, images):
    method, state = lg.methods.get("pretraining-finetuning"), ancestry.state_dict()
    payload = method.condense(ancestry, None)
    full = method.expand(payload, Shape()).state_dict()
    assert full.keys() == state.keys() and all(torch.equal(v, state[k]) for k, v in full.items())
    small = method.expand(payload, Shape(depth=2, heads=3)).state_dict()
    for i in range(2):
        for part in ("weight", "bias"):
            qkv = state[f"blocks.{i}.attn.qkv.{part}"]
            wanted = torch.cat([qkv[which * D: which * D + 3 * HD] for which in range(3)])
            assert torch.equal(small[f"blocks.{i}.attn.qkv.{part}"], wanted)
        proj = f"blocks.{i}.attn.proj.weight"
        assert torch.equal(small[proj], state[proj][:, : 3 * HD])
    cut = {k for k in small if "attn.qkv" in k or "attn.proj.weight" in k}
    assert all(torch.equal(small[k], state[k]) for k in small.keys() - cut)
    values = sum(v.numel() for v in small.values())
    assert method.inherited_params(payload, Shape(depth=2, heads=3)) == values
    assert method.inherited_params(payload, Shape(depth=2, heads=3, num_classes=5)) == values - HEAD
    assert method.inherited_params(payload, Shape()) == WHOLE == method.inherited_params(payload, Shape(heads=9))
    with torch.no_grad():
        assert torch.equal(method.expand(payload, Shape())(images), ancestry(images))
        wide = method.expand(payload, Shape(heads=9))  # more heads, same function
        assert (wide(images) - ancestry(images)).abs().max() < 1e-4


def test_pretraining_layers(ancestry):
    method = lg.methods.get("pretraining-finetuning", layers="even")
    state = method.expand(method.condense(ancestry, None), Shape(depth=2)).state_dict()
    assert torch.equal(state["blocks.1.mlp.fc1.weight"], ancestry.state_dict()["blocks.2.mlp.fc1.weight"])


def test_a_seeded_choice_of_heads_is_repeatable(ancestry):
    def draw(pick):
        payload = lg.methods.get("pretraining-finetuning", heads="random", pick=pick).condense(ancestry)
        return tuple(c[0].centroid for c in payload.clusters)

    draws = [draw(pick) for pick in range(8)]
    assert draws == [draw(pick) for pick in range(8)] and len(set(draws)) > 3


def test_every_parameter_of_pretraining_is_its_own(ancestry):
    method = lg.methods.get("pretraining-finetuning")
    model = method.expand(method.condense(ancestry, None), Shape(heads=8))
    memory = [p.untyped_storage().data_ptr() for p in [*model.parameters(), *ancestry.parameters()]]
    assert len(memory) == len(set(memory))


# ---- from-scratch

def test_from_scratch_takes_nothing(ancestry):
    method = lg.methods.get("from-scratch")
    payload = method.condense(ancestry, None)
    assert not any(isinstance(v, torch.Tensor) for v in payload.values())
    assert method.inherited_params(payload, Shape()) == 0
    torch.manual_seed(0)
    a = method.expand(payload, Shape()).state_dict()
    torch.manual_seed(0)
    b = method.expand(payload, Shape()).state_dict()
    torch.manual_seed(1)
    c = method.expand(payload, Shape()).state_dict()
    fresh = VisionTransformer(**SMALL).state_dict()
    assert a.keys() == fresh.keys()
    for k, t in a.items():
        assert torch.equal(t, b[k])
        if t.ndim > 1 and k not in ("cls_token",):
            assert not torch.equal(t, c[k]) and not torch.equal(t, ancestry.state_dict()[k]), k
            assert t.std().item() == pytest.approx(fresh[k].std().item(), rel=0.25), k
        elif k not in ("cls_token", "patch_embed.proj.bias"):  # timm draws these two at random
            assert torch.equal(t, fresh[k]), k  # zeros and ones


def test_xavier(ancestry):
    method = lg.methods.get("from-scratch", weights="xavier", pos_std=0.5)
    torch.manual_seed(0)
    model = method.expand(method.condense(ancestry, None), Shape(heads=[1, 4, 8]))
    for block, heads in zip(model.blocks, [1, 4, 8]):
        sizes = {block.attn.qkv: (3 * heads * HD, D), block.attn.proj: (D, heads * HD), block.mlp.fc1: (HIDDEN, D),
                 block.mlp.fc2: (D, HIDDEN)}
        for linear, (rows, columns) in sizes.items():
            bound = (6 / (rows + columns)) ** 0.5
            assert linear.weight.shape == (rows, columns) and 0.9 * bound < linear.weight.abs().max() <= bound + 1e-6
            assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15) and not linear.bias.any()
    bound = (6 / (192 + D)) ** 0.5
    assert 0.9 * bound < model.patch_embed.proj.weight.abs().max() <= bound + 1e-6
    assert model.pos_embed.std().item() == pytest.approx(0.5, rel=0.15)


def test_position_embeddings(ancestry):
    method = lg.methods.get("from-scratch", pos_std=0.3)
    model = method.expand(method.condense(ancestry, None), Shape())
    assert model.pos_embed.std().item() == pytest.approx(0.3, rel=0.15)
    none = make("rms norm, no positions")
    assert method.expand(method.condense(none, None), Shape()).pos_embed is None
