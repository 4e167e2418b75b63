"""The forward model and the step back to the measured amplitudes, for a few frames at a time.

Light's order: probe × object window → field on the detector → amplitude → difference to the measured one → back.
Everything is complex64 and works in place, so that a handful of frames stays in a processor's cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver.light import light_sums
from nsbluesky.solver.propagation import Propagator

__all__ = ["amplitude_correction", "exit_waves", "likelihood_change", "line_terms", "misfit"]

EPSILON = np.float32(1e-6)

POISSON_FLOOR = np.float32(0.1)
"""Photons added to counted and calculated ones in the Poisson likelihood, whose gradient has no bound without it:
where the model is dark and one photon came, it would ask for any step."""


def exit_waves(backend: Backend, probe: Any, windows: Any, out: Any) -> Any:
    """Write P_k·O_j for windows (n, N, N) and a probe (modes, N, N) into `out` (n, modes, N, N)."""
    return backend.xp.multiply(windows[:, None], probe[None], out=out)


def amplitude_correction(
    backend: Backend,
    propagator: Propagator,
    waves: Any,
    amplitude: Any,
    good: Any,
    background: float,
    model: Any,
    *,
    has_gaps: bool,
    power_bound: float = 0.0,
) -> tuple[Any, Any]:
    """Return what must be added to exit waves so that their field on the detector has the measured amplitude.

    With Ψ = Fψ and G = √(Σ_k |Ψ_k|² + b), the result is χ = F⁻¹[m·(A/G − 1)·Ψ] for the mask m: the modulus
    projection minus the wave itself, for incoherent modes (Thibault & Menzel, Nature 494, 68 (2013)).  F is the
    propagator.

    Parameters
    ----------
    backend : Backend
    propagator : Propagator
    waves : (n, modes, N, N) complex64
        Exit waves; overwritten.
    amplitude : (n, N, N) float32
        Measured √photons, FFT order; overwritten.
    good : (N, N) float32
        1 for a usable pixel, 0 for others, FFT order.
    background : float
        Photons a pixel.
    model : (n, N, N) float32
        Work space; overwritten.
    has_gaps : bool
        Whether any frame has pixels of amplitude `NOT_MEASURED`.
    power_bound : float
        Mean of (G − A)² a pixel that is accepted as noise; 0.25 is photon noise (Giewekemeyer et al., PNAS 107, 529
        (2010)).

    Returns
    -------
    correction : (n, modes, N, N) complex64
    residual : (n,) float32
        Σ m·|G − A| of each frame.
    """
    xp = backend.xp
    field = propagator.forward(waves)
    _amplitude(xp, field, background, model)
    usable = good * (amplitude >= 0) if has_gaps else good
    difference = xp.subtract(amplitude, model, out=amplitude)
    difference *= usable
    residual = xp.abs(difference).sum(axis=(1, 2))
    model += EPSILON
    factor = xp.divide(difference, model, out=model)
    if power_bound:
        factor *= _relax(xp, difference, usable, power_bound)[:, None, None]
    field *= factor[:, None]
    return propagator.back(field), residual


def likelihood_change(
    xp: Any, field: Any, amplitude: Any, good: Any, background: float, *, poisson: bool, floor: Any = POISSON_FLOOR
) -> tuple[Any, Any]:
    """Return the factor on far fields that makes minus half the gradient of a likelihood.

    With I = Σ_k |Ψ_k|² + b and G = √I: m·(A/G − 1) for Σ m·(G − A)², or m·(A² − I)/(2·(I + ε)) for
    Σ m·(I − (A² + ε)·ln(I + ε))/2, whose curvature is the same near A = G where there are many photons.

    Parameters
    ----------
    xp : module
    field : (n, modes, N, N) complex
    amplitude : (n, N, N) float
        Measured √photons; `nsbluesky.solver.light.NOT_MEASURED` where there is none.
    good : (N, N) float
    background : float
    poisson : bool
    floor : float
        ε.

    Returns
    -------
    factor : (n, N, N) float
    sums : (n, SUMS) float
        See `nsbluesky.solver.light`.
    """
    intensity = (field.real**2 + field.imag**2).sum(axis=1) + amplitude.dtype.type(background)
    usable = good * (amplitude >= 0)
    sums = light_sums(xp, amplitude, intensity, background, usable)
    if poisson:
        return usable * (amplitude**2 - intensity) / (2 * (intensity + floor)), sums
    model = xp.sqrt(intensity)
    return usable * (amplitude - model) / (model + EPSILON), sums


def line_terms(
    xp: Any, field: Any, turn: Any, amplitude: Any, good: Any, background: float, weights: Any
) -> npt.NDArray[np.float64]:
    """Return −L′/2 and L″/2 of L(t) = Σ_j w_j Σ m·(G(t) − A)² at t = 0, where far fields are Ψ + t·Δ.

    With p = Re Σ_k conj(Ψ_k)·Δ_k/G they are Σ w·m·(A − G)·p and Σ w·m·(p² + (Σ_k |Δ_k|² − p²)·(1 − A/G)); of the
    last factor only what is not negative counts, so that the second is a curvature to divide by.

    Parameters
    ----------
    xp : module
    field, turn : (n, modes, N, N) complex
        Ψ and Δ.
    amplitude : (n, N, N) float
    good : (N, N) float
    background : float
    weights : (n,) float
    """
    real = amplitude.dtype.type
    model = xp.sqrt((field.real**2 + field.imag**2).sum(axis=1) + real(background)) + real(EPSILON)
    used = good * (amplitude >= 0) * xp.asarray(weights)[:, None, None]
    along = (field.real * turn.real + field.imag * turn.imag).sum(axis=1) / model
    across = xp.maximum((turn.real**2 + turn.imag**2).sum(axis=1) - along**2, 0)
    slope = (used * (amplitude - model) * along).sum(dtype=np.float64)
    curvature = (used * (along**2 + across * xp.maximum(1 - amplitude / model, 0))).sum(dtype=np.float64)
    return np.array([float(slope), float(curvature)])


def misfit(
    backend: Backend,
    propagator: Propagator,
    waves: Any,
    amplitude: Any,
    good: Any,
    background: float,
    model: Any,
    *,
    has_gaps: bool,
) -> Any:
    """Return Σ m·|G − A| of each frame (n,); parameters as `amplitude_correction`, amplitudes are kept."""
    xp = backend.xp
    _amplitude(xp, propagator.forward(waves), background, model)
    model -= amplitude
    xp.abs(model, out=model)
    model *= good * (amplitude >= 0) if has_gaps else good
    return model.sum(axis=(1, 2))


def _amplitude(xp: Any, field: Any, background: float, out: Any) -> None:
    """Write G = √(Σ_k |Ψ_k|² + b) for far fields (n, modes, N, N) into `out` (n, N, N)."""
    if field.shape[1] == 1 and background == 0:
        xp.abs(field[:, 0], out=out)
        return
    power = xp.abs(field)
    xp.multiply(power, power, out=power)
    xp.sum(power, axis=1, out=out)
    if background:
        out += np.float32(background)
    xp.sqrt(out, out=out)


def _relax(xp: Any, difference: Any, usable: Any, power_bound: float) -> Any:
    """Return (n,) how far to go towards the measured amplitudes so that the misfit ends at `power_bound`."""
    misfit = (difference**2).sum(axis=(1, 2)) / xp.maximum(usable.sum(axis=(-2, -1)), 1)
    return xp.maximum(0, 1 - xp.sqrt(np.float32(power_bound) / xp.maximum(misfit, EPSILON)))
