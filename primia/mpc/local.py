"""Runs procedures of several parties in one process, one after the other: for tests, and to see what is said."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from primia.errors import ProtocolError
from primia.mpc.messages import Message, Phase, Procedure, Receive, Role, Send

Observer = Callable[[Role, Role, Message], None]


def run_together(procedures: Mapping[Role, Procedure[Any]], observe: Observer | None = None) -> dict[Role, Any]:
    """What each procedure returns, once all have ended; ``observe`` sees (from, to, message) of every message.

    Raises:
        ProtocolError: all wait for each other.
    """
    queues: dict[tuple[Role, Role, int, Phase], deque[Message]] = {}
    waiting: dict[Role, Receive | None] = dict.fromkeys(procedures)
    results: dict[Role, Any] = {}

    def advance(role: Role) -> bool:
        """Go on until the procedure waits in vain or ends; whether it went anywhere."""
        moved = False
        while role not in results:
            wanted, answer = waiting[role], None
            if wanted is not None:
                queue = queues.get((wanted.sender, role, wanted.batch, wanted.phase))
                if not queue:
                    return moved
                answer = queue.popleft()
            moved = True
            try:
                # A generator that has not begun takes None, and so does one that has just sent.
                request = procedures[role].send(answer)  # type: ignore[arg-type]
            except StopIteration as end:
                results[role] = end.value
                return True
            waiting[role] = request if isinstance(request, Receive) else None
            if isinstance(request, Send):
                queues.setdefault((role, request.to, *request.message.conversation), deque()).append(request.message)
                if observe:
                    observe(role, request.to, request.message)
        return moved

    while len(results) < len(procedures):
        if not sum(advance(role) for role in procedures):
            stuck = ", ".join(f"the {role.label} for {waiting[role]}" for role in procedures if role not in results)
            raise ProtocolError(f"the parties wait for each other: {stuck}")
    return results
