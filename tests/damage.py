"""What a disk may make of a file."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return the content with one byte changed, or cut off somewhere."""
    place = draw(st.integers(0, len(content) - 1))
    if draw(st.booleans()):
        changed = bytes([content[place] ^ draw(st.integers(1, 255))])
        return content[:place] + changed + content[place + 1 :]
    return content[:place]
