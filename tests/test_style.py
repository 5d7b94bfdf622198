"How the project reads: imports run one way, notebooks begin with ideas, lines and summaries are short."

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(p for p in (ROOT / "learngene").rglob("*.py") if p.name != "_modidx.py")
NOTEBOOKS = [
    p for p in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")) + sorted((ROOT / "nbs/methods").glob("[0-9]*.ipynb"))
]
PAPER = sorted((ROOT / "nbs/paper").glob("*.ipynb"))
EXPORT = re.compile(r"^\s*#\s*\|\s*exports?i?\b", re.M)
IMPORTS_ONLY = re.compile(r"(\s*((from|import) .*|#.*|[\w, ]+,|\))?\n?)*")


def cells(path, kind):
    "Sources of a notebook's cells of one kind, without empty ones."
    sources = [
        "".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind
    ]
    return [source for source in sources if source.strip()]


def name_of(path):
    "Dotted name of a module of the library."
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


KNOWN = {name_of(p) for p in MODULES}


def imports_of(path):
    "(module, name or None) of every import from the library itself, also those inside functions."
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((a.name, None) for a in node.names if a.name.split(".")[0] == "learngene")
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "learngene"):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            for a in node.names:
                is_module = f"{module}.{a.name}" in KNOWN
                yield (f"{module}.{a.name}", None) if is_module else (module, a.name)


def edges():
    "module -> the modules it imports; the package itself, which loads modules when a name is first used, is left out."
    graph = {name_of(p): {m for m, _ in imports_of(p)} - {"learngene", name_of(p)} for p in MODULES}
    graph.pop("learngene")
    return graph


def test_no_import_runs_in_a_circle():
    graph, order, active = edges(), [], []

    def visit(module):
        assert module not in active, " -> ".join([*active[active.index(module) :], module])
        if module not in order:
            active.append(module)
            for imported in sorted(graph.get(module, ())):
                visit(imported)
            order.append(active.pop())

    for module in sorted(graph):
        visit(module)


def test_the_library_never_imports_the_application():
    outside = {
        module: imported
        for module, imported in edges().items()
        if not module.startswith(("learngene.app", "learngene.__main__"))
    }
    assert not {module for module, imported in outside.items() if any(m.startswith("learngene.app") for m in imported)}


def test_no_private_name_crosses_a_module():
    crossing = [
        f"{name_of(p)}: {module}.{name}"
        for p in MODULES
        for module, name in imports_of(p)
        if name and name.startswith("_") and not name.startswith("__")
    ]
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        aliases = {
            a.asname or a.name
            for n in ast.walk(tree)
            if isinstance(n, (ast.Import, ast.ImportFrom))
            for a in n.names
            if f"learngene.{a.name}" in KNOWN or a.name in KNOWN
        }
        crossing += [
            f"{name_of(path)}: {n.value.id}.{n.attr}"
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute)
            and isinstance(n.value, ast.Name)
            and n.value.id in aliases
            and re.match("_[^_]", n.attr)
        ]
    assert crossing == []


def test_a_top_level_name_is_defined_in_one_module():
    homes = {}
    for path in MODULES:
        if path.parts[-2:] == ("app", "cli.py"):  # its functions are named after commands
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                homes.setdefault(node.name, []).append(name_of(path))
    assert {name: modules for name, modules in homes.items() if len(modules) > 1 and name not in ALLOWED_TWICE} == {}


ALLOWED_TWICE = {
    "main",  # entry points
    "inherit",  # the short form of a shape, and the public one with refit and budget
    "names",  # of methods and of datasets: `methods.names()`, `data.names()`
}


def test_notebooks_import_from_earlier_ones_only():
    exported = {}
    for position, path in enumerate(NOTEBOOKS):
        module = re.search(r"^#\| default_exp (\S+)", "\n".join(cells(path, "code")), re.M)
        if module and path.parent.name == "nbs":
            exported[f"learngene.{module[1]}"] = position
    graph = edges()
    assert [
        f"{m} imports {later}" for m in exported for later in graph[m] if exported.get(later, -1) > exported[m]
    ] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_at_most_40_exported_lines_between_cells_that_show_something(path):
    run, gaps = 0, []
    for source in cells(path, "code"):
        if EXPORT.search(source):
            run += len([line for line in source.splitlines() if line.strip()])
        elif "#| hide" not in source and not IMPORTS_ONLY.fullmatch(source):
            gaps, run = [*gaps, run], 0
    assert max([*gaps, run], default=0) <= 40


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_to_the_neighbours_and_exercises(path):
    place, text = NOTEBOOKS.index(path), "\n".join(cells(path, "markdown"))
    neighbours = [NOTEBOOKS[i] for i in (place - 1, place + 1) if 0 <= i < len(NOTEBOOKS)]
    targets = {
        (path.parent / target).resolve()
        for target in re.findall(r"\]\(([^)#\s]+\.ipynb)\)", "\n".join(cells(path, "markdown")[:3]))
    }
    assert {p.resolve() for p in [*neighbours, ROOT / "nbs/index.ipynb"]} <= targets
    exercises = text.split("## Exercises")[-1]
    assert "## Exercises" in text and exercises.count("<details>") == exercises.count("</details>") >= 2


def test_notebooks_use_no_undefined_names():
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821", "nbs"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def code_lines():
    "(where, line) of every line of code of the project."
    for path in [*MODULES, *sorted((ROOT / "tests").glob("*.py"))]:
        if "AUTOGENERATED" not in path.read_text(encoding="utf-8"):
            yield from (
                (f"{path.relative_to(ROOT)}:{i}", line)
                for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            )
    for path in [*NOTEBOOKS, *PAPER, ROOT / "nbs/index.ipynb"]:
        yield from (
            (path.name, line)
            for source in cells(path, "code")
            for line in source.splitlines()
            if not line.startswith("#| fig-alt")
        )


def test_lines_have_at_most_120_characters():
    assert [where for where, line in code_lines() if len(line) > 120] == []


def public_functions(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_summaries_are_short(path):
    summaries = {n.name: (ast.get_docstring(n) or "").split("\n\n")[0].split("\n")[0] for n in public_functions(path)}
    assert {name: s for name, s in summaries.items() if len(s) > 90} == {}


def test_summaries_of_functions_are_imperative():
    noun = re.compile(r"(The|An?|What|Which|How|Every|All|Each|Names|Does|Is)\b")
    wrong = [
        f"{name_of(path)}.{n.name}: {summary}"
        for path in MODULES
        for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(n, ast.FunctionDef) and noun.match(summary := ast.get_docstring(n) or "")
        if not any("property" in ast.unparse(d) for d in n.decorator_list)  # these are named as what they are
    ]
    assert wrong == []


def test_git_knows_which_files_are_generated():
    marked = set(re.findall(r"^(\S+\.py) linguist-generated=true$", (ROOT / ".gitattributes").read_text(), re.M))
    generated = {str(p.relative_to(ROOT)) for p in MODULES if "AUTOGENERATED" in p.read_text(encoding="utf-8")}
    assert marked == generated | {"learngene/_modidx.py"}
