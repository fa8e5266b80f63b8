"""Names by which a recipe, a user's slip or a mirror of the hub would lead out of the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_mirror import Lies, serve_lies, tree_of
from hub_client import talking_to
from hub_server import Hub, serve
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from typer.testing import CliRunner

from loba_tui import cli
from loba_tui.core.associate.caches.transfer import fetch, hub_client, pull
from loba_tui.core.associate.caches.transfer.fetch import WantedFile
from loba_tui.core.associate.sources.hub_snapshot import fetch_snapshot
from loba_tui.core.errors import RefusedError

VICTIM = b"what the user had\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Place:
    """A cache, and a file beside it that attacks aim at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.victim = folder / "user" / "profile"
        self.victim.parent.mkdir()
        self.victim.write_bytes(VICTIM)
        self.home = folder / "home"
        self.cache = self.home / "hub"
        self.cache.mkdir(parents=True)
        (self.home / "state").mkdir()

    def way_from(self, *below: str) -> str:
        """Return the relative path from a folder of the repository to the victim."""
        return os.path.relpath(self.victim, self.cache.joinpath("models--org--model", *below))

    def tree(self) -> dict[str, bytes | None]:
        found = tree_of(self.folder, but=self.cache)
        # Beside the cache lie the locks of repositories in use.
        return {path: held for path, held in found.items() if not path.startswith("home/hub.loba")}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def lies() -> Lies:
    return Lies()


