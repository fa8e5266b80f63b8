"""Any JSON that a stranger could write, as a hypothesis strategy."""

from __future__ import annotations

from hypothesis import strategies as st

ODD = [
    "F32",
    "U8",
    "\ud800",
    "a\nb\x1b[2J\x9b31m\u202e",
    "NaN",
    10**400,
    -1,
    2**63,
    1e308,
    float("nan"),
    float("inf"),
]
KEYS = ["__metadata__", "dtype", "shape", "data_offsets", "step", "key", "message"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(ODD),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(st.text() | st.sampled_from(KEYS), inside, max_size=4)
    ),
    max_leaves=12,
)
