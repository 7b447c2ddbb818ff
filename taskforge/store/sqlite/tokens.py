"""API tokens: only their hashes are stored."""

from __future__ import annotations

from taskforge.core.errors import NotFound
from taskforge.store.sqlite.connection import Session
from taskforge.store.values import TokenRow


def create_token(session: Session, row: TokenRow) -> None:
    session.write("create_token", row)


def list_tokens(session: Session) -> list[TokenRow]:
    return [TokenRow._make(row) for row in session.rows("list_tokens")]


def find_token(session: Session, hash: str) -> TokenRow | None:
    row = session.row("find_token", (hash,))
    return None if row is None else TokenRow._make(row)


def revoke_token(session: Session, id: str) -> None:
    if not session.write("revoke_token", (id,)):
        raise NotFound(f"there is no token {id}")
