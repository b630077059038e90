"""Old names of parameters, kept working for one minor version."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def renamed(old: str, new: str, *, removed_in: str) -> Callable[[F], F]:
    """Let a keyword parameter be given under the name that it had before.

    Args:
        old: The name it had.

        new: The name it has.

        removed_in: The version in which the old one stops working.

    Returns:
        A decorator. Called with the old name, the function warns with a
        ``DeprecationWarning`` that points at its caller; called with both, it raises a
        ``TypeError``.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if old in kwargs:
                _accept(function.__qualname__, kwargs, old, new, removed_in)
            return function(*args, **kwargs)

        return cast(F, call)

    return decorate


def _accept(function: str, kwargs: dict[str, Any], old: str, new: str, removed_in: str) -> None:
    if new in kwargs:
        raise TypeError(f"{function}() got {old!r} and {new!r}, which are the same; give {new!r}")
    warnings.warn(
        f"{function}(): {old!r} is now called {new!r} and stops working in {removed_in}",
        DeprecationWarning, stacklevel=3,
    )
    kwargs[new] = kwargs.pop(old)
