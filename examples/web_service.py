"""An asyncio web service whose memories are changed under a lock, each change recorded first.

    pip install fastapi uvicorn
    uvicorn --app-dir examples web_service:app

Nothing here blocks the event loop: the disk is waited for with ``await``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from otel_memoir import MemoryLog
from otel_memoir.errors import WriteConflictError

memory: dict[str, tuple[int, str]] = {}
log = MemoryLog(store_id="profile", agent_name="web")


class Memory(BaseModel):
    """What is to be remembered, and the version that the caller has read."""

    text: str
    expected_version: int = 0


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Close the log when the service ends: what is not delivered by then stays on disk."""
    yield
    await log.aclose()


app = FastAPI(lifespan=lifespan)


@app.put("/memories/{name}")
async def put(name: str, body: Memory) -> dict[str, object]:
    """Write a memory, unless somebody else has written it meanwhile."""

    def version() -> int:
        return memory.get(name, (0, ""))[0]

    try:
        async with log.change(
            f"profile/{name}", operation="upsert_memory", hold=True, timeout=5.0,
            expected_version=body.expected_version, version_of=version,
        ) as change:
            memory[name] = (version() + 1, body.text)
            change.made(content=body.text, version=version())
    except WriteConflictError as error:
        raise HTTPException(status_code=409, detail=str(error)) from error
    return {"version": version(), "receipt": str(change.outcome)}


@app.get("/memories/{name}")
async def get(name: str) -> dict[str, object]:
    """Read a memory."""
    version, text = memory.get(name, (0, ""))
    receipt = log.read(name, count=int(version > 0), hit=version > 0)
    return {"version": version, "text": text, "stored": await receipt.stored()}
