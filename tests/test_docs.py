"The documentation: what its snippets call exists, and with the extra `docs` the site builds without a broken link."

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import typer

import learngene as lg
from learngene.app import cli

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted((DOCS / "howto").glob("*.md"))


@pytest.fixture(scope="module")
def build():
    "docs/build.py as a module."
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def snippets(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_call_what_there_is(page):
    commands = typer.main.get_command(cli.app).commands
    for code in snippets(page, "python"):
        for call in [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]:
            if ast.unparse(call.func).startswith("lg."):
                function = getattr(lg, call.func.attr)
                inspect.signature(function).bind(*call.args, **{k.arg: k.value for k in call.keywords})
    for line in "\n".join(snippets(page, "sh")).splitlines():
        if words := re.search(r"learngene (.*?)(#|$)", line):
            name, *arguments = words[1].split()
            options = {option for parameter in commands[name].params for option in parameter.opts}
            assert {word for word in arguments if word.startswith("--")} <= options


def test_every_page_is_in_the_contents():
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    assert all(f"howto/{page.stem}\n" in contents for page in PAGES) and len(PAGES) > 5


def test_the_api_page_has_every_name_with_its_parameters(build):
    text = build.api_page()
    assert re.findall(r"(?m)^## (\w+)$", text) == [name for name in lg.__all__ if name != "methods"]
    assert "| `max_images` | `None` | use no more images than this |" in text and "object at 0x" not in text


def test_links_to_files_lead_to_the_repository(build):
    text = "[a](../CONTRIBUTING.md) [b](05_inheriting.ipynb#A-look,-again) [c](#Another-place) [d](https://x.org/y.md)"
    linked = build.outward_links(text, DOCS.parent / "nbs")
    assert re.findall(r"\]\((.*?)\)", linked) == [
        "https://github.com/learngene/learngene/blob/main/CONTRIBUTING.md", "05_inheriting.ipynb#a-look-again",
        "#another-place", "https://x.org/y.md"]


def test_broken_links_are_found(build, tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#here">x</a> <a href="b.html#there">x</a> <a href="c.html">x</a>')
    (tmp_path / "b.html").write_text('<h2 id="here">y</h2> <a href="https://x.org/none">x</a>')
    assert sorted(build.broken_links(tmp_path)) == ["a.html: b.html#there", "a.html: c.html"]


def test_the_site_builds(build, tmp_path):
    for module in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(module)
    assert build.main(tmp_path) == 0
    assert "Swin" in (tmp_path / "html/families.html").read_text(encoding="utf-8")