@pytest.fixture
def mirror(place, lies, tmp_path_factory, monkeypatch) -> Iterator[Hub]:
    model = tmp_path_factory.mktemp("model")
    index = {"_class_name": "P", "unet": ["diffusers", "U"]}
    (model / "model_index.json").write_text(json.dumps(index))
    (model / "unet").mkdir()
    (model / "unet" / "config.json").write_text("{}")
    (model / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    with serve_lies({"org/model": model}, lies) as hub, talking_to(hub, place.home, monkeypatch):
        yield hub


def pulled(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["cache", "pull", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stderr


def test_a_mirror_that_does_not_lie_is_fetched_from(mirror, place):
    before = place.tree()
    code, errors = pulled("org/model")
    assert code == 0, errors
    assert (place.cache / "models--org--model/snapshots" / COMMIT / "unet/config.json").is_file()
    assert place.tree() == before


UNSAFE_REVISIONS = [
    "../../../../user/profile",
    "main/../../../../../user/profile",
    "/etc/passwd",
    "-f",
    "~/x",
    "a//b",
    "a\\..\\b",
    "a\nb",
    "a\x1b[2Jb",
    "a\x9bb",
    "a\u202eb",
    "mаin",  # noqa: RUF001  the second letter is Cyrillic
    "ｍain",  # noqa: RUF001
    "main.lock",
    "a..b",
    "x" * 5000,
]


@pytest.mark.parametrize("revision", UNSAFE_REVISIONS)
def test_a_revision_that_leads_elsewhere_is_refused_before_the_hub_is_asked(
    mirror, place, revision
):
    before = place.tree()
    code, errors = pulled(f"org/model@{revision}")
    assert code == 8, errors
    assert not {"\x1b", "\x9b", "\u202e"} & set(errors)
    with pytest.raises(RefusedError):
        fetch_snapshot("org/model", revision, None, hint="")
    with pytest.raises(RefusedError):
        hub_client.resolve(hub_client.hub_api(), "org/model", revision, place.cache)
    plan = pull.PullPlan("org/model", revision, COMMIT, (), ())
    with pytest.raises(RefusedError):
        pull.pull(plan, lambda *_: None)
    assert not mirror.requested
    assert place.tree() == before
    assert not list(place.cache.rglob("*"))


@pytest.mark.parametrize("name", ["../../x", "-x/y", "/etc", "a/../b", "a\\b", "оrg/model", "a\nb"])  # noqa: RUF001
def test_a_repository_that_leads_elsewhere_is_refused_before_the_hub_is_asked(mirror, place, name):
    before = place.tree()
    code, errors = pulled("--", name)
    assert code == 8, errors
    with pytest.raises(RefusedError):
        fetch_snapshot(name, None, None, hint="")
    with pytest.raises(RefusedError):
        fetch.fetch_files(place.cache, name, COMMIT, [WantedFile("a", 1)], lambda *_: None)
    assert not mirror.requested
    assert place.tree() == before


def test_the_clients_own_writing_of_a_revision_would_leave_the_cache(mirror, place):
    """The attack is real: without the check the client overwrites the file."""
    api = hub_client.hub_api()
    api.resolve_revision("org/model", revision=None, cache_dir=place.cache)
    from huggingface_hub.file_download import _cache_commit_hash_for_specific_revision as write

    write(str(place.cache / "models--org--model"), place.way_from("refs"), COMMIT)
    assert place.victim.read_bytes() == COMMIT.encode()


@pytest.mark.parametrize(
    "sha", ["../../../user/profile", "main", "0" * 39, "0" * 41, "0" * 39 + "\n"]
)
def test_a_commit_that_is_none_is_refused(mirror, place, lies, sha):
    lies.sha = sha
    before = place.tree()
    assert pulled("org/model")[0] == 8
    with pytest.raises(RefusedError):
        fetch_snapshot("org/model", None, None, hint="")
    assert place.tree() == before


@pytest.mark.parametrize("remembered", ["../../../user/profile", "main", ""])
def test_a_commit_that_the_cache_remembers_is_checked_too(mirror, place, monkeypatch, remembered):
    refs = place.cache / "models--org--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(remembered)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    before = place.tree()
    with pytest.raises(RefusedError):
        fetch_snapshot("org/model", None, None, hint="")
    assert place.tree() == before


@pytest.mark.parametrize(
    "path",
    [
        "../../../../user/profile",
        "unet/../../../../../user/profile",
        "/etc/passwd",
        "-rf",
        "~/.bashrc",
        "unet//config.json",
        "unet\\..\\x",
        "C:/x",
        "unet/c:x.json",
        "unet/a\nb.json",
        "unet/a\x9bb.json",
        "unet/a\u202ejson",
        "unet/a\u200bb.json",
        "x" * 300,
        "",
    ],
)
def test_a_listed_path_that_leads_elsewhere_is_refused(mirror, place, lies, path):
    lies.listed = (path,)
    before = place.tree()
    assert pulled("org/model")[0] == 8
    with pytest.raises(RefusedError):
        fetch.fetch_files(place.cache, "org/model", COMMIT, [WantedFile(path, 1)], lambda *_: None)
    assert place.tree() == before
    assert not mirror.downloads("config.json")


@pytest.mark.parametrize("path", ["unet/Config.json", "unet/CON", "unet/a b é 中.json", "x.lock"])
def test_odd_paths_that_stay_where_they_are_do_no_harm(mirror, place, lies, path):
    lies.listed = (path,)
    before = place.tree()
    pulled("org/model")
    assert place.tree() == before


@pytest.mark.parametrize("true_answers", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit", "X-Xet-Hash"])
def test_a_header_that_names_a_path_is_refused(mirror, place, lies, header, true_answers):
    # The client asks again for what was asked here already, and may be told something else.
    lies.true_answers = true_answers
    below = "snapshots" if header == "X-Repo-Commit" else "blobs"
    lies.headers = {header: place.way_from(below), "X-Xet-Refresh-Route": "/x"}
    before = place.tree()
    code, errors = pulled("org/model")
    assert code == 8, errors
    assert place.tree() == before
    assert place.victim.read_bytes() == VICTIM


@pytest.mark.parametrize("true_answers", [0, 2])
def test_an_absolute_etag_is_refused_wherever_the_cache_is(mirror, place, lies, true_answers):
    # A plan is made in a throw-away cache, from where the relative way is another one.
    lies.true_answers = true_answers
    lies.headers = {"ETag": str(place.victim.with_name("new"))}
    before = place.tree()
    assert pulled("org/model")[0] == 8
    assert place.tree() == before


@pytest.mark.parametrize("etag", ["/etc/x", "..", ".hidden", "a.lock", "a.incomplete", "x" * 500])
def test_an_etag_that_is_no_name_of_a_content_is_refused(mirror, place, lies, etag):
    lies.headers = {"ETag": f'"{etag}"'}
    before = place.tree()
    assert pulled("org/model")[0] == 8
    assert place.tree() == before


@pytest.mark.parametrize("true_answers", [0, 1, 2])
def test_no_mark_of_a_missing_file_is_left_outside(mirror, place, lies, true_answers):
    lies.true_answers = true_answers
    lies.missing = ("model_index.json", "config.json")
    lies.headers = {"X-Repo-Commit": f"{place.way_from('.no_exist')}/../new"}
    before = place.tree()
    assert pulled("org/model")[0] == 8
    assert place.tree() == before


@pytest.mark.parametrize("name", ["../../../user", "/etc", "unet/../..", "a\nb", "-x", "unet "])
def test_a_component_is_a_folder_of_the_model(place, tmp_path_factory, name):
    from loba_tui.core.associate.containers.loading import component_names
    from loba_tui.core.associate.pipeline_files import component_names as names_in
    from loba_tui.core.associate.sources.locate import locate

    model = tmp_path_factory.mktemp("local")
    index = {"_class_name": "StableDiffusionXLPipeline", name: ["diffusers", "U"]}
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(RefusedError):
        component_names(locate(str(model)))
    with pytest.raises(RefusedError):
        names_in(str(model / "model_index.json"))


@pytest.mark.parametrize(
    "shard", ["../../../user/profile", "/x.safetensors", "a/b.safetensors", "weights.bin", "x"]
)
def test_a_shard_is_a_safetensors_file_beside_its_index(tmp_path, shard):
    from loba_tui.core.associate.pipeline_files import check_shards

    index = {"weight_map": {"a.weight": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RefusedError):
        check_shards(tmp_path)
    index = {"weight_map": {"a.weight": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    check_shards(tmp_path)


@pytest.mark.parametrize("to", ["{other}/x", "http://localhost:{port}/x", "//localhost:{port}/x"])
def test_a_login_is_not_sent_on_to_another_host(
    mirror, place, lies, tmp_path_factory, monkeypatch, to
):
    """Weights lie on other hosts, and where they do is what the mirror says."""
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s3cret" * 6)
    with serve({"org/model": tmp_path_factory.mktemp("other")}) as other:
        port = other.endpoint.rpartition(":")[2]
        lies.redirect = to.format(other=other.endpoint, port=port)
        pulled("org/model")
        assert [each for each in mirror.requests if each.has_token]
        assert other.requests or to.startswith("//")  # the client takes that for no address
        assert not [each for each in other.requests if each.has_token]
