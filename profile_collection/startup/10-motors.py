"""What moves: the scan stage and the shutter."""

stage = session.scan_stage(site)
shutter = session.shutter(site)
