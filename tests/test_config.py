from pathlib import Path

import pytest

from runtime.cli import build_parser
from runtime.cli.serve import flags_of
from runtime.config import load_config
from runtime.core.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "spillway.toml"
    file.write_text(text)
    return file


def test_flags_beat_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, "[grpc]\nport = 1\nhost = '127.0.0.2'\n[http]\nport = 5\n")
    environment = {"SPILLWAY_GRPC_PORT": "2", "SPILLWAY_HTTP_PORT": "6"}

    loaded = load_config(file, {"grpc.port": 3}, environment)

    config = loaded.config
    assert (config.grpc.port, config.http.port, config.grpc.host, config.http.metrics_port) == (3, 6, "127.0.0.2", 8002)
    assert loaded.origins["grpc.port"] == "flag"
    assert loaded.origins["http.port"] == "environment SPILLWAY_HTTP_PORT"
    assert loaded.origins["grpc.host"] == str(file)
    assert "http.metrics_port" not in loaded.origins


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[grpc]\nprot = 1\n", ["prot", "spillway.toml"]),
        ("[grcp]\nport = 1\n", ["grcp", "spillway.toml"]),
        ("[grpc]\nport = 70000\n", ["70000", "65535", "grpc"]),
        ("[grpc]\nport = 'x'\n", ["grpc.port", "spillway.toml"]),
        ("grpc = 3\n", ["'grpc' must be a table"]),
        ("[grpc\n", ["spillway.toml"]),
        ("[daemon]\ndrain_s = -1\n", ["drain_s -1"]),
    ],
)
def test_a_wrong_file_is_named_with_key_and_value(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), environment={})
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.toml", environment={})


def test_environment_carries_lists_and_skips_the_links_of_kubernetes() -> None:
    environment = {
        "SPILLWAY_REPOSITORY_DIRECTORIES": "/a, /b",
        "SPILLWAY_SERVING_PROVIDERS": '["cuda", "cpu"]',
        "SPILLWAY_GRPC_PORT": "tcp://10.0.0.1:8001",
    }
    config = load_config(None, environment=environment).config
    assert config.repository.directories == ("/a", "/b")
    assert config.serving.providers == ("cuda", "cpu")
    assert config.grpc.port == 8001


def test_the_state_directory_is_systemd_s_where_it_gives_one() -> None:
    loaded = load_config(None, environment={"STATE_DIRECTORY": "/var/lib/private/spillway:/other"})
    assert loaded.config.repository.state_dir == "/var/lib/private/spillway"


def test_host_moves_every_listener_and_keeps_metrics_home_under_mutual_tls() -> None:
    parse = build_parser("serve").parse_args
    plain = flags_of(parse(["serve", "--host", "10.0.0.1"]))
    assert (plain["grpc.host"], plain["http.host"], plain["http.metrics_host"]) == ("10.0.0.1",) * 3
    mutual = flags_of(parse(["serve", "--host", "10.0.0.1", "--grpc-tls-client-ca", "ca.pem"]))
    assert mutual["http.tls"] is True
    assert "http.metrics_host" not in mutual
