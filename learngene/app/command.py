"The command line's application, and what all commands share: errors in one line, exit codes."

import functools
import os
import sys

import typer

from ..optional import install_hint

HELP = "Make smaller vision transformers from trained ones; run the paper's tables, single recipes, and reports."
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=HELP)
RESUMES = "finished runs are kept, and the same command resumes the others"


def command(function, panel=None, interrupted=RESUMES):
    "Register a command of the application, with its errors in one line on standard error."

    @functools.wraps(function)
    def run_command(*args, **kwargs):
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except KeyboardInterrupt:
            print(f"\ninterrupted; {interrupted}", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:  # the reader has seen enough, as in `learngene list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError, AssertionError, ImportError) as e:
            sys.exit("learngene: " + " ".join(f"{str(e) or type(e).__name__}{_install_hint(e)}".split()))

    return app.command(name=function.__name__.removesuffix("_"), rich_help_panel=panel)(run_command)


def _install_hint(error):
    "Say what to install for a missing package, unless the error does."
    package = (getattr(error, "name", None) or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if not package or "pip install" in str(error):
        return ""
    return ": " + install_hint(package)
