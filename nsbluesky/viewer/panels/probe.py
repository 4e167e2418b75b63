"""The probe's modes."""

from __future__ import annotations

import math
from typing import Any

from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.callbacks.news import number_text, numbered
from nsbluesky.viewer.display import mode_powers, probe_mosaic, to_host
from nsbluesky.viewer.panels.base import LiveImagePanel
from nsbluesky.viewer.qt import pg

__all__ = ["ProbePanel"]

MAX_MODES = 4


class ProbePanel(LiveImagePanel):
    """The probe's modes side by side, each with its share of the power."""

    place = "right top"

    def __init__(self) -> None:
        super().__init__("Probe", "µm", "µm", scale_bar=True)
        back = pg.mkBrush(0, 0, 0, 150)
        self.labels = [pg.TextItem(anchor=(0.5, 0.0), color="w", fill=back) for _ in range(MAX_MODES)]
        for label in self.labels:
            self.plot.addItem(label, ignoreBounds=True)
            label.setZValue(1)
            label.hide()
        self.graphics.setToolTip(
            f"amplitude of the first {MAX_MODES} modes, each scaled to its own maximum, with its share of the power"
        )

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The reconstruction."""
        return (state.reconstruction,)

    def clear(self) -> None:
        """Show no modes."""
        super().clear()
        for label in self.labels:
            label.hide()

    def draw(self, state: LiveState) -> None:
        """Draw the amplitudes and write the powers."""
        picture = state.reconstruction
        assert picture is not None
        probe = to_host(picture.probe)
        powers = mode_powers(probe)[:MAX_MODES]
        mosaic = probe_mosaic(probe[:MAX_MODES])
        side_um = probe.shape[-1] * picture.pixel_size_m * 1e6
        columns = round(mosaic.shape[1] / probe.shape[-1])
        rows = math.ceil(len(powers) / columns)
        extent = (0.0, side_um * columns, 0.0, side_um * rows)
        self.set_image(mosaic, extent, (0.0, 1.0), colors="inferno", label="amplitude / maximum")
        for mode, label in enumerate(self.labels):
            label.setVisible(mode < len(powers))
            if mode < len(powers):
                row, column = divmod(mode, columns)
                label.setText(f"{number_text(100 * powers[mode], '.1f')} %")
                label.setPos((column + 0.5) * side_um, (row + 1) * side_um)
        self.set_subtitle(numbered(len(probe), "mode"))
