"""No access token is written down, wherever it comes from."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import subprocess
import sys
import time
import timeit
import urllib.parse
from pathlib import Path

import pytest

from loba_tui.core.output import PlainStream
from loba_tui.core.redact import REDACTED, Redactor, find_secret
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import RunWriter

CANARY = "canary-4711-not-like-any-token"
HUB_TOKEN = "hf_" + "x" * 34
RECIPE = """\
version: 1
name: canary
base_model: {id: "builtin:shapes-xl"}
method:
  name: text_slider
  rollout_steps: 3
  concepts: [{target: a circle, positive: a large circle, negative: a small circle}]
train: {steps: 3, batch_size: 1}
save: {every: 2}
sample: {steps: 1, scales: [-1, 1]}
proof: {seeds: [1]}
"""


def test_what_looks_like_a_token_is_taken_out():
    assert Redactor().text(f"url?token={HUB_TOKEN}&x") == f"url?token={REDACTED}&x"
    assert Redactor().text("no secret here: hf_short") == "no secret here: hf_short"


def test_secrets_of_the_environment_are_taken_out_whatever_they_look_like():
    redactor = Redactor.of(
        {"HF_TOKEN": CANARY, "WANDB_API_KEY": "key-of-12345", "HOME": "/home/me"}
    )
    assert redactor.text(f"{CANARY} key-of-12345 /home/me") == f"{REDACTED} {REDACTED} /home/me"


def test_a_switch_is_no_secret():
    assert Redactor.of({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}).text("step 1") == "step 1"


JWT = ".".join(
    ["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxMjM0NTY3ODkwIn0", "dBjftJeZ4CVP-mB92K27uhbUJU1p"]
)


@pytest.mark.parametrize(
    "secret",
    [
        HUB_TOKEN,
        f"hf_oauth_{JWT}",
        "hf_jwt_" + "a1B2" * 8,
        "glpat-" + "x1Y2z3" * 4,
        "gldt-" + "x1Y2z3" * 4,
        "ghp_" + "a" * 36,
        "github_pat_" + "a" * 40,
        "sk-ant-" + "a1" * 20,
        "AKIA" + "ABCDEFGH12345678",
        "ASIA" + "ABCDEFGH12345678",
        "xoxb-123456789012-abcdefABCDEF",
        "AIza" + "a" * 35,
        JWT,
        "wandb_v1_" + "a1" * 20,
    ],
    ids=lambda secret: secret[:8],
)
def test_tokens_are_known_by_their_look(secret: str):
    for text in (secret, f"a {secret}.", f'"{secret}"', f"key={secret}&b", f"({secret})"):
        assert secret not in Redactor().text(text)
        assert secret[:-3] not in Redactor().text(text)
        assert find_secret(text) is not None
        assert find_secret(Redactor().text(text)) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55@host/x", f"https://{REDACTED}@host/x"),
        ("postgres://u:p%40ss@db:5432/x", f"postgres://{REDACTED}@db:5432/x"),
        ("https://:pa@ss@host", f"https://{REDACTED}@host"),
        ("Authorization: Bearer abcdef123456", f"Authorization: Bearer {REDACTED}"),
        ("'Authorization': 'Basic dXNlcjpwYXNz'", f"'Authorization': 'Basic {REDACTED}'"),
        ("https://x?X-Amz-Signature=abcdef&b=1", f"https://x?X-Amz-Signature={REDACTED}&b=1"),
        (
            "https://hooks.slack.com/services/T0/B0/abc",
            f"https://hooks.slack.com/services/{REDACTED}",
        ),
        (
            "https://discord.com/api/webhooks/123456/abc-def",
            f"https://discord.com/api/webhooks/{REDACTED}",
        ),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----.", f"{REDACTED}."),
    ],
)
def test_secrets_are_known_by_where_they_stand(text: str, shown: str):
    assert Redactor().text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sha256 " + "0123456789abcdef" * 4,
        "commit " + "c" * 40,
        "LIVE_KEYS, a KEY in a table; the key=value of --set",
        "hub://user/repo/recipe.yaml@" + "a" * 40,
        "https://huggingface.co/a/b?revision=main and git@github.com:a/b.git",
        "ssh://git@github.com/a/b at 10:30, see http://localhost:8122/",
        "a ring bearer walks, basic internationalization, the sk-learn way",
        "stabilityai/stable-diffusion-xl-base-1.0 eyJust.a.name AKIAN ghost_writer",
        "optimizer.lr 1e-4 → 2e-4 at step 100, unet.down_blocks.0.attentions.1",
        "task-based-and-quite-long-hyphenated-words-in-a-prompt",
    ],
)
def test_what_is_no_secret_stays(text: str):
    assert Redactor().text(text) == text
    assert find_secret(text) is None


@pytest.mark.parametrize(
    "name",
    [
        *("SIGNING_KEY", "DB_PASS", "GPG_PASSPHRASE", "MY_PASSWD", "DB_PWD", "APP_CREDENTIALS"),
        *("app_key", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "KEY", "GITLAB_PAT"),
        "SLACK_WEBHOOK_URL",
    ],
)
def test_names_of_secrets_are_known(name: str):
    assert Redactor.of({name: CANARY}).text(f"x{CANARY}x") == f"x{REDACTED}x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSH_AUTH_SOCK", "/run/user/1000/keyring"),
        ("PWD", "/home/somebody"),
        ("OLDPWD", "/home/somebody"),
        ("MONKEY", "a-long-name-of-it"),
        ("KEYBOARD", "a-long-name-of-it"),
        ("TOKENIZERS_PARALLELISM", "false-of-course"),
        ("SHORT_KEY", "abc"),
        ("SSL_KEY", __file__),
        ("GOOGLE_APPLICATION_CREDENTIALS", __file__),
    ],
)
def test_what_is_no_secret_of_the_environment_stays(name: str, value: str):
    assert Redactor.of({name: value}).text(f"in {value} it is") == f"in {value} it is"


def test_a_secret_that_only_looks_like_a_path_is_one():
    value = "/no/such/file+base64=="
    assert Redactor.of({"AWS_SECRET_ACCESS_KEY": value}).text(value) == REDACTED


def test_a_secret_is_known_in_other_spellings():
    secret = 'p/ss "word" of 1234\u00e9'
    redactor = Redactor.of({"DB_PASS": secret, "PEM_KEY": "first line of it\nsecond line of it"})
    for before in range(4):
        packed = base64.b64encode(b"u" * before + secret.encode() + b"tail").decode()
        assert REDACTED in redactor.text(packed)
    for spelled in (urllib.parse.quote(secret, safe=""), json.dumps({"a": secret})):
        assert "1234" not in redactor.text(spelled)
    assert redactor.text("x second line of it x") == f"x {REDACTED} x"


@pytest.mark.parametrize("where", ["HF_HOME", "XDG_CACHE_HOME", "HF_TOKEN_PATH"])
def test_the_tokens_of_the_hub_are_known(tmp_path: Path, where: str):
    homes = {
        "HF_HOME": (tmp_path, str(tmp_path)),
        "XDG_CACHE_HOME": (tmp_path / "huggingface", str(tmp_path)),
        "HF_TOKEN_PATH": (tmp_path / "elsewhere", str(tmp_path / "elsewhere" / "token")),
    }
    folder, value = homes[where]
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text("token-of-no-known-look\n")
    (folder / "stored_tokens").write_text("[a-name-of-mine]\nhf_token = another-token-of-mine\n")
    redactor = Redactor.of(
        {"HF_HOME": str(tmp_path / "none"), where: value}
        if where == "HF_TOKEN_PATH"
        else {where: value}
    )
    told = redactor.text("token-of-no-known-look another-token-of-mine a-name-of-mine")
    assert told == f"{REDACTED} {REDACTED} a-name-of-mine"


def test_a_token_file_that_is_none_keeps_nobody_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "token")
    (tmp_path / "stored_tokens").symlink_to("/dev/zero")
    assert Redactor.of({"HF_HOME": str(tmp_path)}).text("a text of some length") != REDACTED


def test_redaction_costs_an_event_next_to_nothing():
    environ = {f"NAME_{n}_TOKEN": f"{CANARY}{n}" for n in range(5)}
    redactor = Redactor.of(environ)
    event = {
        "event": "saved",
        "path": "/home/me/output/size-slider-20260101-000000-abcd/checkpoints/step-000100",
        "sha256": "ab" * 32,
        "message": "saved a checkpoint; the next one is due at step 200",
        "commit": "c" * 40,
        "step": 100,
    }
    assert len(json.dumps(event)) >= 280
    seconds = min(timeit.repeat(lambda: redactor.value(event), number=200, repeat=5)) / 200
    assert seconds < 150e-6  # 25 µs where nothing else runs


@pytest.mark.parametrize(
    "unit", ["://", "eyJ", "bearer ", "&token", "?a", "a:", "-----BEGIN PRIVATE KEY-----"]
)
def test_hostile_text_does_not_slow_it_down(unit: str):
    began = time.perf_counter()
    Redactor().text(unit * (256 * 1024 // len(unit)) + "://")
    assert time.perf_counter() - began < 2


def test_values_keep_their_types():
    value = {"a": [1, 2.5, None, True, f"x {HUB_TOKEN}"], HUB_TOKEN: Path("/tmp/x")}
    redacted = Redactor().value(value)
    assert redacted == {"a": [1, 2.5, None, True, f"x {REDACTED}"], REDACTED: Path("/tmp/x")}


def test_a_stream_writes_no_secret():
    stream = io.StringIO()
    print(f"Authorization: Bearer {HUB_TOKEN}", file=PlainStream(stream, Redactor()))
    assert stream.getvalue() == f"Authorization: Bearer {REDACTED}\n"


def test_events_and_status_hold_no_secret(tmp_path: Path):
    run_dir = RunDir.create(tmp_path, "run")
    with RunWriter.open(run_dir, Redactor([CANARY])) as writer:
        writer.event("failed", message=f"401 for {HUB_TOKEN}", traceback=f"…{CANARY}…")
        writer.status(phase="failed", why=CANARY)
    written = run_dir.events.path.read_text() + run_dir.status.path.read_text()
    assert CANARY not in written
    assert HUB_TOKEN not in written
    assert REDACTED in written


@pytest.mark.parametrize("fails", [False, True])
def test_no_file_of_a_real_run_holds_the_token(tmp_path: Path, fails: bool):
    """A canary in the environment, and in an exception's own text, is in no file of the run."""
    recipe = RECIPE
    if fails:
        # The name of a folder that is not there is echoed by the error.
        recipe = RECIPE.replace("builtin:shapes-xl", f"./{CANARY}/model")
    (tmp_path / "r.yaml").write_text(recipe)
    environ = {
        **os.environ,
        "HF_TOKEN": CANARY,
        "HF_HUB_OFFLINE": "1",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "OMP_NUM_THREADS": "1",
    }
    run_dir = RunDir.create(tmp_path / "runs", "canary")
    # As the resolved recipe of a run: what the user wrote himself is his own to keep.
    run_dir.recipe.path.write_text(recipe)
    command = [sys.executable, "-P", "-m", "loba_tui.core.program.main", "--run-dir"]
    with run_dir.log.path.open("wb") as log:
        ended = subprocess.run(
            [*command, str(run_dir.path)],
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            timeout=300,
            check=False,
        )
    assert ended.returncode == (2 if fails else 0), run_dir.log.path.read_text()
    files = [
        path for path in run_dir.path.rglob("*") if path.is_file() and path != run_dir.recipe.path
    ]
    assert len(files) > (3 if fails else 12)
    for path in files:
        content = path.read_bytes()
        assert CANARY.encode() not in content, path
    if fails:
        kinds = [json.loads(line)["event"] for line in run_dir.events.path.read_text().splitlines()]
        assert "failed" in kinds
        assert REDACTED in run_dir.events.path.read_text()
        assert REDACTED in run_dir.log.path.read_text()
    for path in [run_dir.path, *run_dir.path.rglob("*")]:
        if path not in (run_dir.recipe.path, run_dir.log.path):  # written by this test
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
