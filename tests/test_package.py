"What `pip install` gets: an sdist that builds, a wheel that holds every file, metadata that an index can show."

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from test_repository import ROOT, tracked

import learngene
from learngene.optional import EXTRAS, install_hint, require

BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def build(kind, source, target):
    "Build one archive as pip does, in a process of its own; its path."
    done = subprocess.run([sys.executable, "-c", BUILD, kind, target], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    "(sdist, wheel): the wheel is built from the unpacked sdist alone."
    folder = tmp_path_factory.mktemp("package")
    for path in tracked():
        if path.is_relative_to(ROOT / "learngene") or path.parent == ROOT:
            copy = folder / "source" / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    sdist = build("build_sdist", folder / "source", folder)
    with tarfile.open(sdist) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    return sdist, build("build_wheel", next((folder / "unpacked").iterdir()), folder)


@pytest.fixture(scope="module")
def metadata(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(wheel.read(name))


def test_the_wheel_holds_every_file_of_the_library(archives):
    files = {str(p.relative_to(ROOT)) for p in tracked() if p.is_relative_to(ROOT / "learngene")}
    with zipfile.ZipFile(archives[1]) as wheel:
        assert files - set(wheel.namelist()) == set()
    assert {"learngene/py.typed", "learngene/app/report.html.jinja"} <= files


def test_the_sdist_holds_what_builds_it(archives):
    with tarfile.open(archives[0]) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"} <= names


def test_metadata(metadata):
    assert (metadata["Name"], metadata["Version"]) == ("learngene", learngene.__version__)
    assert metadata["License"] == "Apache-2.0" and metadata["Requires-Python"] == ">=3.10"
    assert set(EXTRAS) | {"dev", "all"} <= set(metadata.get_all("Provides-Extra"))


def test_the_core_is_light(metadata):
    required = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    names = {re.match(r"[\w-]+", r)[0].lower().replace("-", "_") for r in required}
    assert {"torch", "timm", "safetensors", "numpy"} <= names
    assert names.isdisjoint({package for packages in EXTRAS.values() for package in packages} | {"jupyterlab"})


def test_links_of_the_long_description_are_absolute(metadata):
    links = re.findall(r"\]\(([^)]+)\)", metadata.get_payload())
    assert len(links) > 20
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert any("/raw/main/nbs/images/" in link for link in links)


def test_the_wheel_works_where_only_its_files_are(archives, tmp_path):
    "Outside the checkout, without the packages of any extra."
    site = tmp_path / "site"
    with zipfile.ZipFile(archives[1]) as wheel:
        wheel.extractall(site)
    blocked = [package for packages in EXTRAS.values() for package in packages]
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
sys.modules.update(dict.fromkeys({blocked!r}))
import learngene as lg
assert lg.__file__.startswith({str(site)!r}), lg.__file__
for name in lg.__all__: getattr(lg, name)
lg.load_ancestry("vit_nano_p2_8.digits")
from learngene.app.cli import main
main(["--version"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"learngene {learngene.__version__}\n"


def test_a_missing_package_names_its_extra():
    assert install_hint("pyarrow") == "pip install 'learngene[data]'"
    assert install_hint("nothing_known") == "pip install nothing_known"
    with pytest.raises(ImportError, match=r"the moon needs nothing_known: pip install nothing_known\."):
        require("nothing_known", "the moon")
    assert require("json", "x") is sys.modules["json"]
    assert Path(require("torch", "x").__file__).exists()
