"Fuzz for a while: python -m fuzz [TARGET ...] [--minutes 60] [--seed 1]; exit code 1 when there are faults."

import argparse
import faulthandler
import sys
from collections import Counter

import learngene  # noqa: F401  first: it lets timm import torchvision

from fuzz.runner import fuzz_for, targets


def main():
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets())}; all by default")
    parser.add_argument("--minutes", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed; each later round takes the next one (1)")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(targets()):
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(targets())}.")
    faulthandler.dump_traceback_later(60 * options.minutes + 600, exit=True)  # a case that never ends
    counts = fuzz_for(60 * options.minutes, options.targets, options.seed)
    for name, ends in counts.items():
        print(f"{name}: {ends.total()} cases, {ends['refused']} of them refused, {ends['fault']} faults")
    total = sum(counts.values(), Counter())
    print(f"{total.total()} cases, {total['fault']} faults")
    sys.exit(total["fault"] > 0)


if __name__ == "__main__":
    main()
