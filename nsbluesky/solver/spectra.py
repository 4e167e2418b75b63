"""The lowest frequencies of spectra in FFT order."""

from __future__ import annotations

from typing import Any

__all__ = ["centre_of", "copy_centre", "corners_of_spectrum"]


def corners_of_spectrum(side: int) -> list[tuple[slice, slice]]:
    """Return where the lowest `side` frequencies (even) lie in FFT order, whatever the spectrum's own side."""
    near, far = slice(0, side // 2), slice(-(side // 2), None)
    return [(rows, columns) for rows in (near, far) for columns in (near, far)]


def copy_centre(spectra: Any, out: Any) -> None:
    """Write the lowest frequencies of spectra (…, N, N) into `out` (…, M, M), M even or N."""
    if out.shape[-1] == spectra.shape[-1]:
        out[...] = spectra
        return
    for rows, columns in corners_of_spectrum(out.shape[-1]):
        out[..., rows, columns] = spectra[..., rows, columns]


def centre_of(xp: Any, spectra: Any) -> Any:
    """Return the low frequencies (…, N/2, N/2) of spectra (…, N, N)."""
    half = spectra.shape[-1] // 2
    out = xp.empty((*spectra.shape[:-2], half, half), spectra.dtype)
    copy_centre(spectra, out)
    return out
