"""ttrpc on asyncio, over unix sockets: a server and a client around the core."""

from __future__ import annotations

from .client import Client, parse_address
from .server import Call, Handler, Server

__all__ = ["Call", "Client", "Handler", "Server", "parse_address"]
