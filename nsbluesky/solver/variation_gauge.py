"""What of a probe that varies is variation: not its mean, flux or phase, nor what the object could have as well.

The modes of variation and their weights (`nsbluesky.solver.variation`) are brought to this form after each pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.state import SolverState

__all__ = ["powers", "settle", "trend", "used_slots"]

LARGEST_PART = 0.2
"""The modes together have no more of the light than this: a probe that varies more is no probe, and a state that has
not settled, with few photons, could ask for it."""


def trend(places_px: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what of values (n,) is of first and second order in their places (n, 2).

    What frames have of it in log(flux) could be the object's as well where the probe varies: O·exp(b·r) gives the
    same waves as O with a probe P·exp(−b·ρ) and a flux that falls as exp(−2b·r_j), and O·exp(½rᵀBr) with one whose
    light moves against it.
    """
    down, right = (places_px - places_px.mean(axis=0)).T / max(float(np.ptp(places_px)), 1.0)
    terms = np.stack([np.ones_like(down), down, right, down**2, down * right, right**2], axis=1)
    found = np.linalg.lstsq(terms, values, rcond=None)[0]
    return np.asarray(terms[:, 1:] @ found[1:])


def used_slots(frames: FrameStore) -> npt.NDArray[np.intp]:
    """Return the slots of the frames that count and were used."""
    active = frames.active
    return np.asarray(active[frames.uses[active] > 0])


def powers(backend: Backend, fields: Any) -> npt.NDArray[np.float64]:
    """Return Σ|·|² (V,) of fields (V, N, N)."""
    power = (backend.xp.abs(fields) ** 2).sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(backend.to_numpy(power))


def settle(backend: Backend, state: SolverState, frames: FrameStore) -> None:
    """Take out what is not variation, and turn the modes to principal components.

    A mean of the weights belongs to the probe.  What is along the probe is the flux of a frame, which is corrected
    elsewhere, or its phase, which no data tell.  And what is a curvature of the object is left to it.
    """
    xp = backend.xp
    slots, count = used_slots(frames), len(state.variation)
    if len(slots) <= count:
        return
    known = np.flatnonzero(frames.uses[: len(frames)] > 0)
    used = np.isin(known, slots)
    weights = frames.variation[known, :count].astype(np.float64)
    mean = weights[used].mean(axis=0)
    state.probe[0] += xp.tensordot(xp.asarray(mean, np.float32), state.variation, 1)
    centres_px = frames.places_px(known) + frames.frame_px // 2
    weights = _flatten(backend, state, centres_px, weights - mean, used)
    first = state.probe[0]
    along = xp.tensordot(state.variation, xp.conj(first), ((1, 2), (0, 1))) / (xp.abs(first) ** 2).sum()
    modes = state.variation - along[:, None, None] * first
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(weights[used].T, bias=True)))
    root = np.sqrt(np.maximum(values, 1e-6))
    flat = modes.reshape(len(modes), -1)
    gram = backend.to_numpy(flat.conj() @ flat.T).real.astype(np.float64)
    spread = vectors * root  # weights·modes = (weights·to_white)·(spreadᵀ·modes), the first with unit covariance
    to_white = vectors / root
    _, turned = np.linalg.eigh(spread.T @ gram @ spread)
    turned = turned[:, ::-1][:, :count]
    modes = xp.tensordot(xp.asarray((spread @ turned).T, np.complex64), modes, 1)
    part = float(powers(backend, modes).sum()) / max(float(powers(backend, state.probe).sum()), 1e-12)
    state.variation = modes * np.float32(min(1.0, np.sqrt(LARGEST_PART / max(part, 1e-12))))
    frames.variation[known, :count] = weights @ to_white @ turned


def _flatten(
    backend: Backend,
    state: SolverState,
    centres_px: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    used: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Choose the object's curvature so that the probe does not tilt more and more across it; return all weights.

    O·exp(½i·rᵀKr) gives the same waves as O, where the probe is P·exp(−½i·ρᵀKρ) and tilted against it by K·r_j in
    frame j (ρ: place in the window, r_j: place of the window).  No data tell K.  It is chosen so that weights have no
    such trend: two fields with weights of their own are added to the state's, which take it out of them.

    Parameters
    ----------
    backend : Backend
    state : SolverState
    centres_px : (n, 2) float64
        Rows and columns of the middle of windows.
    weights : (n, V) float64
        Their mean is 0.
    used : (n,) bool
        Frames that count.
    """
    xp = backend.xp
    middle = centres_px[used].mean(axis=0)
    apart = centres_px - middle
    slopes = np.linalg.lstsq(apart[used], weights[used], rcond=None)[0]
    trends = xp.tensordot(xp.asarray(slopes, np.float32), state.variation, 1)
    place = np.arange(state.probe.shape[-1], dtype=np.float64) - state.probe.shape[-1] // 2
    across = xp.asarray(place, np.float32)
    tilts = 1j * xp.stack([across[:, None] * state.probe[0], across[None, :] * state.probe[0]])
    products = xp.tensordot(tilts.conj(), xp.concatenate([tilts, trends]), ((1, 2), (1, 2))).real
    of_tilts, of_trends = np.hsplit(np.asarray(backend.to_numpy(products), np.float64), 2)
    bend = np.linalg.lstsq(of_tilts, of_trends, rcond=None)[0]
    bend = (bend + bend.T) / 2
    tilted = apart @ bend
    size = float(np.sqrt(np.mean(tilted[used] ** 2)))
    if size == 0:
        return weights
    rows, columns = (np.arange(count) + first for count, first in zip(state.shape, state.origin_px, strict=True))
    state.object *= _curved(backend, bend, rows - middle[0], columns - middle[1])
    near = _curved(backend, -bend, place, place)
    state.probe *= near
    state.variation = xp.concatenate([state.variation, np.float32(-size) * tilts]) * near
    return np.hstack([weights, tilted / size])


def _curved(
    backend: Backend, bend: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> Any:
    """Return exp(½i·rᵀKr) (H, W) at rows (H,) and columns (W,)."""
    xp = backend.xp
    down, right = xp.asarray(rows[:, None]), xp.asarray(columns[None, :])
    phase = bend[0, 0] * down**2 + 2 * bend[0, 1] * down * right + bend[1, 1] * right**2
    return xp.exp(0.5j * phase).astype(np.complex64)
