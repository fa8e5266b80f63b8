"""Random sequences of everything that changes a cache, against a model of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cache_model import FILES, REFS, REPOS, REVISIONS, Pair, Step
from hypothesis import given, settings
from hypothesis import strategies as st

REPO, REVISION = st.sampled_from(REPOS), st.sampled_from(REVISIONS)
NAMES = st.frozensets(st.sampled_from(FILES), min_size=1)
STEP = st.one_of(
    st.tuples(st.just("pull"), REPO, REVISION, NAMES, st.sampled_from([None, *REFS])),
    st.tuples(st.just("delete"), REPO, st.none() | REVISION),
    st.tuples(st.just("delete_file"), REPO, REVISION, st.sampled_from(FILES)),
    st.tuples(st.just("undo"), st.integers(0, 2)),
    st.tuples(st.just("empty"), st.integers(0, 2)),
    st.tuples(st.just("pin"), REPO, st.none() | REVISION, st.booleans()),
    st.tuples(st.just("foreign_delete"), REPO, REVISION),
    st.just(("prune",)),
)


# benchmarks/cache_sequences.py runs hundreds of long ones.
@settings(max_examples=25, deadline=None, print_blob=True)
@given(st.lists(STEP, min_size=8, max_size=30))
def test_a_cache_and_its_model_agree_after_every_step(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder))
        for repo in REPOS:
            pair.apply(("pull", repo, "one", frozenset(FILES), "main"))
        for step in steps:
            pair.apply(step)
