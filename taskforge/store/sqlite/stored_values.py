"""Secrets, sealed before they come here, and variables."""

from __future__ import annotations

from collections.abc import Sequence

from taskforge.core.errors import NotFound
from taskforge.store.sqlite.connection import Session
from taskforge.store.values import SecretRow, VarRow


def put_secret(session: Session, name: str, sealed: bytes, key_id: str, now: int) -> SecretRow:
    session.write("put_secret", (name, sealed, key_id, now))
    row = session.row("find_secret", (name,))
    assert row is not None
    return SecretRow._make(row)


def list_secrets(session: Session) -> list[SecretRow]:
    return [SecretRow._make(row) for row in session.rows("list_secrets")]


def reseal_secrets(session: Session, rows: Sequence[SecretRow]) -> int:
    return sum(session.write("reseal_secret", (row.name, row.sealed, row.key_id)) for row in rows)


def delete_secret(session: Session, name: str) -> None:
    if not session.write("delete_secret", (name,)):
        raise NotFound(f"there is no secret {name}")


def put_var(session: Session, name: str, value: str, now: int) -> VarRow:
    session.write("put_var", (name, value, now))
    row = session.row("find_var", (name,))
    assert row is not None
    return VarRow._make(row)


def list_vars(session: Session) -> list[VarRow]:
    return [VarRow._make(row) for row in session.rows("list_vars")]


def delete_var(session: Session, name: str) -> None:
    if not session.write("delete_var", (name,)):
        raise NotFound(f"there is no variable {name}")
