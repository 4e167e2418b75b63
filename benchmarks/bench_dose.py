"""How the default does at each dose: 50 passes over 400 × 64², against every engine and schedule with as many.

All start from the same wrong defocus, with the same sweep.  Errors are given by the whole object, by its contrast (a
blank one scores 1) and with a scale fitted to each tile of 64 pixels.
"""

from __future__ import annotations

from benchmarks.bench_contest import told_wrong
from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from benchmarks.simulated_scans import simulated_scan
from nsbluesky.backend import get_backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.reconstruct import reconstruct

DOSES = (1e3, 1e4, 1e5, 1e6, 1e7)

SCHEDULES = {
    "wasp (default)": "wasp:50",
    "mpie": "mpie:50",
    "epie": "epie:50",
    "raar": "raar:50",
    "lsqml": "lsqml:50",
    "lsqml_poisson": "lsqml_poisson:50",
    "cg": "cg:50",
    "wasp, then cg": "wasp:25,cg:25",
    "wasp, then lsqml_poisson": "wasp:25,lsqml_poisson:25",
}


def measure() -> list[Figure]:
    """Reconstruct 400 × 64² at each dose with each schedule of 50 passes, all else by default."""
    backend = get_backend("auto")
    figures = []
    for photons in DOSES:
        scan = simulated_scan(64, 20, photons)
        found = {}
        for name, schedule in SCHEDULES.items():
            settings = SolverSettings(algorithm=schedule, modes=1)
            result = reconstruct(scan.frames, scan.translations_m, None, told_wrong(scan), settings, backend)
            found[name] = errors(result.picture.object, scan.object, scan.side // 6)
        best = min(found, key=lambda name: found[name].whole)
        default = found["wasp (default)"]
        others = ", ".join(f"{name} {each.whole:.4f}" for name, each in found.items() if name != "wasp (default)")
        figures.append(
            Figure(
                f"400 × 64², {photons:.0e} photons a frame: default",
                str(default),
                f"{default.whole / found[best].whole:.2f} × the best ({best}); {others}",
            )
        )
    return figures
