"""Programs: what Python code that a model wrote prints, run in a process of its own.

The process has little time and memory, an empty folder, none of our environment, and may start no other, reach no
network and change no file. That stops mistakes and common mischief; it is no wall against an attacker, so nothing runs
unasked.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from asa.support.files import UserError

SECONDS = 5  # of processor time, and of the clock
MEGABYTES = 512
PRINTED = 1_000_000  # bytes that a program may print
_RUNNER = """
import ast, ctypes, os, resource, sys
seconds, memory, printed = map(int, sys.argv[1:])
if sys.platform == "linux":
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # own user and network; where refused, `guard` is left
for limit, value in {"CPU": seconds, "AS": memory, "FSIZE": printed, "NOFILE": 64, "NPROC": 0, "CORE": 0}.items():
    try:
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (value, value))
    except (AttributeError, ValueError, OSError):
        if limit not in ("AS", "NPROC"):  # not every platform knows them
            raise
code = ast.parse(sys.stdin.read())
last = ast.Expression(code.body.pop().value) if code.body and isinstance(code.body[-1], ast.Expr) else None
REFUSED = tuple(
    "socket. subprocess. ctypes. pty. signal. shutil. os.fork os.exec os.spawn os.posix_spawn os.system os.kill "
    "os.remove os.rename os.rmdir os.mkdir os.link os.symlink os.truncate os.ch os.lch os.utime os.setxattr "
    "os.removexattr".split()
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
def guard(event, arguments):
    writes = event == "open" and (arguments[2] or 0) & WRITES
    starts = event == "import" and arguments[0] == "_posixsubprocess"
    if writes or starts or event.startswith(REFUSED):
        raise PermissionError(f"{event} is refused")
sys.addaudithook(guard)  # for good: none can be removed
names = {"__name__": "__main__"}
exec(compile(code, "<call>", "exec"), names)
if last is not None and (value := eval(compile(last, "<call>", "eval"), names)) is not None:
    print(value)
"""


def run_python(code: str) -> str | None:
    """What `code` prints, with the value of a last expression as in an interpreter; None where it fails.

    It fails where it raises, takes more than `SECONDS` or `MEGABYTES`, prints more than `PRINTED` bytes, or tries
    what it may not.

    Raises:
        UserError: This platform has no such limits.
    """
    if os.name != "posix":
        raise UserError("Python calls cannot be run within limits on this platform: leave running code off.")
    limits = [str(limit) for limit in (SECONDS, MEGABYTES * 1024 * 1024, PRINTED)]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
        program = subprocess.Popen(
            [sys.executable, "-s", "-P", "-X", "utf8", "-c", _RUNNER, *limits],
            stdin=subprocess.PIPE,
            stdout=printed,  # a file, so that its size is limited
            stderr=subprocess.DEVNULL,
            cwd=Path(folder),
            env={"PYTHONHASHSEED": "0"},  # sets in the same order each time; -I would ignore it
            start_new_session=True,
        )
        try:
            program.communicate(code.encode(errors="replace"), timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end_group(program)
        if program.returncode != 0:
            return None
        printed.seek(0)
        return printed.read().decode(errors="replace")


def _end_group(program: subprocess.Popen) -> None:
    """End a program and whatever it may have started."""
    try:
        os.killpg(program.pid, signal.SIGKILL)
    except OSError:
        pass  # nothing is left of it
    program.wait()
