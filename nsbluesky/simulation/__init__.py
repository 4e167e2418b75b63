"""A beamline to rehearse on: samples, FCCD raw frames, faults, and an EPICS IOC."""
