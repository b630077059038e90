"""mem0 without a network: a real ``Memory`` whose embedder and LLM are replaced.

Vector store (Qdrant, in this process) and history (SQLite) are mem0's own. The real embedder
and LLM are services, so there is no way to have them here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mem0 import AsyncMemory, Memory
from mem0.configs.llms.base import BaseLlmConfig
from mem0.embeddings.base import EmbeddingBase
from mem0.llms.base import LLMBase
from mem0.utils.factory import EmbedderFactory, LlmFactory


class Embedder(EmbeddingBase):
    """The same text is always at the same place."""

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        """Three numbers."""
        return [1.0, float(len(text) % 7), float(sum(map(ord, text)) % 11)]


class Silent(LLMBase):
    """Nobody asks it: memories are added as they are."""

    def generate_response(self, *_: Any, **__: Any) -> str:
        """Not called."""
        raise AssertionError("no LLM is needed here")


EmbedderFactory.provider_to_class["openai"] = f"{__name__}.Embedder"
LlmFactory.provider_to_class["openai"] = (f"{__name__}.Silent", BaseLlmConfig)


@contextlib.contextmanager
def memory_in(
    directory: Path, kind: type[Memory] | type[AsyncMemory] = Memory
) -> Iterator[Any]:
    """A memory on disk."""
    memory = kind.from_config({
        "vector_store": {
            "provider": "qdrant",
            "config": {"path": str(directory / "qdrant"), "embedding_model_dims": 3},
        },
        "history_db_path": str(directory / "history.db"),
    })
    try:
        yield memory
    finally:
        memory.db.close()
        memory.vector_store.client.close()
