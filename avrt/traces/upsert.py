"""`INSERT ... ON CONFLICT`, which SQLAlchemy has once for each database."""

from __future__ import annotations

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_into(db: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that can say what is done with a row that is already there."""
    return postgresql.insert(table) if db.dialect.name == "postgresql" else sqlite.insert(table)
