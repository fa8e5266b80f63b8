import errno
import fcntl
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from file_faults import FaultyFiles
from hypothesis import given, settings
from hypothesis import strategies as st

from loba_tui.core import files
from loba_tui.core.associate.caches.tensors import layout as tensor_layout
from loba_tui.core.associate.caches.tensors import store as tensor_store
from loba_tui.core.associate.caches.tensors.store import TensorStore

GROUP = {"model": {"id": "a"}, "machine": {"device": "cpu"}}
TENSORS = {
    "half": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "whole": torch.tensor([1, -2], dtype=torch.int64),
    "odd": torch.tensor([float("nan"), -0.0, float("inf")]),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 4),
}


def open_store(root: Path, **changes) -> tuple[TensorStore, list[str]]:
    problems: list[str] = []
    options = {"spare_bytes": 0, "on_problem": problems.append, **changes}
    return TensorStore(root, "latents", options.pop("group", GROUP), **options), problems


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple]:
    return {
        name: (t.dtype, tuple(t.shape), t.contiguous().view(-1).view(torch.uint8).tolist())
        for name, t in tensors.items()
    }


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def entry_of(store: TensorStore, key: str) -> Path:
    return tensor_layout.entry_path(store.folder, key)


def test_what_is_put_comes_back_bit_for_bit_in_another_process(tmp_path):
    store, problems = open_store(tmp_path)
    key = store.key({"image": "x"})
    assert store.get(key) is None
    store.put(key, TENSORS, describe={"image": "a.png"})
    other, _ = open_store(tmp_path)
    assert bits(other.get(key)) == bits(TENSORS)
    assert (other.hits, other.misses, problems) == (1, 0, [])


def test_views_and_transposed_tensors_are_kept_as_what_they_show(tmp_path):
    store, _ = open_store(tmp_path)
    base = torch.randn(4, 6)
    parts = {"left": base[:, :3], "right": base[:, 3:], "turned": base.T}
    store.put("0" * 64, parts, describe={})
    assert bits(store.get("0" * 64)) == bits(parts)


def test_what_comes_back_is_laid_out_as_what_torch_makes(tmp_path):
    store, _ = open_store(tmp_path)
    store.put("0" * 64, {"a": torch.zeros(3), "b": torch.randn(8, 5).T}, describe={})
    for tensor in store.get("0" * 64).values():
        assert tensor.data_ptr() % 64 == 0
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_another_model_machine_or_setting_is_another_entry(tmp_path):
    mine, _ = open_store(tmp_path)
    other, _ = open_store(tmp_path, group={**GROUP, "machine": {"device": "cuda"}})
    assert mine.folder != other.folder
    keys = {
        mine.key({"image": "x", "settings": {"size": 64}}),
        mine.key({"image": "x", "settings": {"size": 65}}),
        mine.key({"image": "y", "settings": {"size": 64}}),
        other.key({"image": "x", "settings": {"size": 64}}),
    }
    assert len(keys) == 4
    assert mine.key({"a": 1, "b": 2}) == mine.key({"b": 2, "a": 1})


