"""From a call's options to whom its run asks, and the run from its first request to its last."""

from __future__ import annotations

import asyncio

from pandas_llm.core.options import Options
from pandas_llm.core.types import Endpoint
from pandas_llm.io.http import open_endpoint
from pandas_llm.io.provider import Provider, open_provider
from pandas_llm.prepare import Prepared
from pandas_llm.run import Run


async def drive(run: Run, prepared: Prepared) -> None:
    """Ask for what a run doesn't know; what stops it is its `error`."""
    # Importing a client and loading weights take 0.3 s: not on the loop that others may share.
    endpoint = await asyncio.to_thread(_endpoint, prepared)
    try:
        await run.ask(endpoint, lambda: _provider(prepared.options))
    finally:
        await endpoint.close()
    run.notes += endpoint.notes() if hasattr(endpoint, "notes") else ()


def _provider(options: Options) -> Provider:
    return open_provider(client=options.client, api_key=options.api_key, base_url=options.base_url)


def _endpoint(prepared: Prepared) -> Endpoint:
    options = prepared.options
    if prepared.embedder is not None:
        from pandas_llm.local.callable import CallableEndpoint

        return CallableEndpoint(prepared.embedder, prepared.call.plan.question.model)
    if prepared.is_local:
        from pandas_llm.local.endpoint import LocalEndpoint

        return LocalEndpoint()
    return open_endpoint(
        client=options.client,
        api_key=options.api_key,
        base_url=options.base_url,
        model=options.model,
        places=options.max_concurrency,
    )
