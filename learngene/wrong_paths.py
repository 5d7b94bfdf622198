"What a path or a name is that is no model's folder, and what to do with it: one sentence each."
import json
import os
import re

from .files import CHECKPOINT_NAME, CONFIG, TENSORS, explain_pointer, near, shorten

WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".safetensors", ".npz", ".msgpack", ".h5")
GRAPHS = (".onnx", ".tflite", ".pb", ".torchscript", ".engine", ".mlmodel", ".ort", ".pt2")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".xz", ".7z", ".bz2", ".zst", ".rar")
FOLDER = f"a folder that holds {CONFIG} and {TENSORS}"
BUILD = ("build the model with `timm.create_model(NAME, checkpoint_path=...)`, keep it with "
         "`learngene.save_descendant(model, FOLDER)`, and give that folder.")


def explain_file(
    path,  # of a file
) -> str:
    "Say what a file is that was given as a model."
    name, suffix = path.name.lower(), path.suffix.lower()
    if text := explain_pointer(path):
        return text
    if CHECKPOINT_NAME.fullmatch(name):
        return (f"{path} is a checkpoint of a training that is not finished; the same run resumes from it, and "
                "`learngene train RECIPE --save FOLDER` keeps its model.")
    if name in (CONFIG, TENSORS) and (path.parent / CONFIG).is_file():
        return f"{path} is one file of a model; give its folder, {path.parent}."
    if suffix in WEIGHTS:
        return f"{path} holds weights alone, which do not say their architecture: {BUILD}"
    if suffix in GRAPHS:
        return f"{path} is an exported graph, from which no heads can be cut; give the model that it was exported from."
    if suffix in ARCHIVES:
        return f"{path} is an archive; unpack it, and give {FOLDER}."
    if suffix in (".yaml", ".yml"):
        return f"{path} is no model but perhaps a recipe; `learngene train {path} --save FOLDER` trains its model."
    if suffix == ".json" and _starts_with(path, b"{") and "run_info" in _keys(path):
        return f"{path} is the record of a run, not its model; make it with `learngene train RECIPE --save FOLDER`."
    return f"{path} is a file, and no model; give {FOLDER}."


def explain_folder(
    path,  # of a folder without a description of ours or timm's
) -> str:
    "Say what a folder is that was given as a model."
    entries = sorted(path.iterdir())
    names = {entry.name for entry in entries}
    if not names:
        return f"{path} is empty and has no {CONFIG}; give {FOLDER}."
    if CONFIG in names:
        return _explain_config(path, path / CONFIG)
    for other, kind in (("adapter_config.json", "an adapter (LoRA): merge it into its model, and save that"),
                        ("open_clip_config.json", "a model of OpenCLIP: give timm's model of the same weights"),
                        ("model_index.json", "a pipeline of diffusers, and no vision transformer")):
        if other in names:
            return f"{path} has no {CONFIG}; it is {kind}."
    if "snapshots" in names:
        found = sorted((path / "snapshots").iterdir())
        return f"{path} is a cache of the hub; give the folder below it, {found[-1] if found else 'snapshots/...'}."
    if names & {"records", "local", "dirty"}:
        return f"{path} has no {CONFIG}: it holds results of runs, and no model; give {FOLDER}."
    if weights := [name for name in sorted(names) if name.endswith(WEIGHTS)]:
        return f"{path} has weights ({weights[0]}) but no {CONFIG} to say their architecture: {BUILD}"
    if inner := [entry for entry in entries if (entry / CONFIG).is_file()]:
        return f"{path} has no {CONFIG}, but {inner[0]} does; give that folder."
    return f"{path} has no {CONFIG}; it holds {', '.join(sorted(names)[:3])}, and no model. Give {FOLDER}."


def _explain_config(path, file):
    "Say whose config a folder has."
    stated = _keys(file)
    if stated.get("format") == "learngene":
        return f"{path} holds a learngene, no ancestry; load it with `learngene.Learngene.load`."
    if {"architectures", "model_type", "transformers_version"} & set(stated):
        kind = stated.get("architectures") or stated.get("model_type") or "a model"
        return (f"{path} is a model of transformers ({shorten(kind)}), whose layers have other names; give timm's "
                "model of the same weights, e.g. 'vit_base_patch16_224.augreg_in21k'.")
    return (f"{file} names neither a format of this library nor an architecture of timm; give a folder of "
            "`learngene.save_descendant` or `timm.models.save_for_hf`.")


def explain_absent(
    name: str,  # of no model, and no path that exists
    path,  # the same as a Path
    known=(),  # names of models; none when a path is meant
) -> str:
    "Say what was perhaps meant by a name that leads nowhere."
    hub = re.fullmatch(r"(?:https?://)?(?:www\.)?huggingface\.co/([^/]+/[^/]+)/?.*", name)
    if hub:
        return f"there is no model {shorten(name)}; for a model of the hub write 'hf-hub:{hub[1]}'."
    if name.startswith("local-dir:"):
        return f"there is no model {shorten(name)}; give the path of the folder alone."
    if not known and name.count("/") == 1 and name[0] not in "./~" and not os.path.isdir(path.parent):
        return f"there is no folder {shorten(name, quote=False)}; for a model of the hub write 'hf-hub:{name}'."
    if not known:
        beside = path.parent.iterdir() if os.path.isdir(path.parent) else []
        hint = near(path.name, [entry.name for entry in beside if entry.is_dir()])
        return f"there is no folder {shorten(name, quote=False)}{hint}; give the path of an existing one."
    return (f"there is no model {shorten(name)}{near(name, known)}: give a name of timm.list_models(), of "
            "`learngene list`, or a folder.")


def _starts_with(path, start):
    with open(path, "rb") as file:
        return file.read(100).lstrip().startswith(start)


def _keys(path):
    "Read the entries of a JSON file; nothing for another one."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (ValueError, RecursionError, OSError):
        return {}
