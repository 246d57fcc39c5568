"""Errors that a user can act on: what went wrong, where, and the remedy, in one line."""


class AvrtError(Exception):
    """A problem caused by input or configuration rather than by a bug.

    The command line prints it as one line and exits with its `status`.

    Args:
        what: What is wrong, in a few words.
        where: The file, field or sample that is concerned.
        remedy: What the user can do about it.
    """

    status = 2

    def __init__(self, what: str, *, where: object | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        place = f"{self.where}: " if self.where else ""
        advice = f" ({remedy})" if remedy else ""
        super().__init__(f"{place}{what}{advice}")

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the pickling between worker processes, which keyword-only arguments would break."""
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


class BadSampleError(AvrtError):
    """One sample cannot be used; it is counted and named, and the run goes on."""


class NothingUsableError(AvrtError):
    """A command did what it was told and nothing came of it: all samples were left out, dropped, or have failed."""

    status = 1


def _rebuild(cls: type[AvrtError], what: str, where: str | None, remedy: str | None) -> AvrtError:
    return cls(what, where=where, remedy=remedy)
