"""The floor: a bare grpc.aio server that answers every ModelInfer with one constant message.

It has the generic bytes handler that grpcio offers to everyone: no protobuf, no numpy, no model, no look at the
request. What it costs, every server on grpc.aio costs.

    python aio_echo.py --announce FILE --reply FILE
"""

import argparse
import asyncio
import json
from pathlib import Path

import grpc.aio

_SERVICE = "inference.GRPCInferenceService"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


async def serve(reply: bytes, announce: Path) -> None:
    """Answer with `reply` until the process is ended."""

    async def answer(_request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return reply

    infer: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.aio.server(options=_UNLIMITED)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {"ModelInfer": infer})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    partial = announce.with_suffix(".partial")
    partial.write_text(json.dumps({"grpc": f"127.0.0.1:{port}"}))
    partial.rename(announce)
    await server.wait_for_termination()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--announce", type=Path, required=True)
    parser.add_argument("--reply", type=Path, required=True, help="file with the serialised ModelInferResponse")
    args = parser.parse_args()
    asyncio.run(serve(args.reply.read_bytes(), args.announce))


if __name__ == "__main__":
    main()
