"Install from settings.ini, the one place where the version and the requirements stand."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in cfg["extras_requirements"].split()}
extras["all"] = sorted({r for name, required in extras.items() if name not in ("dev", "docs") for r in required})
home = f"https://github.com/{cfg['user']}/{cfg['repo']}"


def long_description():
    "README.md with absolute links, since an index of packages has no other files."
    file = here / "README.md"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{home}/raw/{cfg['branch']}/", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{home}/blob/{cfg['branch']}/", text)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=long_description(),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    license="Apache-2.0",
    url=home,
    project_urls={"Changes": f"{home}/blob/{cfg['branch']}/CHANGELOG.md"},
    packages=find_packages(include=["learngene", "learngene.*"]),
    package_data={"learngene": ["py.typed", "recipes/*/*.yaml", "ancestries/*/*", "app/report.html.jinja"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": ["learngene=learngene._modidx:d"]},
    zip_safe=False,
)
