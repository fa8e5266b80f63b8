import os
from pathlib import Path

import pytest
import torch
from file_faults import FaultyFiles

from loba_tui.core.errors import CorruptError, ResourceError
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.training.checkpoint import Checkpoint, CheckpointStore


def checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        step=step,
        tensors={
            "adapter": {"a": torch.randn(3, 2, generator=generator).T, "b": torch.ones(())},
            "method": {},
        },
        state={"forwards": step * 10, "optimizer": {"scalars": {}, "groups": [{"eps": 1e-8}]}},
    )


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    store = CheckpointStore(OwnedFolder(tmp_path))
    store.save(checkpoint(5))
    loaded, skipped = store.load_newest()
    assert loaded is not None
    assert not skipped
    assert loaded.step == 5
    assert loaded.state == checkpoint(5).state
    assert set(loaded.tensors) == {"adapter", "method"}
    for name, tensor in checkpoint(5).tensors["adapter"].items():
        assert torch.equal(loaded.tensors["adapter"][name], tensor)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(OwnedFolder(tmp_path), keep=2)
    for step in (1, 2, 10):
        store.save(checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000010"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove file", "remove manifest"])
def test_a_damaged_checkpoint_is_skipped_and_kept(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(OwnedFolder(tmp_path))
    store.save(checkpoint(1))
    bad = store.save(checkpoint(2)).path
    weights = bad / "adapter.safetensors"
    content = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncate":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "remove file":
        weights.unlink()
    else:
        (bad / "manifest.json").unlink()

    loaded, skipped = store.load_newest()
    assert loaded is not None
    assert loaded.step == 1
    assert len(skipped) == 1
    assert "step-000002" in skipped[0]
    assert bad.exists()


def test_no_readable_checkpoint_is_an_error_and_none_at_all_is_not(tmp_path: Path) -> None:
    store = CheckpointStore(OwnedFolder(tmp_path))
    assert store.load_newest() == (None, [])
    (store.save(checkpoint(1)).path / "state.json").write_text("{}")
    with pytest.raises(CorruptError, match="step-000001"):
        store.load_newest()


def test_an_unfinished_checkpoint_is_never_considered(tmp_path: Path) -> None:
    store = CheckpointStore(OwnedFolder(tmp_path))
    path = store.save(checkpoint(1)).path
    path.rename(tmp_path / ".tmp-step-000002-1")
    assert store.load_newest() == (None, [])


def test_a_folder_that_cannot_be_written_is_a_resource_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ResourceError, match="step 3"):
        CheckpointStore(OwnedFolder(blocked)).save(checkpoint(3))


def test_everything_is_on_the_disk_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path,
) -> None:
    """A kill cannot show a missing fsync; only a power cut can, so their order is the test."""
    CheckpointStore(OwnedFolder(tmp_path)).save(checkpoint(1))
    with FaultyFiles(tmp_path).installed() as files:
        CheckpointStore(OwnedFolder(tmp_path)).save(checkpoint(2))
    log = [entry.replace(f"-{os.getpid()}", "") for entry in files.log]
    staged = "/.tmp-step-000002"
    named = log.index(f"rename {staged}")
    written = [entry.removeprefix("write ") for entry in log if entry.startswith("write ")]
    assert [Path(name).name for name in written] == [
        "adapter.safetensors",
        "method.safetensors",
        "state.json",
        "manifest.json",
    ]
    synced = [log.index(f"fsync {name}") for name in written]
    assert synced == sorted(synced)
    assert synced[-1] < log.index(f"fsync {staged}") < named < log.index("fsync ", named)


def test_a_damaged_checkpoint_counts_for_nothing_when_older_ones_are_pruned(tmp_path: Path) -> None:
    store = CheckpointStore(OwnedFolder(tmp_path), keep=2)
    for step in (1, 2, 3):
        store.save(checkpoint(step))
    (tmp_path / "step-000003" / "state.json").write_text("{}")
    CheckpointStore(OwnedFolder(tmp_path), keep=2).save(checkpoint(4))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000002", "step-000003", "step-000004"]


@pytest.mark.parametrize(
    "manifest",
    [
        '{"../outside.safetensors": "0"}',
        '{"/etc/passwd": "0"}',
        '{"code.pkl": "0"}',
        "[1]",
        "[" * 100_000,
        "{}",
        '{"state.json": 7}',
    ],
)
def test_a_manifest_from_elsewhere_leads_nowhere(tmp_path: Path, manifest: str) -> None:
    store = CheckpointStore(OwnedFolder(tmp_path))
    (store.save(checkpoint(1)).path / "manifest.json").write_text(manifest)
    with pytest.raises(CorruptError, match="step-000001"):
        store.load_newest()
