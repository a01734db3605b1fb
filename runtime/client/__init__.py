"""A lean client of the Open Inference Protocol: numpy in, numpy out.

Must not know anything of the server but its protocol.
"""

from runtime.client.aio import AsyncClient
from runtime.client.messages import Answer, Reply, Request
from runtime.client.sync import Client

__all__ = ["Answer", "AsyncClient", "Client", "Reply", "Request"]
