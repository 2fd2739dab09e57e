"""Runs a command of ours in a process of its own, for benchmarks that do what a user would."""

import subprocess
import sys


def command(*words: str) -> str:
    """Run a command of ours; end with its message where it fails.

    Args:
        words: after ``scantling``.

    Returns:
        What it printed.
    """
    done = subprocess.run([sys.executable, "-m", "scantling", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout
