"""Setup: check that the packages are there, and install only what is missing.

On Colab nearly all of it is preinstalled. A missing package is installed with pip inside a notebook; torch and NumPy
never are, because exchanging them under a running kernel breaks it. Outside a notebook the command to run is named.
"""

import builtins
import io
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from asa.support.files import UserError

NEEDED = {  # package -> oldest version accepted
    "torch": "2.11", "numpy": "2.1", "transformers": "5.15", "scikit-learn": "1.6", "scipy": "1.13",
    "threadpoolctl": "3.5", "datasets": "4.0", "matplotlib": "3.10", "safetensors": "0.5", "jsonschema": "4.23",
    "simpleeval": "1.0", "llguidance": "1.7",
    "accelerate": "1.10", "gguf": "0.17",  # transformers reads GGUF files with these two
    "peft": "0.18",
}  # fmt: skip
NEVER_INSTALLED = ("torch", "numpy")
SPINS = 500  # rounds of GNU's OpenMP before a waiting thread sleeps: some microseconds
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(SPINS)}


def _version_tuple(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2] if part.isdigit())


def _found_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers may depend on."""
    packages = ("torch", "transformers", "numpy", "scikit-learn")
    return {"python": sys.version.split()[0]} | {package: _found_version(package) for package in packages}


def notebook_shell() -> Any:
    """The IPython shell this runs in, or None."""
    return getattr(builtins, "get_ipython", lambda: None)()


def share_cores() -> None:
    """Have waiting threads give up their core soon; to be called before torch is loaded, or its threads spin.

    On a shared machine a spinning thread keeps the others from the core that they wait for; on a quiet one a thread
    that sleeps at once takes long to wake (see benchmarks/busy.md). What the user has set is left alone.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ |= WAITING


def print_any_text() -> None:
    """Escape what the terminal cannot print, in place of ending the run; a notebook prints everything."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_environment() -> None:
    """Print what is there; install what is missing where that is safe.

    Raises:
        UserError: Packages are missing or too old and must be installed by the user.
    """
    shell = notebook_shell()
    found = {package: _found_version(package) for package in NEEDED}
    missing = [package for package, has in found.items() if not has and package not in NEVER_INSTALLED]
    if missing and shell:
        shell.run_line_magic("pip", "install " + " ".join(missing))
        found |= {package: _found_version(package) for package in missing}
    unfit = [p for p, has in found.items() if not has or _version_tuple(has) < _version_tuple(NEEDED[p])]
    if unfit:
        states = ", ".join(f"{p} is {found[p] or 'missing'} and {NEEDED[p]} or newer is needed" for p in unfit)
        wanted = " ".join(f'"{p}>={NEEDED[p]}"' for p in unfit)
        remedy = (
            f"%pip install {wanted}, restart the session and run all again"
            if shell
            else "pip install -r requirements.txt"
        )
        raise UserError(f"{states}: run {remedy}.")
    print(f"Python {sys.version.split()[0]}, " + ", ".join(f"{package} {has}" for package, has in found.items()))
