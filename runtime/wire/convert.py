"""The converter between protobuf messages and domain types, by the names that other rooms use.

`wire/__init__.py` stays empty instead of exporting them, since who needs only `wire/pb` must not load grpc.
"""

from runtime.wire.reply import ResponseEncoder, decode_response, decode_stream_response, encode_stream_error
from runtime.wire.request import RequestDecoder, encode_request

__all__ = [
    "RequestDecoder",
    "ResponseEncoder",
    "decode_response",
    "decode_stream_response",
    "encode_request",
    "encode_stream_error",
]
