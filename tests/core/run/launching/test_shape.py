from pathlib import Path

import pytest

from loba_tui.core.errors import CorruptError, InUseError, RecipeError, ResourceError
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launching import network
from loba_tui.core.run.launching.shape import Host, LaunchShape, make_shape, parse_hosts


def test_hosts_have_the_slots_that_are_named() -> None:
    assert parse_hosts("localhost,me@gpu-2.lan:4") == (
        Host("localhost"),
        Host("me@gpu-2.lan", 4),
    )


@pytest.mark.parametrize("text", ["", "a,", "a:", "a:x", "a b", "-oProxyCommand=x", "a:1:2", "a;b"])
def test_what_is_no_list_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--hosts"):
        parse_hosts(text)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"processes": 2, "hosts": "localhost:2"}, "exclude each other"),
        ({"processes": None, "hosts": "elsewhere:2"}, "has to be this machine"),
        ({"processes": None, "hosts": "localhost,b,b"}, "twice"),
        ({"processes": None, "hosts": "localhost,b:0"}, "1 to"),
        ({"processes": 2, "hosts": None, "iface": "-x"}, "--iface"),
        ({"processes": 2, "hosts": None, "port": 65536}, "--port"),
        ({"processes": 2, "hosts": None, "restarts": -1}, "--restarts"),
        ({"processes": 2, "hosts": None, "remote_python": "python"}, "absolute"),
    ],
)
def test_options_that_make_no_launch_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        make_shape(**options)  # type: ignore[arg-type]


def test_a_shape_is_read_as_it_was_written(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, "run")
    assert LaunchShape.read(run_dir) is None
    shape = make_shape(processes=None, hosts="localhost:2,b:3", iface="eth0", port=2000)
    shape.write(run_dir)
    assert LaunchShape.read(run_dir) == shape
    assert shape.processes == 5


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"version": 1, "hosts": []}',
        '{"version": 1, "hosts": [{"name": "-oX", "slots": 1}]}',
        '{"version": 1, "hosts": [{"name": "a", "slots": 1}], "iface": 3}',
        '{"version": 1, "hosts": [{"name": "a", "slots": 1}], "port": "x"}',
        '{"version": 1, "hosts": [{"name": "a", "slots": 1}], "remote_python": "x"}',
        '{"version": 1, "hosts": [{"name": "a", "slots": 1}], "other": 1}',
    ],
)
def test_what_is_no_shape_is_corrupt(tmp_path: Path, text: str) -> None:
    run_dir = RunDir.create(tmp_path, "run")
    run_dir.launch.path.write_text(text)
    with pytest.raises(CorruptError, match="does not say how"):
        LaunchShape.read(run_dir)


def test_a_port_that_somebody_listens_on_is_refused() -> None:
    port = network.free_port(network.LOOPBACK)
    network.require_free(network.LOOPBACK, port)
    with (
        network._bound(network.LOOPBACK, port),
        pytest.raises(InUseError, match=f"port {port}"),
    ):
        network.require_free(network.LOOPBACK, port)


def test_the_way_to_this_machine_leads_over_loopback() -> None:
    assert network.address_towards("127.0.0.1") == "127.0.0.1"
    name = network.interface_of("127.0.0.1")
    assert name is not None
    assert network.address_of(name) == "127.0.0.1"


def test_an_interface_or_a_host_that_is_not_there_is_named() -> None:
    with pytest.raises(ResourceError, match="no interface nothing7"):
        network.address_of("nothing7")
    with pytest.raises(ResourceError, match=r"nowhere\.invalid"):
        network.address_towards("nowhere.invalid")
