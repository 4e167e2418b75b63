"""The scans, with this beamline's devices and geometry: RE(ptycho_fly_scan(shape=(40, 40)))."""

from nsbluesky import plans

scans = {"geometry": site.geometry, "num_dark": site.num_dark}
ptycho_scan = session.bind(plans.ptycho_scan, fccd, stage, shutter, step_um=site.step_um, **scans)
ptycho_fly_scan = session.bind(plans.ptycho_fly_scan, fccd, stage, shutter, step_um=site.step_um, **scans)
ptycho_points = session.bind(plans.ptycho_points, fccd, stage, shutter, **scans)
ptycho_darks = session.bind(plans.ptycho_darks, fccd, shutter, geometry=site.geometry)
