"""celery tasks that remember: workers that live for a hundred tasks, and leave no litter.

    pip install celery
    celery -A celery_app --workdir examples worker --max-tasks-per-child 100

A child that ends or is killed leaves its file to the next one, which delivers the rest.
"""

import os

from celery import Celery

from otel_memoir import MemoryLog

app = Celery("memoir", broker=os.environ.get("CELERY_BROKER", "memory://"))
log = MemoryLog(store_id="profile", agent_name="celery")


@app.task(name="remember")
def remember(name: str, text: str) -> str:
    """Remember something; on return the outcome is on disk."""
    with log.change(f"profile/{name}", operation="upsert_memory", hold=True) as change:
        # ... the store is written here ...
        change.made(content=text)
    return str(change.outcome)
