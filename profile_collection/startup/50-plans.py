"""The scans, with this beamline's devices and geometry: RE(ptycho_fly_scan(shape=(40, 40)))."""

from nsbluesky import plans

ptycho_scan = session.bind(plans.ptycho_scan, fccd, stage, shutter, geometry=site.geometry, step_um=site.step_um)
ptycho_fly_scan = session.bind(
    plans.ptycho_fly_scan, fccd, stage, shutter, geometry=site.geometry, step_um=site.step_um
)
ptycho_points = session.bind(plans.ptycho_points, fccd, stage, shutter, geometry=site.geometry)
ptycho_darks = session.bind(plans.ptycho_darks, fccd, shutter, geometry=site.geometry)
