"""RunEngine, catalog, and where this session works: NSBLUESKY_SIM=1 simulates the beamline, else fill in the PVs."""

from nsbluesky import session
from nsbluesky.geometry import Geometry, Optic

beamline = session.simulated_beamline()
if beamline is not None:
    site = session.simulated_site(beamline)
else:
    site = session.Site(
        fccd="XF:23ID1-ES{FCCD}",
        stage="XF:23ID1-ES{PTYCHO}",
        shutter="XF:23ID1-ES{SHUTTER}",
        plugins=("stats1",),
        write_path="/nsls2/data/csx/frames/",
        read_path="/nsls2/data/csx/frames/",
        geometry=Geometry(
            energy_eV=930.0,
            detector_distance_m=0.25,
            optic=Optic(diameter_m=240e-6, outer_zone_m=60e-9, central_stop_m=110e-6),
        ),
    )

catalog = session.open_catalog()
processing = session.start_processing(site)  # a process of its own, which gets ready beside what follows
RE = session.run_engine()
db = catalog.scans
processed = catalog.processed
