"""Build the documentation into _docs/html: `make docs`. It needs no network.

Pages that can be computed are: the API from signatures and their comments, the families table from small models.
"""

import configparser
import inspect
import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s:]*)(?P<anchor>#[^)\s]*)?(?=\))")


def write_sources(folder: Path) -> None:
    "Collect handwritten pages, notebooks and computed pages in a folder for Sphinx."
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder, ignore=shutil.ignore_patterns("build.py", "__pycache__"))
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if not any(part.startswith((".", "my-")) for part in notebook.parts):
            target = folder / notebook.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(outward_links(notebook.read_text(encoding="utf-8"), notebook.parent), encoding="utf-8")
    (folder / "families.md").write_text(families_page(), encoding="utf-8")
    (folder / "api.md").write_text(api_page(), encoding="utf-8")


def outward_links(text: str, folder: Path) -> str:
    "Point links to files that are no pages of the site at the repository; spell places in pages as Sphinx does."
    config = configparser.ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    home = "https://github.com/{user}/{repo}/blob/{branch}/".format(**config["DEFAULT"])

    def outward(match):
        path = (folder / match["target"]).resolve()
        if match["anchor"] and (path.suffix == ".ipynb" or not match["target"]):
            return match["target"] + "#" + re.sub(r"[^\w-]", "", match["anchor"]).lower()
        if path.suffix == ".ipynb" or not path.is_relative_to(ROOT) or not path.exists():
            return match[0]
        return home + path.relative_to(ROOT).as_posix() + (match["anchor"] or "")

    return LINK.sub(outward, text)


def families_page() -> str:
    "Write the families that can be cut, and those that cannot."
    from learngene.families.table import families_table, refused_table

    return "\n\n".join([
        "# Supported families",
        "Computed from one small model of each family. The test suite takes each of them through density, condensing, "
        "inheriting, saving, refit and budgets. `learngene info --families` prints the same.",
        _table(families_table()), "## Refused, with the reason", _table(refused_table())]) + "\n"


def api_page() -> str:
    "Write every public name with its parameters, their shapes and units, and what it returns."
    import learngene

    parts = ["# API", "Everything below is an attribute of `learngene`; `import learngene as lg`."]
    for name in learngene.__all__:
        thing = getattr(learngene, name)
        if not inspect.ismodule(thing):
            parts += [f"## {name}", _description(name, thing)]
    return "\n\n".join(parts) + "\n"


def _description(name, thing):
    from fastcore.docments import docments

    text = re.sub(r"(?m)^    ", "", inspect.getdoc(thing) or "")
    rows, returns = [], ""
    for parameter, facts in docments(thing, full=True).items():
        said = " ".join((facts.docment or "").split())
        if parameter == "return":
            returns = said
        elif parameter != "self":
            default = facts.default
            empty = default is inspect.Parameter.empty or "empty" in repr(default)
            rows.append({"parameter": f"`{parameter}`", "default": "" if empty else f"`{_short(default)}`", "is": said})
    methods = [f"- `{m}`: {(inspect.getdoc(f) or '').splitlines()[0]}" for m, f in sorted(vars(thing).items())
               if inspect.isclass(thing) and not m.startswith("_") and inspect.getdoc(f) and callable(f)
               ] if inspect.isclass(thing) else []
    parts = [text, _table(rows) if rows else "", f"**Returns** {returns}" if returns else "", "\n".join(methods)]
    return "\n\n".join(part for part in parts if part)


def _short(default):
    text = repr(default)
    return "..." if "object at" in text or "factory" in text.lower() or len(text) > 40 else text


def _table(rows):
    lines = [list(rows[0]), ["---"] * len(rows[0]), *[list(row.values()) for row in rows]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def broken_links(folder: Path) -> list:  # of texts "page: link"
    "List links of built pages whose page, file or place within a page is not there."
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(folder.rglob("*.html"))}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    broken = []
    for page, text in pages.items():
        for link in set(re.findall(r'<a [^>]*href="([^"]+)"', text)):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            path = (page.parent / target).resolve() if target else page
            if not path.exists() or anchor and path in anchors and anchor not in anchors[path]:
                broken.append(f"{page.relative_to(folder)}: {link}")
    return broken


def main(folder: Path) -> int:  # 0, or 1 for warnings and broken links
    "Build the site in a folder."
    from sphinx.cmd.build import main as sphinx

    write_sources(folder / "source")
    if code := sphinx(["-q", "-W", "--keep-going", "-b", "html", str(folder / "source"), str(folder / "html")]):
        return code
    broken = broken_links(folder / "html")
    print("\n".join(broken) or f"built {folder / 'html' / 'index.html'}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_docs"))
