"""Say what this machine lacks to set the project up, before anything is installed.

Run as a script, by any Python 3 and without any package: ``python3 sim/preflight.py``.
"""

import ctypes
import importlib.util
import os
import shutil
import sys
import sysconfig

MINIMUM = (3, 11)


def missing() -> "list[tuple[str, str]]":
    """What is missing, and the Debian package that has it."""
    python = "python{}.{}".format(*sys.version_info)
    found = []
    if sys.version_info < MINIMUM:
        wanted = "Python {}.{} or newer".format(*MINIMUM)
        return [(f"{wanted}, not {sys.version.split()[0]}; set PYTHON=", "python3")]
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        found.append(("a C++ compiler", "g++"))
    if shutil.which("make") is None:
        found.append(("make", "make"))
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        found.append((f"the venv module of {python}", f"{python}-venv"))
    if not _has_shared_library():
        found.append((f"the shared library of {python}, for cocotb", f"lib{python}"))
    return found


def _has_shared_library() -> bool:
    name = sysconfig.get_config_var("INSTSONAME") or ""
    for path in (name, os.path.join(sysconfig.get_config_var("LIBDIR") or "", name)):  # noqa: PTH118
        try:
            ctypes.CDLL(path)
        except OSError:
            continue
        return True
    return False


def main() -> int:
    """Report on standard error; 0 if nothing is missing, else 2."""
    lacks = missing()
    for what, _ in lacks:
        sys.stderr.write(f"missing: {what}\n")
    if lacks:
        packages = " ".join(package for _, package in lacks)
        sys.stderr.write(f"install it with: apt-get install {packages}\n")
    return 2 if lacks else 0


if __name__ == "__main__":
    sys.exit(main())
