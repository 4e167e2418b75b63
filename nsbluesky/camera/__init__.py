"""The Fast CCD's packet stream: datagrams to raw frames and back, lost packets told frame by frame."""
