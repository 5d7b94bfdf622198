"""Convert nbs/index.ipynb to README.md and its pictures: `python tests/readme.py`, part of `make sync`."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import Preprocessor

ROOT = Path(__file__).parents[1]
PICTURES = "nbs/images"


class _Directives(Preprocessor):
    "Do what the cells' nbdev directives say: leave out hidden cells, and the code of those that do not echo."

    def preprocess(self, nb, resources):
        nb.metadata["language_info"] = {"name": "python"}
        nb.cells = [c for c in nb.cells if not c.source.startswith("#| hide")]
        for c in nb.cells:
            if c.cell_type == "code" and c.source.startswith("#| echo: false"):
                resources.setdefault("alts", []).extend(re.findall(r"^#\| fig-alt: (.*)$", c.source, flags=re.M))
                c.source = ""
        return nb, resources


def convert():
    "(text of README.md, {file name: bytes of its pictures})"
    nb = nbformat.read(ROOT / "nbs/index.ipynb", as_version=4)
    text, resources = MarkdownExporter(preprocessors=[_Directives]).from_notebook_node(
        nb, {"output_files_dir": PICTURES, "unique_key": "readme"}
    )
    text = re.sub(r"```python\s*```\n*", "", text)  # code that is not shown
    text = re.sub(r"<style[^>]*>.*?</style>\s*", "", text, flags=re.S)
    text = re.sub(r"\]\((?=[\w/]+\.ipynb)", "](nbs/", text).replace("](../", "](")  # links from the notebooks' folder
    alts = iter(resources["alts"])
    text = re.sub(r"!\[png\]", lambda match: f"![{next(alts)}]", text)  # StopIteration: a picture has no alt text
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return text, resources["outputs"]


if __name__ == "__main__":
    text, pictures = convert()
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    (ROOT / PICTURES).mkdir(exist_ok=True)
    for old in (ROOT / PICTURES).glob("readme_*"):
        old.unlink()
    for name, data in pictures.items():
        (ROOT / name).write_bytes(data)
