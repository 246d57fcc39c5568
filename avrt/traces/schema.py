"""The tables of a call store, one definition for SQLite and PostgreSQL.

`calls` has every call; `outcomes` and `verdicts` those of every trace folder that shares the store. The name of the
store's own folder is empty.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.dialects import postgresql

SCHEMA_VERSION = 2
# PostgreSQL sorts by the rules of a language unless told otherwise, SQLite by code point.
_TEXT = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
metadata = MetaData()


def _text(name: str, *, key: bool = False, needed: bool = True) -> Column[str]:
    return Column(name, _TEXT, primary_key=key, nullable=not needed)


calls = Table(
    "calls",
    metadata,
    _text("key", key=True),
    _text("sample"),
    _text("role"),
    _text("model"),
    Column("number", Integer, nullable=False),
    _text("sampling"),
    _text("prompt_hash"),
    _text("system"),
    _text("prompt"),
    Column("pictures", Integer, nullable=False),
    Column("sound", Integer, nullable=False),
    _text("status"),
    _text("owner"),
    _text("text", needed=False),
    _text("reasoning", needed=False),
    _text("finish_reason", needed=False),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("seconds", Double),
    Column("attempts", Integer),
    _text("error", needed=False),
    Column("changed", _TEXT, server_default=text("CURRENT_TIMESTAMP")),
    sqlite_with_rowid=False,
)
Index("calls_by_sample", calls.c.sample, calls.c.role, calls.c.number)

outcomes = Table(
    "outcomes",
    metadata,
    _text("folder", key=True),
    _text("sample", key=True),
    _text("run"),
    Column("position", Integer, nullable=False),
    _text("status"),
    _text("reason", needed=False),
    _text("difficulty", needed=False),
    _text("clip"),
    _text("trace", needed=False),
    _text("merger_call", needed=False),
    sqlite_with_rowid=False,
)
# Workers on several machines ask which samples have been decided; one machine's do not.
Index("outcomes_by_position", outcomes.c.folder, outcomes.c.run, outcomes.c.position).ddl_if("postgresql")

verdicts = Table(
    "verdicts",
    metadata,
    _text("folder", key=True),
    _text("sample", key=True),
    _text("run"),
    _text("teacher", key=True),
    _text("letter", needed=False),
    _text("votes"),
    _text("answer"),
    Column("correct", Integer, nullable=False),
    _text("call", needed=False),
    sqlite_with_rowid=False,
)
