"""Errors that a user can act on: where, what is wrong, and the remedy, in one line."""


class AvrtError(Exception):
    """A problem of the input or the configuration, not a bug.

    The command line prints it as one line and exits with its `status`.

    Args:
        what: What is wrong, in a few words.
        where: The file, field or sample.
        remedy: What the user can do.
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
        """Pickle for other processes, which keyword-only arguments would break."""
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


class BadSampleError(AvrtError):
    """One sample cannot be used; it is counted and named, and the run continues."""


class NothingUsableError(AvrtError):
    """A command has no result: all samples were left out, were dropped, or failed."""

    status = 1


def _rebuild(cls: type[AvrtError], what: str, where: str | None, remedy: str | None) -> AvrtError:
    return cls(what, where=where, remedy=remedy)
