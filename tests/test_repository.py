"""The repository keeps its promises: notebooks in step with the library, small files, a quick and quiet import."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
PAPER = [p for p in NOTEBOOKS if p.parent.name == "paper"]


def tracked():
    "Files of the project: git's list where there is git, every file of the source folders otherwise."
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        return [ROOT / p for p in listed.stdout.split("\0") if p and (ROOT / p).is_file()]
    return [p for folder in ("nbs", "learngene", "tests", "results") for p in (ROOT / folder).rglob("*") if p.is_file()]


def run(*command, cwd=ROOT):
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)


def test_ruff():
    done = run(sys.executable, "-m", "ruff", "check", ".")
    assert done.returncode == 0, done.stdout


def test_export_and_clean_change_nothing(tmp_path):
    copy = tmp_path / "copy"
    for part in ("nbs", "learngene", "settings.ini", "README.md", "setup.py"):
        source = ROOT / part
        ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(source, copy / part, ignore=ignore) if source.is_dir() else shutil.copy(source, copy / part)
    contents = lambda: {str(p.relative_to(copy)): p.read_bytes() for p in sorted(copy.rglob("*")) if p.is_file()}
    before, tools = contents(), Path(sys.executable).parent
    for command in ("nbdev_export", "nbdev_clean"):
        done = run(tools / command, cwd=copy)
        assert done.returncode == 0, done.stderr
        after = contents()
        assert after.keys() == before.keys()
        assert [k for k in before if before[k] != after[k]] == [], f"{command} changes these; run `make sync`"


def test_readme_is_the_index():
    from readme import convert

    text, pictures = convert()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == text, "run `make sync`"
    for name, data in pictures.items():
        assert (ROOT / name).read_bytes() == data, "run `make sync`"


def test_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make reproduce" in text and "make test" in text
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_readme_recipe_is_one():
    import yaml

    from learngene.recipe import Recipe

    text = (ROOT / "README.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    recipe = Recipe.from_dict(yaml.safe_load(text))
    assert (recipe.shape.depth, recipe.shape.heads, recipe.data.image_size) == (6, 3, 224)


def test_readme_is_short_and_shows_code_early():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150 and lines.index("```python") <= 25


@pytest.mark.parametrize("path", [ROOT / "README.md", *NOTEBOOKS], ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    "From the folder of the file, as JupyterLab and a code host follow them."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
    assert not [link for link in links if "://" not in link and not (path.parent / link).exists()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_form(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert nb["metadata"]["kernelspec"]["name"] == "python3"
    assert path.stat().st_size < 300 * 1024
    assert nb["cells"][0]["cell_type"] == "markdown" and "".join(nb["cells"][0]["source"]).startswith("# ")
    assert all(len("".join(c["source"]).splitlines()) <= 70 for c in nb["cells"] if c["cell_type"] == "code")
    assert not any(o.get("output_type") == "error" for c in nb["cells"] for o in c.get("outputs", []))
    assert "/root/" not in path.read_text(encoding="utf-8") and "/home/" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_paper_notebooks_define_nothing_and_have_one_parameters_cell(path):
    from learngene.app.notebooks import check_parameters

    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert "default_exp" not in path.read_text(encoding="utf-8")
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assert all("#" in line for line in "".join(tagged[0]["source"]).splitlines()), "each parameter has its comment"
    check_parameters(path, dict(profile="digits", fresh=False, workers=0, results=""))


def test_import_is_quick_and_silent():
    slow = {"torch", "timm", "matplotlib", "pandas", "pydantic"}
    code = f"import sys, learngene; assert not {slow} & set(sys.modules), set(sys.modules)"
    done = run(sys.executable, "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_runs_without_the_notebook_tools():
    "The library itself needs neither nbdev nor papermill nor Hugging Face datasets."
    code = """
import sys
for name in ("nbdev", "fastcore", "execnb", "papermill", "datasets", "IPython"):
    sys.modules[name] = None
import learngene as lg
for name in lg.__all__: getattr(lg, name)
import learngene.app.cli, learngene.app.report, learngene.tables
"""
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_large_files_have_a_reason_beside_them():
    for path in tracked():
        if path.stat().st_size > 2**20:
            assert path.suffix == ".safetensors", path
            assert "MB" in (path.parent / "README.md").read_text(encoding="utf-8"), (
                f"{path} is large and no README beside it says why"
            )


def test_weights_only():
    "No pickles: torch.load is only called with weights_only=True, and weights are kept as safetensors."
    for path in tracked():
        if path.suffix == ".py" and path.parent.name != "tests":
            for call in re.findall(r"torch\.load\([^\n]*", path.read_text(encoding="utf-8")):
                assert "weights_only=True" in call, path
        assert path.suffix not in (".pt", ".pth", ".pkl", ".bin"), path


def test_pins_cover_requirements():
    from configparser import ConfigParser

    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini")
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    keys = ["requirements", *(f"{e}_requirements" for e in config["DEFAULT"]["extras_requirements"].split())]
    for key in keys:
        for requirement in config["DEFAULT"][key].split():
            name = re.match(r"[A-Za-z0-9_-]+", requirement)[0].lower().replace("_", "-")
            assert name in pinned, f"{requirement} has no pin in constraints.txt"


def test_version_stands_in_one_place():
    import learngene

    ini = (ROOT / "settings.ini").read_text()
    assert f"version = {learngene.__version__}\n" in ini
    assert f"version: {learngene.__version__}\n" in (ROOT / "CITATION.cff").read_text()
