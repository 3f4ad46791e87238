"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """Bad input. Its text is one line: what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with code 2. Library callers may catch
    it like any exception.
    """

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        message = what if where is None else f"{where}: {what}"
        if mend is not None:
            message = f"{message}; {mend}"
        super().__init__(" ".join(message.split()))


class AgreedError(UserError):
    """One that every process of a run raises at the same point: nobody has to be told of it."""
