"""An older revision of dboxfs, built beside the stores, that takes its turns in the same run.

::

    WORK/before/<commit>/          what pip made of the tree, with its extension
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.errors import BenchError

_HERE = Path(__file__).parent.parent
_START = "import sys; from dboxfs.cli.main import main; sys.exit(main())"


def commit_of(revision: str) -> str:
    """The commit that *revision* names, shortened.

    :raises BenchError: there is none.
    """
    return _said("git", "-C", str(_HERE), "rev-parse", "--short", "--verify", f"{revision}^{{commit}}")


def built(commit: str, work: Path) -> tuple[str, ...]:
    """The command that is ``dboxfs`` as of *commit*; built if it isn't there yet.

    :raises BenchError: it can't be built.
    """
    place = work / "before" / commit
    if not place.exists():
        source = work / "before" / f"{commit}.source"
        source.mkdir(parents=True, exist_ok=True)
        archive = source / "source.tar"
        _said("git", "-C", str(_HERE), "archive", "-o", str(archive), commit)
        _said("tar", "-xf", str(archive), "-C", str(source))
        how = ("install", "--quiet", "--no-deps", "--target", str(place))
        _said(sys.executable, "-m", "pip", *how, str(source))
    return ("env", f"PYTHONPATH={place}", sys.executable, "-P", "-c", _START)


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{command[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()
