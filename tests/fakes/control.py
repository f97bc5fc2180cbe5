"""The control of a fake server that runs as a process of its own: what it did, what it is told to do."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web
from fakes import faults
from fakes.answers import Json
from fakes.ledger import Bill, Prices

if TYPE_CHECKING:
    from fakes.openai_server import FakeOpenAI


async def respond(server: FakeOpenAI, request: web.BaseRequest) -> web.StreamResponse:
    """`/__bill`, `/__batches`, `/__files`; `/__set` does what `change` knows, and gives the bill."""
    if request.path == "/__set":
        for name, value in orjson.loads(await request.content.read()).items():
            change(server, name, value)
    match request.path:
        case "/__batches":
            said: Any = [{**batch.json(), "custom_ids": batch.custom_ids} for batch in server.batches]
        case "/__files":
            said = [{**file.json(), "deleted": file.deleted} for file in server.files.values()]
        case _:
            said = _bill(server)
    return web.Response(body=orjson.dumps(said), content_type="application/json")


def change(server: FakeOpenAI, name: str, value: Any) -> None:
    """Do what `name` says, or set the setting of that name."""
    match name:
        case "clear":
            server.clear()
            server.clear_faults()
        case "fault":
            server.fault(value.get("match"), getattr(faults, value["name"]), value.get("times"))
        case "batch_fault":
            server.batch_fault(value["name"], value.get("match"), value.get("times"))
        case "storm":
            server.storm(**value)
        case "advance":
            server.clock.advance(value)
        case "release_batches":
            server.release_batches()
        case _:
            setattr(server, name, Prices(**value) if name == "prices" else value)


def _bill(server: FakeOpenAI) -> Json:
    counts = {"requests": len(server.requests), "max_in_flight": server.max_in_flight}
    statuses = {str(status): number for status, number in server.statuses.items()}
    bill = server.bill
    said = {**counts, "statuses": statuses, "violations": len(server.violations)}
    return said | {each.name: getattr(bill, each.name) for each in fields(Bill)}
