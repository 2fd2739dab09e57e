"""An environment of its own for every peer, from the packages that its script pins.

The pins stand at the head of the script (PEP 723), so that one file has all that is known of a peer.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

BLOCK = re.compile(r"^# /// script\n(?P<content>(?:#.*\n)+?)# ///$", re.MULTILINE)


def requirements(script: Path) -> list[str]:
    """Read what a script asks for.

    Args:
        script: the file.

    Returns:
        Requirements as pip takes them.
    """
    found = BLOCK.search(script.read_text(encoding="utf-8"))
    assert found is not None, f"{script} has no block of script metadata"
    content = "\n".join(line.removeprefix("#").removeprefix(" ") for line in found["content"].splitlines())
    return list(tomllib.loads(content)["dependencies"])


def interpreter(script: Path, folder: Path) -> Path:
    """Make a script's environment where it is not there or of other pins.

    Args:
        script: the file.
        folder: for the environment.

    Returns:
        Its Python.
    """
    wanted, made = "\n".join(requirements(script)), folder / "requirements.txt"
    python = folder / "bin" / "python"
    if not made.is_file() or made.read_text() != wanted:
        print(f"installing {wanted.replace(chr(10), ', ')} …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted.split("\n")], check=True)
        made.write_text(wanted)
    return python
