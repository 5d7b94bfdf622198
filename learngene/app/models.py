"Commands for people with a model: make it smaller, use it, export it."

import functools
import inspect
import json
import re
import tokenize
from pathlib import Path
from typing import Annotated, Literal

import typer

from .command import command


def comments_of(module, function):
    "Map parameters of a library function to their comments, without importing the module."
    comments, inside = {}, False
    with open(Path(__file__).parents[1] / f"{module}.py", "rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NAME and re.match(rf"def {function}\(", token.line):
                inside = True
            if inside and token.type == tokenize.COMMENT and (match := re.match(r"    (\w+)", token.line)):
                comments[match[1]] = token.string.strip("# ")
            if inside and token.line.startswith(")"):
                return comments
    raise ValueError(f"there is no function {function} in {module}.py.")


SHRINK, HEAL = comments_of("shrinking", "shrink"), comments_of("healing", "heal")
Model = Annotated[str | None, typer.Argument(help="A timm name, a folder, or a name of `learngene list`.")]
Images = Annotated[str | None, typer.Argument(help="A folder of images, or folder:NAME, parquet:NAME, hub:ORG/NAME.")]
To = Annotated[str | None, typer.Option(help="Folder to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Draw no progress bars.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check what is given; compute and write nothing.")]
RecipeFile = Annotated[str | None, typer.Option("--recipe", help="A YAML file that states any of these options.")]
Params = Annotated[float | None, typer.Option(help=SHRINK["params"])]
Flops = Annotated[float | None, typer.Option(help=SHRINK["flops"])]
Latency = Annotated[float | None, typer.Option(help=SHRINK["latency_ms"])]
Memory = Annotated[float | None, typer.Option(help=SHRINK["memory_mb"])]
BatchSize = Annotated[int, typer.Option(help=SHRINK["batch_size"])]
Device = Annotated[str, typer.Option(help=SHRINK["device"])]
Classes = Annotated[int | None, typer.Option(help=SHRINK["num_classes"])]
MaxImages = Annotated[int, typer.Option(help=SHRINK["max_images"])]


EPS = "PIXELS|SHARE%"


def _eps(text):
    "Read an Eps: pixels, or a share of the heads' span."
    from ..condense_options import check_radii

    try:
        eps = float(text)
    except ValueError:
        eps = text
    check_radii(eps=eps)
    return eps


def model_command(function, interrupted="nothing was written"):
    "Register a command: a recipe file fills in what flags leave out; arguments are required."
    parameters = inspect.signature(function).parameters
    defaults = {name: p.default for name, p in parameters.items()}
    required = [name for name, p in parameters.items()
                if isinstance(p.annotation.__metadata__[0], typer.models.ArgumentInfo)]

    @functools.wraps(function)
    def with_recipe(**options):
        from ..progress import show_progress

        if options.get("recipe"):
            options |= _read_options(options["recipe"], options, defaults)
        missing = [name for name in required if options[name] is None and not options.get("families")]
        if missing:
            raise ValueError(f"{', '.join(missing)} is missing; give it, or state it in a --recipe.")
        show_progress(False if options.get("quiet") else None)
        function(**options)

    return command(with_recipe, "For people with a model", interrupted)


def _read_options(file, options, defaults):
    "Read the options that a recipe file states and no flag gives. ValueError for unknown ones."
    from ..files import near
    from ..yaml_files import read_yaml

    stated, known = read_yaml(file), [name for name in defaults if name != "recipe"]
    if not isinstance(stated, dict):
        raise ValueError(f"{file} states no options; write e.g. `params: 0.25`, one per line.")
    for name in stated:
        if name not in known:
            raise ValueError(f"{file}: there is no option {name!r}{near(name, known)}; there are {', '.join(known)}.")
    return {name: value for name, value in stated.items() if options[name] == defaults[name]}


def _print(result, as_json, text):
    print(json.dumps(result, indent=1) if as_json else text)


def _load(name):
    from ..sharing import from_pretrained

    return from_pretrained(name)


@model_command
def shrink_(
    model: Model = None, images: Images = None, params: Params = None, flops: Flops = None, latency_ms: Latency = None,
    memory_mb: Memory = None, batch_size: BatchSize = 1, device: Device = "cpu", num_classes: Classes = None,
    eps: Annotated[str | None, typer.Option(parser=_eps, metavar=EPS, help=SHRINK["eps"])] = None,
    max_images: MaxImages = 512, to: To = None, json: Json = False, quiet: Quiet = False, dry_run: DryRun = False,
    recipe: RecipeFile = None,
):
    """Make a smaller model within limits, without training.

    For example: learngene shrink MODEL IMAGES --params 0.25 --to FOLDER.
    """
    from ..budgeting import Budget
    from ..files import check_folder
    from ..model_card import CARD, CODE
    from ..sharing import save_pretrained
    from ..shrinking import shrink

    budget, ancestry = Budget(params, flops, latency_ms, memory_mb, batch_size, device), _load(model)
    if to:
        check_folder(to, also=(CARD, CODE))
    if dry_run:
        return _check(ancestry, images, json, budget)
    limits = dict(params=params, flops=flops, latency_ms=latency_ms, memory_mb=memory_mb)
    child = shrink(ancestry, images, **limits, batch_size=batch_size, device=device, num_classes=num_classes, eps=eps,
                   max_images=max_images)
    folder = str(save_pretrained(child, to)) if to else None
    saved = f"saved in {folder}" if to else "not saved; give --to FOLDER"
    _print(child.report.to_dict() | dict(folder=folder), json, f"{child.report}\n{saved}")


def _check(model, images, as_json, budget=None, **more):
    "Say what a command would start from: the model, the images if it takes some, its limits."
    from ..inputs import open_pictures
    from ..vit import measure, vit_config

    costs = measure(vit_config(model), budget.batch_size if budget else 1)
    result, said = dict(costs), [f"{costs['params']:,} parameters, {costs['flops'] / 2e9:.3g} G multiply-adds, "
                                 f"{costs['memory_mb']:.1f} MB"]
    if images is not None:
        pictures, source = open_pictures(images, model)
        result |= dict(images=len(pictures), source=source)
        said.append(f"{len(pictures)} image{'s' * (len(pictures) != 1)} of {source}")
    if budget:
        result["budget"] = repr(budget)
        said.append(repr(budget))
    said += [f"{name} {value}" for name, value in more.items() if value is not None]
    _print(result | more, as_json, "; ".join([*said, "nothing was computed"]))


@model_command
def plan_(
    model: Model = None, images: Images = None, params: Params = None, flops: Flops = None, latency_ms: Latency = None,
    memory_mb: Memory = None, batch_size: BatchSize = 1, device: Device = "cpu", max_images: MaxImages = 512,
    json: Json = False, quiet: Quiet = False, dry_run: DryRun = False, recipe: RecipeFile = None,
):
    "Show which heads, neurons and layers a budget would keep; nothing is built."
    import dataclasses

    from ..budgeting import Budget, solve
    from ..inputs import calibration_sets

    budget, ancestry = Budget(params, flops, latency_ms, memory_mb, batch_size, device), _load(model)
    if dry_run:
        return _check(ancestry, images, json, budget)
    shape = solve(None, budget, ancestry, calibration_sets(images, ancestry, max_images).calibration)
    _print(dataclasses.asdict(shape), json, shape)


@model_command
def condense_(
    model: Model = None, images: Images = None,
    eps: Annotated[
        str | None, typer.Option(parser=_eps, metavar=EPS, help=comments_of("condensing", "condense")["eps"])
    ] = None,
    max_images: MaxImages = 512, to: To = None, json: Json = False, quiet: Quiet = False, dry_run: DryRun = False,
    recipe: RecipeFile = None,
):
    """Condense a model into a learngene, the paper's way.

    For example: learngene condense MODEL IMAGES --eps 10 --to FOLDER.
    """
    from ..condensing import condense
    from ..files import check_folder
    from ..inputs import calibration_sets

    ancestry = _load(model)
    if to:
        check_folder(to)
    if dry_run:
        return _check(ancestry, images, json, eps=eps)
    learngene = condense(ancestry, calibration_sets(images, ancestry, max_images).calibration, eps=eps)
    folder = str(learngene.save(to)) if to else None
    result = dict(centroids=learngene.n_centroids, ffn_groups=learngene.ffn_groups, values=learngene.n_params)
    _print(result | dict(folder=folder), json, learngene)


@model_command
def inherit_(
    learngene: Annotated[str | None, typer.Argument(help="A folder of `learngene condense`.")] = None,
    depth: Annotated[int | None, typer.Option(help=comments_of("budgeting", "inherit")["depth"])] = None,
    heads: Annotated[int | None, typer.Option(help="Heads in each layer; None = the ancestry's.")] = None,
    num_classes: Classes = None, to: To = None, json: Json = False, dry_run: DryRun = False, recipe: RecipeFile = None,
):
    """Make a descendant of a shape from a learngene, to be trained.

    For example: learngene inherit LEARNGENE --depth 6 --to FOLDER.
    """
    from ..condensing import Learngene
    from ..files import check_folder
    from ..inheriting import build, plan
    from ..model_card import CARD, CODE
    from ..sharing import save_pretrained
    from ..vit import count_params

    condensed = Learngene.load(learngene)
    shape = plan(condensed, depth, heads, num_classes=num_classes)
    if to:
        check_folder(to, also=(CARD, CODE))
    if dry_run:
        return _print(dict(layers=len(shape.layers), inherited=shape.inherited_params), json, shape)
    child = build(condensed, shape)
    folder = str(save_pretrained(child, to)) if to else None
    _print(dict(params=count_params(child), folder=folder), json, shape)


@model_command
def refit_(
    model: Annotated[str | None, typer.Argument(help="A folder of a descendant.")] = None,
    ancestry: Annotated[str | None, typer.Argument(help="The model that it was inherited from.")] = None,
    images: Images = None, max_images: MaxImages = 512, to: To = None, json: Json = False, quiet: Quiet = False,
    dry_run: DryRun = False, recipe: RecipeFile = None,
):
    """Solve a descendant's output matrices again, for other images.

    For example: learngene refit CHILD ANCESTRY IMAGES --to FOLDER.
    """
    import dataclasses

    from ..files import check_folder
    from ..inputs import calibration_sets
    from ..model_card import CARD, CODE
    from ..model_notes import noted_layers
    from ..refitting import refit
    from ..sharing import save_pretrained

    child, parent = _load(model), _load(ancestry)
    if to:
        check_folder(to, also=(CARD, CODE))
    if dry_run:
        return _check(child, images, json)
    sets = calibration_sets(images, parent, max_images)
    refitted = refit(child, parent, sets.calibration, sources=noted_layers(child))
    if to:
        save_pretrained(child, to)
    _print(dataclasses.asdict(refitted) | dict(folder=to), json, refitted)


@functools.partial(model_command, interrupted="with --to, the best model so far was written; --folder resumes")
def heal_(
    model: Annotated[str | None, typer.Argument(help="A folder of a descendant.")] = None, images: Images = None,
    ancestry: Annotated[str | None, typer.Option(help=HEAL["ancestry"])] = None,
    steps: Annotated[int | None, typer.Option(help=HEAL["steps"])] = None,
    minutes: Annotated[float | None, typer.Option(help=HEAL["minutes"])] = None,
    lr: Annotated[float | None, typer.Option(help=HEAL["lr"])] = None,
    batch_size: Annotated[int, typer.Option(help=HEAL["batch_size"])] = 64,
    max_images: Annotated[int, typer.Option(help=HEAL["max_images"])] = 4096,
    augment: Annotated[bool, typer.Option("--augment", help=HEAL["augment"])] = False,
    seed: Annotated[int, typer.Option(help=HEAL["seed"])] = 0,
    folder: Annotated[str | None, typer.Option(help=HEAL["folder"])] = None,
    to: To = None, json: Json = False, quiet: Quiet = False, dry_run: DryRun = False,
    recipe: RecipeFile = None,
):
    """Train a descendant towards its ancestry for some minutes, without labels.

    For example: learngene heal CHILD IMAGES --minutes 5 --to FOLDER.
    """
    import sys

    from ..files import check_folder
    from ..healing import heal
    from ..model_card import CARD, CODE
    from ..sharing import save_pretrained

    child = _load(model)
    if to:
        check_folder(to, also=(CARD, CODE))
    if dry_run:
        return _check(child, images, json, steps=steps, minutes=minutes)
    log = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr))
    try:
        report = heal(child, ancestry, images, steps, minutes, lr, batch_size, max_images,
                      augment=augment, seed=seed, folder=folder, log=log)
    except KeyboardInterrupt:
        if to:
            save_pretrained(child, to)
        raise
    if to:
        save_pretrained(child, to)
    _print(report.to_dict() | dict(folder=to), json, f"{report}\n{f'saved in {to}' if to else 'not saved; give --to'}")


