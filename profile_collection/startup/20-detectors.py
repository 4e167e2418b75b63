"""What measures: the fast CCD."""

fccd = session.fccd(site)
