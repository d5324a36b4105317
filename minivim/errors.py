"""The one exception that a user is meant to read."""


class UserError(ValueError):
    """A mistake the user can mend: one line, what is wrong and what to do."""