@model_command
def predict_(
    model: Model = None,
    images: Annotated[str | None, typer.Argument(help="An image, or a folder of images.")] = None,
    top: Annotated[int, typer.Option(help=comments_of("predicting", "predict")["top"])] = 5,
    json: Json = False, quiet: Quiet = False, dry_run: DryRun = False, recipe: RecipeFile = None,
):
    "Name what is in photos, with probabilities: learngene predict MODEL photo.jpg."
    import dataclasses

    from ..predicting import predict

    classifier = _load(model)
    if dry_run:
        return _check(classifier, images, json, top=top)
    answers = predict(classifier, images, top)
    answers = answers if isinstance(answers, list) else [answers]
    _print([dataclasses.asdict(answer) for answer in answers], json, "\n".join(map(str, answers)))


@model_command
def evaluate_(
    model: Model = None, images: Images = None,
    split: Annotated[Literal["test", "val", "train"], typer.Option(help="Which images.")] = "test",
    json: Json = False, quiet: Quiet = False, dry_run: DryRun = False, recipe: RecipeFile = None,
):
    "Measure the accuracy of a model on labelled images: learngene evaluate MODEL folder:pets."
    from ..inputs import labelled_data
    from ..train import evaluate

    classifier = _load(model)
    data = labelled_data(images, classifier)
    chosen = data.train_plain if split == "train" else getattr(data, split)
    if dry_run:
        return _check(classifier, None, json, **{f"{split} images": len(chosen)})
    result = evaluate(classifier, chosen)
    _print(result, json, f"{result['accuracy']:.2%} of {result['images']} {split} images, loss {result['loss']:.3f}")


