"""The exceptions that a user is meant to read."""


class UserError(ValueError):
    """A mistake the user can mend: one line, what is wrong and what to do."""


class Stopped(Exception):
    """The run was asked to stop and did: all up to `step` is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}, saved; the same command goes on")
        self.step = step
