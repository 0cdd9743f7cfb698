"""Safe by default: no telemetry, a dashboard and all ports on loopback, a token that only its owner can read, and no
cluster without one. No Ray is started; a small gRPC server stands for a cluster's head.
"""

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from study import launch
from study.driver import _ray_engine
from study.engine import ray_cluster, ray_token
from study.engine.ray_surroundings import ENVIRONMENT
from study.engine.ray_tune import RayTuneEngine
from study.errors import EnvironmentFault
from study.order import Order
from study.space.reader import read_space

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"
MODE = "RAY_AUTH_MODE"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS", MODE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray was asked for, and what it would have seen of its surroundings."""
    calls: list[dict[str, Any]] = []

    def init(**options: Any) -> Any:
        file = Path.home() / ".ray" / "auth_token"
        mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else None
        listens_outside = ray_cluster.ray_constants.ENABLE_RAY_CLUSTER
        calls.append({**options, "token_mode": mode, "outside": listens_outside, "environment": dict(os.environ)})
        return SimpleNamespace(address_info={"session_dir": str(Path.home())}, dashboard_url="127.0.0.1:8265")

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    monkeypatch.setattr(ray_cluster.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: None)
    return calls


# ---------------------------------------------------------------- a private Ray


def test_a_private_ray_sends_nothing_and_listens_to_nobody_outside(asked: list[dict[str, Any]]) -> None:
    engine = RayTuneEngine()
    assert engine.start() == "http://127.0.0.1:8265"
    (call,) = asked
    assert (call["address"], call["dashboard_host"]) == ("local", "127.0.0.1")
    assert not call["outside"]
    assert call["token_mode"] == 0o600  # before Ray starts
    assert call["environment"]["RAY_USAGE_STATS_ENABLED"] == "0"
    assert call["environment"]["RAY_GRAFANA_HOST"] == "DISABLED"
    engine.stop()
    assert not set(ENVIRONMENT) & set(os.environ)


@pytest.mark.parametrize("mode", ["disabled", "DISABLED", "token"])
def test_a_private_ray_demands_its_token_whatever_the_environment_says(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv(MODE, mode)
    engine = RayTuneEngine()
    engine.start()
    assert MODE not in asked[0]["environment"]  # then Ray turns it on
    engine.stop()
    assert os.environ[MODE] == mode


def test_telemetry_of_tune_is_off() -> None:
    assert ENVIRONMENT["RAY_USAGE_STATS_ENABLED"] == "0"
    assert ENVIRONMENT["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] == "1"


# ---------------------------------------------------------------- a cluster that is joined


class Head(grpc.GenericRpcHandler):
    """Answers every question, or only those that bring a token."""

    def __init__(self, wants: str | None, code: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED) -> None:
        self.wants, self.code = wants, code
        self.questions: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        self.questions.append(handler_call_details.method)

        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            given = dict(context.invocation_metadata()).get("authorization")
            if self.wants is not None and given != f"Bearer {self.wants}":
                context.abort(self.code, "InvalidAuthToken: Authentication token is missing or incorrect")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def served() -> Iterator[Callable[[Head], str]]:
    """Start heads on loopback."""
    servers: list[grpc.Server] = []

    def start(head: Head) -> str:
        server = grpc.server(ThreadPoolExecutor(1), handlers=[head])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None)


def test_a_head_is_asked_without_a_token(served: Callable[[Head], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv(MODE, "token")
    head = Head("secret")
    assert ray_token.demands_token(served(head))
    assert head.questions == ["/ray.rpc.NodeInfoGcsService/CheckAlive"]
    assert ray_token.demands_token(served(Head("secret", grpc.StatusCode.PERMISSION_DENIED)))
    assert not ray_token.demands_token(served(Head(None)))


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND])
def test_whatever_answers_without_asking_for_a_token_demands_none(
    served: Callable[[Head], str], code: grpc.StatusCode
) -> None:
    assert not ray_token.demands_token(served(Head("secret", code)))


def test_what_is_no_head_is_told_apart() -> None:
    with pytest.raises(EnvironmentFault, match=r"what listens at 127\.0\.0\.1:1 does not answer as one does \(UNAVAIL"):
        ray_token.demands_token("127.0.0.1:1")


def test_encryption_needs_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with pytest.raises(EnvironmentFault, match=r"RAY_USE_TLS asks for encryption, .*Name them in RAY_TLS_CA_CERT"):
        ray_token.demands_token("127.0.0.1:1")


def test_an_open_cluster_is_refused_unless_insecure(served: Callable[[Head], str], asked: list[dict[str, Any]]) -> None:
    address = served(Head(None))
    with pytest.raises(EnvironmentFault) as refused:
        RayTuneEngine(address=address).start()
    said = str(refused.value)
    assert said.startswith(f"A Ray cluster must demand a token, but {address} answers without one")
    assert "RAY_AUTH_MODE=token" in said
    assert "--insecure" in said
    assert refused.value.exit_code == 4
    assert asked == []
    engine = RayTuneEngine(address=address, insecure=True)
    engine.start()
    engine.stop()
    assert [call["address"] for call in asked] == [address]


def test_a_cluster_with_a_token_is_joined(served: Callable[[Head], str], asked: list[dict[str, Any]]) -> None:
    address = served(Head("secret"))
    engine = RayTuneEngine(address=address)
    engine.start()
    engine.stop()
    assert [call["address"] for call in asked] == [address]


def test_the_option_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    space = read_space(KD)
    for insecure in (False, True):
        order = Order(space=space, source=KD, command="", address="127.0.0.1:1", insecure=insecure)
        engine = _ray_engine(order, Path("s"))
        assert isinstance(engine, RayTuneEngine)
        assert engine._insecure is insecure
    options = launch.parser().parse_intermixed_args([str(KD), "--address", "auto", "--insecure"])
    assert options.insecure
    assert "--insecure" in launch.parser().format_help()
    assert "--fork DIR" in launch.parser().format_help()
