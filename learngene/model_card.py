"The model card of a shared model: where it comes from, what was kept, what was measured, how it is opened."
import timm
import torch
import yaml

from . import __version__
from .model_notes import class_names, input_config
from .vit import count_params

CARD, CODE = "README.md", "modeling.py"


def model_card(
    model,  # with its notes and its report
    name: str,  # of the model
    opens_in_timm: bool,  # whether timm's arguments say all
) -> str:  # Markdown with metadata for the hub
    "Write a model card from what is known of a model."
    report, origin, config = getattr(model, "report", None), getattr(model, "origin", {}), input_config(model)
    licence, base = origin.get("licence"), _hub_id(origin)
    metadata = dict(library_name="timm" if opens_in_timm else "learngene", tags=["learngene", "timm"],
                    pipeline_tag="image-classification" if model.num_classes else "image-feature-extraction")
    metadata |= (dict(license=licence.lower()) if licence else {}) | (dict(base_model=base) if base else {})
    names = class_names(model)
    listed = f" ({', '.join(names[:5])}{', ...' * (len(names) > 5)})" if names else ""
    classes = f"{model.num_classes} classes{listed}"
    size = " x ".join(map(str, config["input_size"]))
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---", f"# {name}",
        f"A vision transformer of {count_params(model):,} parameters for images of {size} (channels, height, width), "
        f"{classes if model.num_classes else 'without a classifier'}. {_made_from(report, origin)}",
        "## Open it", _how_to_open(opens_in_timm),
    ]
    if report is not None:
        costs = [f"| {text} | {old} | {new} | {share} |" for text, old, new, share in report.rows]
        table = "\n".join(["| | before | after | share |", "| --- | --- | --- | --- |", *costs])
        lines = "\n".join(f"- {title}: {text}" for title, text in report.lines)
        kept = "\n".join(f"| {layer['source'] + 1} | {' '.join(str(h + 1) for h in layer['heads'])} | "
                         f"{layer['neurons'] or report.ancestry_widths[layer['source']]} |" for layer in report.layers)
        parts += ["## Measured", table, lines, "## What was kept, counted from 1",
                  f"| ancestry layer | heads | FFN neurons |\n| --- | --- | --- |\n{kept}"]
    parts += ["## Licence", _licence_text(origin),
              f"Made with learngene {__version__}, timm {timm.__version__}, torch {torch.__version__}."]
    return "\n\n".join(parts) + "\n"


def _hub_id(origin):
    return (origin.get("url") or "").partition("https://huggingface.co/")[2] or None


def _made_from(report, origin):
    name = origin.get("name")
    if report is not None:
        training = "then trained towards it by `learngene.heal`," if report.healed else "without training and"
        return f"It was cut out of `{name}` by `learngene.shrink`, {training} without labels."
    return f"Its weights come from `{name}`." if name else ""


def _licence_text(origin):
    name, licence, url = (origin.get(key) for key in ("name", "licence", "url"))
    if not name:
        return "The origin of the weights is not noted; state their licence before you share them."
    source = f"[{name}]({url})" if url else f"`{name}`"
    data = f" It was trained on {origin['data']}." if origin.get("data") else ""
    if licence:
        return f"The weights derive from {source}, whose licence is {licence}; it holds for them, too.{data}"
    return f"The weights derive from {source}, whose licence is not noted; find it before you share them.{data}"


def _how_to_open(opens_in_timm):
    alone = 'import timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True).eval()'
    if not opens_in_timm:
        alone = (f"# {CODE} of this folder needs torch, timm and safetensors\nfrom modeling import load_model\n\n"
                 "model = load_model()")
    return (f"Without learngene:\n\n```python\n{alone}\n```\n\nWith it:\n\n```python\nimport learngene as lg\n\n"
            'model = lg.from_pretrained("FOLDER")\nlg.predict(model, "photo.jpg")\n```\n\n'
            "Images are prepared by `timm.data.create_transform(**timm.data.resolve_model_data_config(model))`.")
