"""The exceptions that a user is meant to read."""

import signal


class UserError(ValueError):
    """A mistake the user can mend: one line, what is wrong and what to do."""


class Stopped(Exception):
    """The run was asked to stop and did: all up to `step` is saved.

    `number` is the signal that asked.
    """

    def __init__(self, step: int, number: int = signal.SIGTERM):
        super().__init__(f"stopped at step {step}, saved; the same command goes on")
        self.step, self.number = step, number