def test_a_key_is_never_made_of_what_has_no_one_spelling(tmp_path):
    store, _ = open_store(tmp_path)
    with pytest.raises(TypeError):
        store.key({"image": object()})


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_damage_is_ever_returned(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("store")
    store, problems = open_store(root)
    key = store.key({"n": 1})
    store.put(key, TENSORS, describe={"image": "a.png"})
    path = entry_of(store, key)
    whole = path.read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "zero"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if kind == "flip":
        damaged = bytearray(whole)
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        damaged = whole[:at]
    elif kind == "grow":
        damaged = whole + b"\0"
    else:
        damaged = bytes(len(whole))
    path.write_bytes(damaged)
    found = store.get(key)
    # Only a flip inside the header's own whitespace or of the case of an escape can be harmless.
    assert found is None or bits(found) == bits(TENSORS)
    if found is None:
        assert store.damaged == 1
        assert "is damaged" in problems[0]
        assert not path.exists()
        store.put(key, TENSORS, describe={})
        assert bits(store.get(key)) == bits(TENSORS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
META = st.just("__metadata__") | st.just("loba.sha256") | st.just("loba.about")


@settings(max_examples=150, deadline=None)
@given(
    header=st.dictionaries(META, st.dictionaries(META, JSON) | JSON).map(json.dumps)
    | st.text()
    | st.integers(900, 3000).map(
        lambda depth: '{"__metadata__":' + "[" * depth + "]" * depth + "}"
    ),
    data=st.binary(max_size=20),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_hostile_files_are_damaged_and_nothing_else(header, data, length):
    raw = header.encode("utf-8", "surrogatepass")
    content = (len(raw) if length is None else length).to_bytes(8, "little") + raw + data
    for hostile in (content, raw, data):
        assert isinstance(tensor_layout.about(hostile), dict)
        with pytest.raises(ValueError, match=r"it|line|decode|nested"):
            tensor_layout.check(hostile, "0" * 64)


def test_an_entry_under_another_key_is_not_taken_for_it(tmp_path):
    store, problems = open_store(tmp_path)
    mine, other = store.key({"n": 1}), store.key({"n": 2})
    store.put(mine, TENSORS, describe={})
    entry_of(store, other).parent.mkdir(exist_ok=True)
    entry_of(store, mine).rename(entry_of(store, other))
    assert store.get(other) is None
    assert "another entry" in problems[0]


def test_a_link_or_pipe_in_the_place_of_an_entry_is_not_followed(tmp_path):
    store, problems = open_store(tmp_path / "store")
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 100)
    key, pipe = store.key({"n": 1}), store.key({"n": 2})
    store.put(key, TENSORS, describe={})
    entry_of(store, key).unlink()
    entry_of(store, key).symlink_to(secret)
    assert store.get(key) is None
    entry_of(store, pipe).parent.mkdir(exist_ok=True)
    os.mkfifo(entry_of(store, pipe))
    assert store.get(pipe) is None
    assert len(problems) == 2
    store.put(key, TENSORS, describe={})  # the link itself is replaced
    assert bits(store.get(key)) == bits(TENSORS)
    assert secret.read_bytes() == b"x" * 100


def test_files_are_the_users_own(tmp_path):
    store, _ = open_store(tmp_path / "deep" / "store")
    store.put("0" * 64, TENSORS, describe={})
    for path in (tmp_path / "deep").rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_nothing_is_reported_once_and_done_without(tmp_path, monkeypatch, number):
    store, problems = open_store(tmp_path)
    store.put("0" * 64, TENSORS, describe={})

    def refuse(*_args, **_options):
        raise OSError(number, os.strerror(number))

    for module in (tensor_store, files):
        monkeypatch.setattr(module, "write_new", refuse)
    for n in range(1, 4):
        store.put(f"{n}" * 64, TENSORS, describe={})
    assert len(problems) == 1
    assert os.strerror(number) in problems[0]
    assert bits(store.get("0" * 64)) == bits(TENSORS)
    assert not [path for path in files_of(tmp_path) if path.suffix == ".tmp"]


def test_the_last_of_the_disk_is_left_to_the_run(tmp_path):
    store, problems = open_store(tmp_path, spare_bytes=2**62)
    store.put("0" * 64, TENSORS, describe={})
    assert store.get("0" * 64) is None
    assert "would be left" in problems[0]


def test_a_folder_that_cannot_be_made_is_no_reason_to_fail(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store, problems = open_store(tmp_path / "file" / "store")
    store.put("0" * 64, TENSORS, describe={})
    assert store.get("0" * 64) is None
    assert len(problems) >= 1


def test_a_group_that_vanishes_is_made_again(tmp_path):
    store, _ = open_store(tmp_path)
    store.put("0" * 64, TENSORS, describe={})
    store.folder.rename(tmp_path / "gone")
    assert store.get("0" * 64) is None
    store.put("0" * 64, TENSORS, describe={})
    assert bits(store.get("0" * 64)) == bits(TENSORS)


def test_reading_notes_the_last_use(tmp_path):
    store, _ = open_store(tmp_path)
    store.put("0" * 64, TENSORS, describe={})
    path = entry_of(store, "0" * 64)
    os.utime(path, (1e9, 1e9))
    store.get("0" * 64)
    assert path.stat().st_mtime > 1.5e9


def test_users_share_a_group_and_whoever_removes_it_has_to_wait(tmp_path):
    store, _ = open_store(tmp_path)
    other, _ = open_store(tmp_path)
    store.put("0" * 64, TENSORS, describe={})
    other.get("0" * 64)
    (lock,) = (tmp_path / tensor_layout.LOCKS).iterdir()
    with lock.open() as file:
        for user in (store, other):
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            user.close()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_being_removed_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_store, "_LOCK_SECONDS", 0.0)
    first, _ = open_store(tmp_path)
    first.put("0" * 64, TENSORS, describe={})
    first.close()
    (lock,) = (tmp_path / tensor_layout.LOCKS).iterdir()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store, problems = open_store(tmp_path)
        assert store.get("0" * 64) is None
        store.put("1" * 64, TENSORS, describe={})
    assert len(problems) == 1
    assert "being removed" in problems[0]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_a_store_can_go_to_a_worker_process(tmp_path):
    store = TensorStore(tmp_path, "latents", GROUP, spare_bytes=0)
    store.put("0" * 64, TENSORS, describe={})
    worker = pickle.loads(pickle.dumps(store))
    assert bits(worker.get("0" * 64)) == bits(TENSORS)


RACER = """
import sys, torch
from pathlib import Path
from loba_tui.core.associate.caches.tensors.store import TensorStore
problems = []
store = TensorStore(Path(sys.argv[1]), "latents", {"model": 1}, on_problem=problems.append,
                    spare_bytes=0)
for turn in range(40):
    for n in range(5):
        key, value = store.key({"n": n}), torch.full((500,), float(n))
        found = store.get(key)
        assert found is None or torch.equal(found["x"], value), (n, found)
        store.put(key, {"x": value}, describe={"n": n})
assert not problems, problems
"""


@pytest.mark.slow
def test_several_runs_write_and_read_the_same_entries_at_once(tmp_path):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for racer in racers:
        _, said = racer.communicate(timeout=300)
        assert racer.returncode == 0, said
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_description_is_read_from_the_beginning_of_a_file(tmp_path):
    store, _ = open_store(tmp_path)
    store.put("0" * 64, TENSORS, describe={"image": "ä.png", "settings": {"size": 64}})
    content = entry_of(store, "0" * 64).read_bytes()
    assert tensor_layout.about(content) == {"image": "ä.png", "settings": {"size": 64}}
    assert tensor_layout.about(b"\0" * 100) == {}


def keep_one(root: Path) -> tuple[TensorStore, list[str]]:
    store, problems = open_store(root)
    store.put("0" * 64, TENSORS, describe={"image": "a.png"})
    return store, problems


def num_operations(root: Path) -> int:
    with FaultyFiles(root).installed() as files:
        keep_one(root)
    assert files.count > 5
    return files.count


def test_only_a_store_that_is_told_to_waits_for_the_disk(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(os, "fsync", waited.append)
    for sync in (False, True):
        store, _ = open_store(tmp_path / str(sync), sync=sync)
        store.put("0" * 64, TENSORS, describe={})
        assert bool(waited) == sync


def assert_next_run_keeps_it(root):
    """The next run finds the entry whole or not at all, and keeps it."""
    store, problems = open_store(root)
    found = store.get("0" * 64)
    assert found is None or bits(found) == bits(TENSORS)
    store.put("0" * 64, TENSORS, describe={})
    assert bits(store.get("0" * 64)) == bits(TENSORS)
    assert problems == []


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "ENOSPC for good"])
def test_whichever_file_operation_fails_the_run_goes_on(tmp_path, fault):
    for at in range(1, num_operations(tmp_path / "count") + 1):
        root = tmp_path / str(at)
        with FaultyFiles(root, at, fault).installed():
            store, problems = keep_one(root)
            found = store.get("0" * 64)
        assert found is None or bits(found) == bits(TENSORS)
        assert problems or found is not None
        assert_next_run_keeps_it(root)


def test_whenever_a_run_is_killed_the_next_finds_an_entry_whole_or_not_at_all(tmp_path):
    for at in range(1, num_operations(tmp_path / "count") + 1):
        root = tmp_path / str(at)
        child = os.fork()
        if child == 0:
            with FaultyFiles(root, at, "SIGKILL").installed():
                keep_one(root)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), at
        assert_next_run_keeps_it(root)


REMOVER = """
import sys
from pathlib import Path
from loba_tui.core.associate.caches.tensors import prune, scan
from loba_tui.core.errors import InUseError
root, removed, refused = Path(sys.argv[1]), 0, 0
while not (root / "done").exists():
    plan = prune.plan_removal(scan.scan(root))
    try:
        removed += prune.execute(root, plan) > 0
    except InUseError:
        refused += 1
print(removed)
"""


@pytest.mark.slow
def test_a_remover_beside_runs_that_keep_breaks_nothing(tmp_path):
    remover = subprocess.Popen(
        [sys.executable, "-c", REMOVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for turn in range(300):
            store, problems = open_store(tmp_path)
            for n in range(3):
                key, value = store.key({"n": n}), torch.full((50,), float(n))
                found = store.get(key)
                assert found is None or torch.equal(found["x"], value)
                store.put(key, {"x": value}, describe={})
                # It is held now, so that nobody removes it.
                assert torch.equal(store.get(key)["x"], value), turn
            store.close()
            assert problems == []
    finally:
        (tmp_path / "done").touch()
        said, wrong = remover.communicate(timeout=120)
    assert remover.returncode == 0, wrong
    assert int(said) > 0
