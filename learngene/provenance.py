"""Which code is running: its commit, whether its tree is clean, a hash of its source, and the versions it uses."""
import hashlib
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import learngene

from .files import project_root

CANNOT_MATTER = ("results", "nbs/paper")  # JupyterLab rewrites a paper notebook whenever one is opened
CAN_MATTER = ("learngene", "nbs", "setup.py", "settings.ini")  # where a new file may change what a run does
DEPENDENCIES = ("torch", "torchvision", "timm", "accelerate", "numpy", "scikit-learn")


def code_version() -> dict:  # source ("checkout" or "release"), version, commit, clean
    "Say which code is running. A checkout is clean when git sees no change that can matter."
    version, root = learngene.__version__, project_root(Path(learngene.__file__).parent)
    if root is None or root != Path(learngene.__file__).resolve().parent.parent:
        return dict(source="release", version=version, commit=None, clean=True)
    commit = git(root, "rev-parse", "HEAD")
    exclude = [f":(exclude){path}" for path in CANNOT_MATTER]
    changed = git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *exclude)
    added = git(root, "ls-files", "--others", "--exclude-standard", "--", *CAN_MATTER, *exclude)
    clean = bool(commit) and changed == added == ""
    return dict(source="checkout", version=version, commit=commit or None, clean=clean)


def git(root, *args):
    "Output of a git command; None without git or a repository."
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def source_digest(
    folder=None,  # of a copy of the library; None = the one that is running
) -> str:
    "Hash the library's source files: the same in every copy, with or without git."
    folder, digest = Path(folder or Path(learngene.__file__).parent), hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        line = f"{file.relative_to(folder).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n"
        digest.update(line.encode())
    return digest.hexdigest()[:16]


def versions() -> dict:
    "Return the versions of what a result may depend on."
    installed = {"python": sys.version.split()[0]}
    for name in DEPENDENCIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return installed


def now() -> str:
    "Return the time in UTC, ISO 8601."
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
