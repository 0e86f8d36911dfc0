"""The virtual environments of the peers, each of its own, made where they are not there."""

import subprocess
import sys
from pathlib import Path

ENVS = Path("~/.cache/seqgen-benchmark/envs").expanduser()
TORCH = "torch==2.13.0"
# Of each peer its own package first. RecBole's newest release wants older ones than it says.
REQUIREMENTS = {
    "replay": ["replay-rec[torch]==0.22.0"],
    "rectools": ["rectools[torch]==0.19.0"],
    "recbole": ["recbole==1.2.1", "setuptools<81", "numpy<2", "pandas<3"],
}


class NotInstalled(Exception):
    """A peer's environment could not be made; the text ends with the reason."""


def environment(envs: Path, peer: str) -> Path:
    """The Python of a peer's virtual environment, which is made where it is not there or holds another version.

    Raises:
        NotInstalled: It could not be made.
    """
    python = envs.expanduser().resolve() / peer / "bin" / "python"
    package, _, wanted = REQUIREMENTS[peer][0].partition("==")
    name = package.split("[")[0]
    held = f"import torch, importlib.metadata as m; assert m.version({name!r}) == {wanted!r}"
    if python.exists() and not subprocess.run([str(python), "-c", held], capture_output=True, check=False).returncode:
        return python
    print(f"Making {python.parent.parent} ...", flush=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    make = [sys.executable, "-m", "venv", "--clear", str(python.parent.parent)]
    for command in (make, [*install, TORCH], [*install, *REQUIREMENTS[peer]]):  # torch first: the peer takes this one
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotInstalled(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}".rstrip())
    return python
