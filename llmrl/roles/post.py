"""POST over HTTP without blocking: the only file that imports httpx."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache

import httpx

LONGEST_ANSWER = 4 * 2**20
"""Bytes; a longer answer is refused. As JSON one character of text may take 12."""


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Post; returns status and body. Follows no redirect, uses no proxy, and waits until it is cancelled.

    Raises:
        ConnectionError: there is no whole answer; the question may have arrived nevertheless.
        ValueError: the answer is longer than ``LONGEST_ANSWER``.
    """
    client = _client(asyncio.get_running_loop())
    try:
        async with client.stream("POST", url, content=body, headers=dict(headers)) as response:
            return response.status_code, await _read(response)
    except httpx.RequestError as error:
        raise ConnectionError(str(error) or type(error).__name__) from None


async def hang_up() -> None:
    """Close the connections that this loop keeps for its next request; a process that ends need not."""
    await _client(asyncio.get_running_loop()).aclose()


async def _read(response: httpx.Response) -> bytes:
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > LONGEST_ANSWER:
            raise ValueError(f"the answer is longer than {LONGEST_ANSWER} bytes")
    return body


@cache
def _client(_loop: asyncio.AbstractEventLoop) -> httpx.AsyncClient:
    """The client for all requests, which keeps its connections; they belong to a loop."""
    # Callers bound their concurrent questions; to wait here would count as the answer's time.
    return httpx.AsyncClient(timeout=None, trust_env=False, limits=httpx.Limits(max_connections=None))
