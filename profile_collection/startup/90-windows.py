"""The live window, where a screen is (else None)."""

window = session.live_window(pipeline)
