"""The data path: engine, admission, batcher, instance.

Must not know protobuf messages, sockets or where a model's files came from.
"""
