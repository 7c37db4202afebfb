"""What outlives the server, behind two interfaces: ExecutionJournal and TaskStore. SQLite implements both.

Another database takes a class for each and the line of host.py that makes them; tests/execution/storage/test_journal.py
and tests/execution/test_task_registry.py say what they must do. It is sqlite3 and not a layer above it since every
asynchronous call pays for three statements: through SQLAlchemy Core they took 50 us of CPU instead of 8, and what
carries the weight here (one transaction for all that comes meanwhile, partial indices, totals kept by triggers) would
be each database's own there, too.
"""

from spear_wasm.execution.storage.journal import (
    Accepted,
    ExecutionJournal,
    Kept,
    Retention,
    StoredCall,
    Unfinished,
)
from spear_wasm.execution.storage.sqlite_journal import SqliteJournal
from spear_wasm.execution.storage.sqlite_task_store import SqliteTaskStore
from spear_wasm.execution.storage.task_store import NameTakenElsewhere, TaskStore

__all__ = [
    "Accepted",
    "ExecutionJournal",
    "Kept",
    "NameTakenElsewhere",
    "Retention",
    "SqliteJournal",
    "SqliteTaskStore",
    "StoredCall",
    "TaskStore",
    "Unfinished",
]
