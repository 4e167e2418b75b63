"""What measures: the fast CCD."""

fccd = session.fccd(site)

# a plan rests while an IOC is away, and goes on when it is back
session.suspend_while_away(RE, fccd, stage, shutter)
