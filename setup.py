"Install from settings.ini, the one place where the version and the requirements stand."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in cfg["extras_requirements"].split()}
extras["all"] = sorted(r for name in ("notebooks", "hub") for r in extras[name])
readme = here / "README.md"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    license="Apache-2.0",
    url=f"https://github.com/{cfg['user']}/{cfg['repo']}",
    packages=find_packages(include=["learngene", "learngene.*"]),
    package_data={"learngene": ["recipes/*/*.yaml", "ancestries/*/*", "app/report.html.jinja"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": ["learngene=learngene._modidx:d"]},
    zip_safe=False,
)
