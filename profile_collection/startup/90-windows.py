"""The live window, where a screen is (else None)."""

window = session.live_window(
    pipeline,
    RE,
    ptycho_fly_scan=ptycho_fly_scan,
    ptycho_scan=ptycho_scan,
    ptycho_points=ptycho_points,
    ptycho_darks=ptycho_darks,
)
