"""A fast Batch API for benchmarks: any file becomes a batch that is done at the second look at it.

`python bench/batch_server.py --port-file F`. Each line's content is `{"label": "bug"}`. It checks nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any

from aiohttp import web

_ID = re.compile(rb'"custom_id":"([^"]+)"')
_LINE = (
    b'{"id":"batch_req_%b","custom_id":"%b","response":{"status_code":200,"request_id":"req_%b","body":'
    b'{"id":"chatcmpl-%b","object":"chat.completion","created":1790000000,"model":"gpt-6-luna-2026-09-01",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"{\\"label\\": \\"bug\\"}",'
    b'"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":112,'
    b'"completion_tokens":7,"total_tokens":119,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,'
    b'"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_44709d6fcb"}},'
    b'"error":null}\n'
)


class Server:
    """Files on disk, batches in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: dict[str, dict[str, Any]] = {}
        self.files = 0

    async def upload(self, request: web.Request) -> web.Response:
        """Keep a file."""
        self.files += 1
        name = f"file-{self.files}"
        async for part in await request.multipart():
            if part.name == "file":
                with (self.folder / name).open("wb") as file:
                    while chunk := await part.read_chunk(1 << 20):
                        file.write(chunk)
        facts = {
            "bytes": 1,
            "created_at": 1,
            "filename": "i.jsonl",
            "purpose": "batch",
            "status": "processed",
        }
        return web.json_response({"id": name, "object": "file", **facts})

    async def create(self, request: web.Request) -> web.Response:
        """Answer every line of a file, in reverse order."""
        body = await request.json()
        name = f"batch_{len(self.batches) + 1}"
        ids = _ID.findall((self.folder / body["input_file_id"]).read_bytes())
        with (self.folder / f"{name}-out").open("wb") as file:
            for each in reversed(ids):
                file.write(_LINE % (each, each, each, each))
        counts = {"total": len(ids), "completed": 0, "failed": 0}
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": body["endpoint"], "completion_window": "24h",
            "input_file_id": body["input_file_id"], "status": "in_progress", "created_at": 1_790_000_000,
            "metadata": body.get("metadata"), "request_counts": counts,
        }  # fmt: skip
        return web.json_response(self.batches[name])

    async def retrieve(self, request: web.Request) -> web.Response:
        """What a batch is; whoever looks again finds it done."""
        batch = self.batches[request.match_info["id"]]
        said = dict(batch)
        counts = batch["request_counts"]
        batch |= {
            "status": "completed",
            "output_file_id": f"{batch['id']}-out",
            "completed_at": 1_790_000_060,
        }
        batch["request_counts"] = {**counts, "completed": counts["total"]}
        return web.json_response(said)

    async def content(self, request: web.Request) -> web.FileResponse:
        """A file."""
        return web.FileResponse(self.folder / request.match_info["id"])


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/files", server.upload)
        app.router.add_get("/v1/files/{id}/content", server.content)
        app.router.add_post("/v1/batches", server.create)
        app.router.add_get("/v1/batches/{id}", server.retrieve)

        runner = web.AppRunner(app, access_log=None)

        async def serve() -> None:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            # Renamed into place: who waits for the file must never read half a number.
            unfinished = args.port_file.with_suffix(".part")
            unfinished.write_text(str(runner.addresses[0][1]))
            unfinished.rename(args.port_file)
            await asyncio.Event().wait()

        asyncio.run(serve())


if __name__ == "__main__":
    main()
