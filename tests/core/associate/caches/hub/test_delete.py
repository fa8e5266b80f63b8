"""Deleting, undoing, pinning and pruning: what may go, what must not, and kills in between."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_layouts import add_revision, commit_of, folder_name, listing, sha256

from loba_tui.core.associate.caches.hub import paths as hub_files
from loba_tui.core.associate.caches.hub.cache import HubCache, hold_repository, state_folder
from loba_tui.core.associate.caches.hub.requests import Plan, Prune, Removal, Target
from loba_tui.core.associate.caches.hub.targets import find_targets
from loba_tui.core.associate.caches.hub.usage import RecipeUse, RunUse, Usage
from loba_tui.core.errors import InUseError, RecipeError, RefusedError, ResourceError

ONE, TWO = commit_of("one"), commit_of("two")
MODEL = folder_name("org/model")
DAY = 86400.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    shared = {"config.json": b"{}", "vae/w.safetensors": b"shared" * 100}
    add_revision(root, "org/model", ONE, {**shared, "unet/w.safetensors": b"1" * 700}, age=9 * DAY)
    add_revision(
        root,
        "org/model",
        TWO,
        {**shared, "unet/w.safetensors": b"2" * 500},
        ref="main",
        age=5 * DAY,
    )
    add_revision(root, "org/other", commit_of("x"), {"w.safetensors": b"o" * 50}, ref="main")
    return root


def removal(cache: HubCache, *names: str) -> Plan:
    return cache.plan(Removal(tuple(find_targets(cache.scan(), names))))


def run_on(folder: str, state: str, commit: str | None = None) -> RunUse:
    return RunUse("slider-1", Path("slider-1"), folder, None, commit, time.time(), state)  # type: ignore[arg-type]


def test_a_plan_touches_nothing_and_says_what_goes(root):
    before = listing(root)
    plan = removal(HubCache(root), f"org/model@{ONE[:8]}")
    assert plan.frees == 700
    assert {item.path for item in plan.items} == {
        f"{MODEL}/snapshots/{ONE}",
        f"{MODEL}/blobs/{sha256(b'1' * 700)}",
    }
    assert listing(root) == before
    assert not state_folder(root).exists()


def test_undo_restores_every_byte_link_and_ref(root):
    cache, before = HubCache(root), listing(root)
    for wanted in (f"org/model@{ONE[:8]}", "org/model@main", "org/model", TWO[:10]):
        plan = removal(cache, wanted)
        entry = cache.execute(plan)
        assert entry is not None
        assert listing(root) != before
        assert cache.undo().entry == entry
        after = listing(root)
        assert {k: v for k, v in after.items() if not k.startswith(".locks")} == before


def test_the_trash_lies_beside_the_cache_and_never_inside(root):
    cache = HubCache(root)
    cache.execute(removal(cache, "org/model"))
    assert not any("trash" in path for path in listing(root))
    assert (state_folder(root) / "trash").is_dir()
    assert state_folder(root).parent == root.parent


def test_all_revisions_of_a_repository_are_the_repository(root):
    plan = removal(HubCache(root), f"org/model@{ONE}", f"org/model@{TWO}")
    assert plan.targets == (Target(MODEL),)
    assert plan.frees == 700 + 500 + 600 + 2


def test_a_plan_tells_recipes_and_runs_that_it_breaks(root):
    recipe = RecipeUse(Path("slider.yaml"), MODEL, None)
    resumable, finished = run_on(MODEL, "resumable", TWO), run_on(MODEL, "finished", TWO)
    cache = HubCache(root, Usage((resumable, finished), (recipe,)))
    whole = removal(cache, "org/model")
    assert whole.breaks_recipes == (recipe,)
    assert whole.breaks_runs == (resumable,)
    # A recipe without a revision means main, which stands on the other one.
    old = removal(cache, f"org/model@{ONE}")
    assert old.breaks_recipes == old.breaks_runs == ()


def test_what_a_live_run_uses_is_refused(root):
    cache = HubCache(root, Usage((run_on(MODEL, "live", TWO),)))
    with pytest.raises(InUseError, match="slider-1"):
        cache.execute(removal(cache, "org/model"))
    assert cache.execute(removal(cache, f"org/model@{ONE}")) is not None


def test_pins_hold_against_deletion_and_prune_until_taken_away(root):
    cache = HubCache(root)
    cache.pin([Target(MODEL, ONE)])
    for wanted in ("org/model", f"org/model@{ONE}"):
        with pytest.raises(RefusedError, match="pinned"):
            cache.execute(removal(cache, wanted))
    plan = cache.plan(Prune(now=time.time(), unused_seconds=DAY))
    assert plan.targets == (Target(MODEL, TWO),)
    cache.pin([Target(MODEL, ONE)], keep=False)
    assert cache.execute(removal(cache, "org/model")) is not None


def test_damaged_pins_stop_every_deletion(root):
    cache = HubCache(root)
    cache.pin([Target(MODEL)])
    (state_folder(root) / "pins.json").write_text("{")
    with pytest.raises(Exception, match="not known what is pinned"):
        removal(cache, "org/other")


def test_what_a_pull_holds_is_in_use(root):
    cache = HubCache(root)
    plan = removal(cache, "org/model")
    with hold_repository(root, MODEL), pytest.raises(InUseError):
        cache.execute(plan)
    assert cache.trash() == []
    assert cache.execute(plan) is not None


def test_what_the_client_fetches_is_refused(root):
    lock = root / ".locks" / MODEL / f"{sha256(b'1' * 700)}.lock"
    lock.parent.mkdir(parents=True)
    cache = HubCache(root)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InUseError, match="fetched"):
            cache.execute(removal(cache, "org/model"))
    assert cache.execute(removal(cache, "org/model")) is not None


def test_a_plan_that_is_out_of_date_is_refused(root):
    cache = HubCache(root)
    plan = removal(cache, f"org/model@{ONE}")
    # Somebody fetches a third revision that needs what the plan would remove.
    add_revision(root, "org/model", commit_of("three"), {"unet/w.safetensors": b"1" * 700})
    with pytest.raises(InUseError, match="changed"):
        cache.execute(plan)
    entry = cache.execute(removal(cache, f"org/model@{ONE}"))
    assert entry is not None
    third = root / MODEL / "snapshots" / commit_of("three") / "unet/w.safetensors"
    assert third.read_bytes() == b"1" * 700


def test_a_link_out_of_the_cache_is_unlinked_and_never_followed(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    snapshot = root / MODEL / "snapshots" / ONE
    (snapshot / "link.bin").symlink_to(outside / "precious")
    (snapshot / "folder").symlink_to(outside)
    (root / MODEL / "blobs" / "evil").symlink_to(outside / "precious")
    cache = HubCache(root)
    for wanted in (f"org/model@{ONE}", "org/model"):
        entry = cache.execute(removal(cache, wanted))
        assert entry is not None
        cache.empty_trash([entry])
        assert listing(outside) == {"precious": sha256(b"precious")}


@pytest.mark.parametrize("part", ["", "snapshots", "blobs"])
def test_a_folder_swapped_for_a_link_after_planning_is_refused(root, tmp_path, part, monkeypatch):
    """The plan is made of a sound cache; only then does somebody swap a folder on its way."""
    cache = HubCache(root)
    plan = removal(cache, f"org/model@{ONE}")
    outside = tmp_path / "outside"
    victim = root / MODEL / part if part else root / MODEL
    swapped = False
    true_parent = hub_files.parent_of

    def swap_first(descriptor, path, *, make=False):
        nonlocal swapped
        if path.startswith(f"{MODEL}/") and not swapped:
            swapped = True
            victim.rename(outside)
            victim.symlink_to(outside)
        return true_parent(descriptor, path, make=make)

    monkeypatch.setattr("loba_tui.core.associate.caches.hub.trash.parent_of", swap_first)
    with pytest.raises((RefusedError, InUseError)):
        cache.execute(plan)
    assert swapped
    victim.unlink()
    outside.rename(victim)
    assert (root / MODEL / "snapshots" / ONE / "unet/w.safetensors").read_bytes() == b"1" * 700


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a//b", "", ".", "a/\0b"])
def test_a_path_that_could_lead_out_is_refused(root, path):
    with pytest.raises(RefusedError):
        hub_files.check_path(path)


def test_a_journal_that_names_a_path_outside_is_not_obeyed(root, tmp_path):
    cache = HubCache(root)
    entry = cache.execute(removal(cache, "org/other"))
    assert entry is not None
    journal = state_folder(root) / "trash" / entry.id / "journal.json"
    data = json.loads(journal.read_text())
    data["items"][0]["path"] = "../../escaped"
    journal.write_text(json.dumps(data))
    with pytest.raises(RefusedError):
        cache.undo()
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path.parent / "escaped").exists()


def test_undo_overwrites_nothing_that_is_there_again(root):
    cache = HubCache(root)
    cache.execute(removal(cache, "org/model"))
    add_revision(root, "org/model", commit_of("new"), {"config.json": b"new"}, ref="main")
    restored = cache.undo()
    assert restored.kept == (f"{MODEL}/refs/main",)
    model = cache.scan().repository(MODEL)
    assert model is not None
    assert model.refs == {"main": commit_of("new")}
    assert len(model.revisions) == 3
    assert not [problem for problem in model.problems if "broken" in problem.what]


def test_undo_by_id_and_what_is_not_there(root):
    cache = HubCache(root)
    with pytest.raises(RecipeError, match="empty"):
        cache.undo()
    first = cache.execute(removal(cache, "org/model"))
    cache.execute(removal(cache, "org/other"))
    assert first is not None
    with pytest.raises(RecipeError):
        cache.undo("20")
    with pytest.raises(RecipeError):
        cache.undo("nope")
    assert cache.undo(first.id).entry == first
    assert [entry.what for entry in cache.trash()] == [("org/other",)]


def test_emptying_frees_what_it_says_and_cannot_be_undone(root):
    cache = HubCache(root)
    entry = cache.execute(removal(cache, f"org/model@{ONE}"))
    assert entry is not None
    # The contents that the other revision needs are held by links and free nothing.
    assert cache.trash_size([entry]) == cache.empty_trash([entry]) == 700
    assert cache.trash() == []


def test_prune_by_age_counts_the_last_use_or_fetch(root):
    now = time.time()
    rules = Prune(now=now, unused_seconds=7 * DAY)
    assert HubCache(root).plan(rules).targets == (Target(MODEL, ONE),)
    used = HubCache(root, Usage((run_on(MODEL, "finished", ONE),)))
    assert used.plan(rules).targets == ()


def test_prune_to_a_size_takes_the_least_recently_used(root):
    cache = HubCache(root)
    size = cache.scan().size
    plan = cache.plan(Prune(now=time.time(), keep_bytes=size - 1, grace_seconds=0))
    assert plan.targets == (Target(MODEL),)
    assert cache.plan(Prune(now=time.time(), keep_bytes=size)).targets == ()
    everything = cache.plan(Prune(now=time.time() + 1, keep_bytes=0, grace_seconds=0))
    assert len(everything.targets) == 2


def test_prune_of_detached_keeps_what_a_run_or_recipe_needs(root):
    rules = Prune(now=time.time(), detached=True)
    assert HubCache(root).plan(rules).targets == (Target(MODEL, ONE),)
    for usage in (
        Usage((run_on(MODEL, "finished", ONE),)),
        Usage((), (RecipeUse(Path("r.yaml"), MODEL, ONE),)),
    ):
        assert HubCache(root, usage).plan(rules).targets == ()


def test_prune_takes_old_leftovers_and_passes_young_ones(root):
    blobs = root / MODEL / "blobs"
    for name in ("young.1.incomplete", "old.1.incomplete", "f" * 64):
        (blobs / name).write_bytes(b"left")
        if not name.startswith("young"):
            os.utime(blobs / name, (0, 0))
    cache = HubCache(root)
    rules = Prune(now=time.time(), incomplete=True, unreferenced=True)
    plan = cache.plan(rules)
    assert (plan.leftovers, plan.frees) == (2, 8)
    assert cache.execute(plan) is not None
    assert sorted(p.name for p in blobs.iterdir() if len(p.name) < 30) == ["young.1.incomplete"]
    cache.undo()
    assert (blobs / "old.1.incomplete").read_bytes() == b"left"


def test_prune_never_takes_what_was_just_fetched(root):
    add_revision(root, "org/fresh", commit_of("fresh"), {"w.safetensors": b"f"})
    plan = HubCache(root).plan(Prune(now=time.time(), detached=True))
    assert Target(folder_name("org/fresh")) not in plan.targets
    assert any(refusal.reason == "too new" for refusal in plan.refusals)


def test_a_shared_payload_goes_with_its_last_user_only(root):
    for repo in ("org/x", "org/y"):
        add_revision(root, repo, commit_of(repo), {"s.safetensors": b"s" * 900}, shared=True)
    cache = HubCache(root)
    first = removal(cache, "org/x")
    assert first.frees == 0
    cache.execute(first)
    snapshot = root / folder_name("org/y") / "snapshots" / commit_of("org/y")
    assert (snapshot / "s.safetensors").read_bytes() == b"s" * 900
    second = removal(cache, "org/y")
    assert second.frees == 900
    cache.execute(second)
    assert not cache.scan().payloads


def test_a_payload_that_is_linked_meanwhile_stays(root):
    """Another repository links to the payload after the plan, before it is moved."""
    add_revision(root, "org/x", commit_of("x1"), {"s.safetensors": b"s" * 900}, shared=True)
    cache = HubCache(root)
    plan = removal(cache, "org/x")
    add_revision(root, "org/y", commit_of("y1"), {"s.safetensors": b"s" * 900}, shared=True)
    with pytest.raises(InUseError):
        cache.execute(plan)
    assert not [each for each in cache.scan().repositories if each.problems]


KILLED = """
import os, sys
from pathlib import Path
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.requests import Removal
from loba_tui.core.associate.caches.hub.targets import find_targets
cache = HubCache(Path(sys.argv[1]))
left = int(sys.argv[3])
true_rename, true_replace = os.rename, os.replace
def count(function):
    def counted(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return function(*args, **kwargs)
    return counted
os.rename, os.replace, os.link = count(os.rename), count(os.replace), count(os.link)
if sys.argv[2] == "undo":
    cache.undo()
elif sys.argv[2] == "empty":
    cache.empty_trash(cache.trash())
else:
    targets = find_targets(cache.scan(), [sys.argv[2]])
    cache.execute(cache.plan(Removal(tuple(targets))))
"""


def killed_at(root: Path, what: str, step: int) -> bool:
    """Do something in a process that is killed at its n-th rename; say whether it was."""
    child = subprocess.run([sys.executable, "-c", KILLED, str(root), what, str(step)], check=False)
    assert child.returncode in (0, -signal.SIGKILL)
    return child.returncode != 0


def without_locks(root: Path) -> dict[str, str]:
    return {path: what for path, what in listing(root).items() if not path.startswith(".locks")}


@pytest.mark.parametrize("what", [f"org/model@{TWO}", "org/model"])
def test_a_kill_at_any_step_of_a_deletion_loses_nothing(root, what):
    before = without_locks(root)
    step = 0
    while killed_at(root, what, step):
        cache = HubCache(root)
        with pytest.raises(RecipeError) if not cache.trash() else _nothing():
            cache.undo()
        assert without_locks(root) == before
        step += 1
    assert step > 2
    HubCache(root).undo()
    assert without_locks(root) == before


def test_a_kill_at_any_step_of_an_undo_is_continued(root):
    before = without_locks(root)
    step = 0
    while True:
        cache = HubCache(root)
        cache.execute(removal(cache, f"org/model@{TWO}"))
        if not killed_at(root, "undo", step):
            break
        if cache.trash():
            cache.undo()
        assert without_locks(root) == before
        step += 1
    assert step > 4
    assert without_locks(root) == before


def test_the_next_deletion_recovers_an_interrupted_one(root):
    before = without_locks(root)
    assert killed_at(root, "org/model", 2)
    cache = HubCache(root)
    entry = cache.execute(removal(cache, "org/other"))
    assert entry is not None
    cache.undo()
    assert without_locks(root) == before


def test_a_kill_while_emptying_leaves_no_half_of_an_entry(root):
    cache = HubCache(root)
    cache.execute(removal(cache, "org/model"))
    assert killed_at(root, "empty", 0)
    assert len(cache.trash()) == 1
    cache.empty_trash(cache.trash())
    assert cache.trash() == []


def test_a_failure_in_between_puts_everything_back(root, monkeypatch):
    before = without_locks(root)
    cache = HubCache(root)
    plan = removal(cache, f"org/model@{TWO}")
    true_rename, calls = os.rename, []

    def fails_third(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return true_rename(*args, **kwargs)

    monkeypatch.setattr(os, "rename", fails_third)
    with pytest.raises(ResourceError, match="No space"):
        cache.execute(plan)
    assert without_locks(root) == before
    assert cache.trash() == []


def test_revisions_are_found_by_hash_prefix_branch_and_in_any_case(root):
    found = HubCache(root).scan()
    assert find_targets(found, ["ORG/Model@main", ONE[:9], f"org/model@{ONE[:7]}"]) == [
        Target(MODEL, TWO),
        Target(MODEL, ONE),
        Target(MODEL, ONE),
    ]
    with pytest.raises(RecipeError, match="Did you mean org/model"):
        find_targets(found, ["org/modle"])
    with pytest.raises(RecipeError):
        find_targets(found, [f"org/model@{'0' * 8}"])


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