@model_command
def export_(
    model: Model = None,
    path: Annotated[str | None, typer.Argument(help="File to write, ending in .onnx or .pt2; or a folder.")] = None,
    json: Json = False, dry_run: DryRun = False, recipe: RecipeFile = None,
):
    "Write a model for another runtime, and compare it: learngene export FOLDER small.onnx."
    from ..sharing import check_target, export

    exported = _load(model)
    if dry_run:
        check_target(path)
        return _check(exported, None, json, path=path)
    file = export(exported, path)
    _print(dict(path=str(file)), json, f"{file}: compared with the model, the same outputs")


@model_command
def info_(
    model: Model = None, json: Json = False,
    families: Annotated[bool, typer.Option("--families", help="List the families that can be cut, and how.")] = False,
    recipe: RecipeFile = None,
):
    "Show what a model is: its size, classes, origin, and the report of how it was made."
    if families:
        from ..families.table import families_table, refused_table, table_text

        rows, refused = families_table(), refused_table()
        return _print(dict(families=rows, refused=refused), json,
                      f"{table_text(rows)}\n\nRefused, with the reason:\n{table_text(refused)}")
    from ..model_notes import class_names, input_config
    from ..vit import measure, vit_config

    loaded = _load(model)
    config, report, names = vit_config(loaded), getattr(loaded, "report", None), class_names(loaded)
    result = measure(config) | dict(heads=config["heads"], ffn_width=config["ffn_width"], input=input_config(loaded),
                                    classes=names or loaded.num_classes, origin=getattr(loaded, "origin", {}))
    text = "\n".join(f"{name}: {value}" for name, value in result.items())
    _print(result | dict(report=report and report.to_dict()), json, f"{text}\n{report}" if report else text)
