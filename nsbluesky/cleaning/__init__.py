"""From raw FCCD frames to photons on a centred square: pure functions over frames."""
