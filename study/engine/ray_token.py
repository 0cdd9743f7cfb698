"""Whether a Ray cluster lets in anybody who reaches its port, found out by knocking without a token.

Nothing here imports Ray; what Ray speaks, gRPC, is asked directly.
"""

import os
from pathlib import Path

import grpc

from study.errors import EnvironmentFault

_QUESTION = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""Asks Ray's head for nothing; the question without a word in it is a whole one."""

_PATIENCE_S = 10.0

_CERTIFICATES = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT")


def demands_token(address: str) -> bool:
    """Tell whether a cluster turns away who brings no token.

    Args:
        address: HOST:PORT of its head.

    Raises:
        EnvironmentFault: If what listens there does not speak as Ray's head does.
    """
    with _channel(address) as channel:
        ask = channel.unary_unary(_QUESTION, request_serializer=bytes, response_deserializer=bytes)
        try:
            ask(b"", timeout=_PATIENCE_S)
        except grpc.RpcError as error:
            return _is_refusal(error, address)
    return False


def _channel(address: str) -> grpc.Channel:
    """Open the line that Ray itself would, encrypted where its variables say so."""
    options = (("grpc.enable_http_proxy", 0),)
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(address, options=options)
    try:
        files = [Path(os.environ[name]).read_bytes() for name in _CERTIFICATES]
    except (KeyError, OSError) as error:
        raise EnvironmentFault(
            f"RAY_USE_TLS asks for encryption, but its files cannot be read ({error}). Name them in "
            f"{', '.join(_CERTIFICATES)}."
        ) from error
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*files), options=options)


def _is_refusal(error: grpc.RpcError, address: str) -> bool:
    code = error.code() if isinstance(error, grpc.Call) else None
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, None):
        raise EnvironmentFault(
            f"A Ray cluster is joined at its head, but what listens at {address} does not answer as one does "
            f"({code.name if code else error}). Give the HOST:PORT that `ray start --head` printed."
        ) from error
    return code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def check_token(address: str, *, insecure: bool) -> None:
    """Refuse a cluster that everybody on its network may command.

    Args:
        address: HOST:PORT of its head.
        insecure: Whether the user asked to join it all the same.

    Raises:
        EnvironmentFault: If it demands no token, and that was not asked for.
    """
    if insecure or demands_token(address):
        return
    raise EnvironmentFault(
        f"A Ray cluster must demand a token, but {address} answers without one: whoever reaches its ports can run code "
        "on all its machines as you. Start it with RAY_AUTH_MODE=token and the same token file on every machine (`ray "
        "get-auth-token --generate` makes one), or give --insecure if its network is yours alone."
    )
