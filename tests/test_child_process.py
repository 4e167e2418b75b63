"""How the package's own processes begin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SEEN = """
import sys
from importlib.util import _LazyModule

import numpy as np
import scipy.fft  # which takes over all the names of numpy

def main(name):
    f2py = sys.modules["numpy.f2py"]
    assert type(f2py) is _LazyModule and "numpy.f2py.f2py2e" not in sys.modules
    assert np.f2py is f2py and np.f2py.get_include().endswith("src") and "numpy.f2py.f2py2e" in sys.modules
    import numpy.f2py.crackfortran
    print(name)
"""


def test_numpy_s_compiler_of_fortran_is_imported_when_somebody_looks_into_it(tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text(SEEN)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, "-W", "error", "-m", "nsbluesky.child_process", "0", "seen", "all of it is there"]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "all of it is there\n"), done.stderr
