"""Protobuf to domain types and back, errors to status codes; used by servers and clients alike.

Must not know who serves or who asks: no sockets, no models, no queues.
"""
