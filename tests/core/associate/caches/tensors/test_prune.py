"""Kept tensors are listed, planned and removed; on files as a store writes them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loba_tui.core.associate.caches.hub.requests import Prune
from loba_tui.core.associate.caches.tensors import layout as tensor_layout
from loba_tui.core.associate.caches.tensors import prune as tensor_prune
from loba_tui.core.associate.caches.tensors import scan as tensor_scan
from loba_tui.core.associate.caches.tensors.store import TensorStore
from loba_tui.core.errors import InUseError, RecipeError, RefusedError

NOW = 2e9
DAY = 86400.0


def store_in(root: Path, kind: str = "latents", model: str = "org/model") -> TensorStore:
    group = {"model": {"id": model}, "machine": {"device": "cpu"}}
    return TensorStore(root, kind, group, spare_bytes=0, on_problem=pytest.fail)


def fill(root: Path, entries: dict[int, float], kind: str = "latents", model: str = "org/model"):
    """Keep tensors of so many floats, each last used so many days ago; return their keys."""
    store = store_in(root, kind, model)
    keys = {}
    for size, days in entries.items():
        keys[size] = store.key({"n": size})
        store.put(keys[size], {"x": torch.zeros(size)}, describe={"image": f"{size}.png"})
        path = tensor_layout.entry_path(store.folder, keys[size])
        os.utime(path, (NOW - days * DAY,) * 2)
    store.close()
    os.utime(store.folder / tensor_layout.GROUP_FILE, (NOW, NOW))
    return keys


def files_in(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


def test_a_scan_tells_what_is_there(tmp_path):
    assert tensor_scan.scan(tmp_path / "nowhere") == []
    keys = fill(tmp_path, {10: 3, 20: 1})
    fill(tmp_path, {30: 5}, kind="embeds", model="builtin:shapes-xl")
    latents, embeds = tensor_scan.scan(tmp_path)
    assert (latents.kind, latents.model, len(latents.entries)) == ("latents", "org/model", 2)
    assert {entry.key for entry in latents.entries} == set(keys.values())
    assert latents.used == NOW
    assert not latents.is_in_use
    assert latents.size == sum(
        path.stat().st_size for path in tmp_path.glob("latents/*/*/*.safetensors")
    )
    assert embeds.id == f"embeds:builtin:shapes-xl@{embeds.name[:8]}"
    assert [each.kind for each in tensor_scan.scan(tmp_path, ["embeds"])] == ["embeds"]
    told = [tensor_scan.describe(tmp_path, latents, each) for each in latents.entries]
    assert {each["image"] for each in told} == {"10.png", "20.png"}


def test_what_is_foreign_or_broken_is_told_and_never_an_exception(tmp_path):
    fill(tmp_path, {10: 3})
    (folder,) = (tmp_path / "latents").iterdir()
    (folder / "ab").mkdir(exist_ok=True)
    (folder / "ab" / ".x.tmp").write_bytes(b"half")
    (folder / "ab" / "note.txt").write_bytes(b"foreign")
    (folder / tensor_layout.GROUP_FILE).write_text("[[[")
    (tmp_path / "latents" / "not-a-shelf").mkdir()
    (tmp_path / "latents" / ("f" * 32)).symlink_to(folder)
    (group,) = tensor_scan.scan(tmp_path)
    assert (group.model, len(group.entries)) == ("?", 1)
    assert {each.path for each in group.leftovers} == {"ab/.x.tmp", "ab/note.txt"}


def test_targets_name_kinds_models_and_hashes(tmp_path):
    fill(tmp_path, {10: 3}, model="org/one")
    fill(tmp_path, {10: 3}, model="org/two")
    fill(tmp_path, {10: 3}, kind="embeds", model="org/one")
    found = tensor_scan.scan(tmp_path)
    by_id = {group.id: group for group in found}

    def names(*targets):
        return {group.id for group in tensor_scan.find(found, targets)}

    assert names("latents", "embeds") == set(by_id)
    assert {each.rsplit("@")[0] for each in names("latents:org/one")} == {"latents:org/one"}
    for name, group in by_id.items():
        assert names(name) == names(f"{group.kind}:{group.name}") == {name}
        assert tensor_scan.is_target(name)
    assert not tensor_scan.is_target("org/latents")
    with pytest.raises(RecipeError, match="Nothing is kept as latents:org/on"):
        names("latents:org/on")


def test_a_group_in_use_is_not_planned_and_not_removed(tmp_path):
    fill(tmp_path, {10: 300})
    before = files_in(tmp_path)
    plan = tensor_prune.plan_removal(tensor_scan.scan(tmp_path))
    user = store_in(tmp_path)
    user.get("0" * 64)
    (group,) = tensor_scan.scan(tmp_path)
    assert group.is_in_use
    assert tensor_prune.plan_removal([group]).items == []
    assert tensor_prune.plan_prune([group], Prune(NOW, unused_seconds=0)).in_use == [group]
    with pytest.raises(InUseError, match="latents:org/model"):
        tensor_prune.execute(tmp_path, plan)  # it came into use after it was planned
    assert files_in(tmp_path) == before
    user.close()
    assert tensor_prune.execute(tmp_path, plan) > 0
    assert not list(tmp_path.glob("latents/*"))


def test_an_entry_that_was_used_since_stays(tmp_path):
    keys = fill(tmp_path, {10: 300, 20: 300, 30: 1})
    plan = tensor_prune.plan_prune(tensor_scan.scan(tmp_path), Prune(NOW, unused_seconds=100 * DAY))
    (folder,) = (tmp_path / "latents").iterdir()
    os.utime(tensor_layout.entry_path(folder, keys[10]), (NOW, NOW))
    tensor_prune.execute(tmp_path, plan)
    (group,) = tensor_scan.scan(tmp_path)
    assert {entry.key for entry in group.entries} == {keys[10], keys[30]}


def test_what_broken_writes_left_goes_once_it_is_old(tmp_path):
    fill(tmp_path, {10: 0})
    (folder,) = (tmp_path / "latents").iterdir()
    (folder / "ab").mkdir(exist_ok=True)
    for name, age in (("old", 7200), ("new", 60)):
        (folder / "ab" / f".{name}.tmp").write_bytes(b"half")
        os.utime(folder / "ab" / f".{name}.tmp", (NOW - age,) * 2)
    plan = tensor_prune.plan_prune(tensor_scan.scan(tmp_path), Prune(NOW))
    assert tensor_prune.execute(tmp_path, plan) == 4
    (group,) = tensor_scan.scan(tmp_path)
    assert [each.path for each in group.leftovers] == ["ab/.new.tmp"]
    assert len(group.entries) == 1


def test_nothing_outside_is_touched_through_links(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"1")
    root = tmp_path / "root"
    fill(root, {10: 300})
    (folder,) = (root / "latents").iterdir()
    (folder / "ab").mkdir(exist_ok=True)
    (folder / "ab" / ("ab" + "0" * 62 + ".safetensors")).symlink_to(outside / "precious")
    plan = tensor_prune.plan_removal(tensor_scan.scan(root))
    # Whoever swaps a folder for a link after the plan was made leads nowhere.
    moved = root / "moved"
    shutil.move(root / "latents", moved)
    (root / "latents").symlink_to(outside)
    with pytest.raises(RefusedError):
        tensor_prune.execute(root, plan)
    (root / "latents").unlink()
    shutil.move(moved, root / "latents")
    tensor_prune.execute(root, plan)
    assert not list(root.glob("latents/*"))
    assert (outside / "precious").read_bytes() == b"1"


def test_a_removal_that_was_killed_is_finished_by_a_later_one(tmp_path):
    fill(tmp_path, {10: 300})
    (folder,) = (tmp_path / "latents").iterdir()
    folder.rename(folder.with_name(".gone-0123456789abcdef"))
    assert tensor_scan.scan(tmp_path) == []
    assert tensor_prune.tidy(tmp_path) == 0  # it may be going on
    assert len(list(tmp_path.glob("latents/.gone-*"))) == 1


def test_verify_reads_every_bit(tmp_path):
    keys = fill(tmp_path, {10: 1, 20: 1})
    (group,) = tensor_scan.scan(tmp_path)
    assert [why for _, why in tensor_scan.verify(tmp_path, group)] == [None, None]
    (folder,) = (tmp_path / "latents").iterdir()
    path = tensor_layout.entry_path(folder, keys[10])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    problems = {entry.key: why for entry, why in tensor_scan.verify(tmp_path, group)}
    assert problems == {keys[10]: "its checksum does not fit", keys[20]: None}


@settings(max_examples=25, deadline=None)
@given(
    groups=st.lists(
        st.dictionaries(st.integers(1, 50), st.integers(0, 400), min_size=1, max_size=5),
        min_size=1,
        max_size=3,
    ),
    unused=st.none() | st.integers(0, 400),
    keep=st.none() | st.integers(0, 5000),
)
def test_a_prune_removes_what_it_plans_and_keeps_what_it_must(
    tmp_path_factory, groups, unused, keep
):
    root = tmp_path_factory.mktemp("kept")
    for number, entries in enumerate(groups):
        fill(root, dict(entries), model=f"org/{number}")
    before = {(s.id, e) for s in tensor_scan.scan(root) for e in s.entries}
    request = Prune(NOW, None if unused is None else unused * DAY, keep)
    plan = tensor_prune.plan_prune(tensor_scan.scan(root), request)
    freed = tensor_prune.execute(root, plan)
    after = {(s.id, e) for s in tensor_scan.scan(root) for e in s.entries}
    gone = before - after
    assert after <= before
    assert freed == plan.frees == sum(entry.size for _, entry in gone)
    by_age = {pair for pair in before if unused is not None and NOW - pair[1].used >= unused * DAY}
    assert by_age <= gone
    if keep is None:
        assert gone == by_age
        return
    assert sum(entry.size for _, entry in after) <= keep
    # By size no more goes than has to, and nothing that was used later than what stays.
    by_size = sorted(gone - by_age, key=lambda pair: pair[1].used)
    if by_size:
        last = by_size[-1]
        assert all(entry.used >= last[1].used for _, entry in after)
        assert sum(entry.size for _, entry in after) + max(e.size for _, e in by_size) > keep


def test_listing_and_removing_load_no_torch():
    code = (
        "import sys, loba_tui.client.cache.tensor_backend;"
        "sys.exit(bool({'torch', 'safetensors', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
