"""Incoherent probe modes: orthogonal, in the order of their power, without flicker."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["orthogonal_modes", "probe_power"]


def orthogonal_modes(xp: Any, probe: Any) -> Any:
    """Return the same incoherent probe, or the same mixture of objects, in orthogonal modes, strongest first.

    The singular value decomposition of the modes, by the eigenvectors of their small Gram matrix (Thibault &
    Menzel, Nature 494, 68 (2013)).  Each mode's phase follows that of the mode it mostly came from.

    Parameters
    ----------
    xp : module
    probe : (modes, N, N) complex64

    Returns
    -------
    (modes, N, N) complex64
    """
    count = len(probe)
    if count == 1:
        return probe
    flat = probe.reshape(count, -1)
    gram = (flat.conj() @ flat.T).astype(np.complex128)
    _, vectors = xp.linalg.eigh(gram)
    vectors = vectors[:, ::-1]
    main = vectors[xp.abs(vectors).argmax(axis=0), xp.arange(count)]
    vectors = vectors * (xp.conj(main) / xp.abs(main))
    return (vectors.T.astype(np.complex64) @ flat).reshape(probe.shape)


def probe_power(xp: Any, probe: Any) -> float:
    """Return Σ_k Σ |P_k|², photons a frame."""
    return float((xp.abs(probe) ** 2).sum(dtype=np.float64))
