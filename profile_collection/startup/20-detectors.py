"""What measures: the fast CCD."""

fccd = session.fccd(site)

# a plan rests while an IOC is away or the disk of the frames is full, and goes on by itself
session.suspend_while_away(RE, fccd, stage, shutter)
session.suspend_while_full(RE, site)


def check():
    """Look whether the beamline is ready for a scan; nothing moves."""
    return session.check(site, fccd, stage, shutter)
