"""The errors that Mayfly raises. Broken infrastructure is an exception; a broken function is an `Outcome`.

Every message says what is wrong and, where something can be done, what to do.
"""


class MayflyError(Exception):
    """The root of the tree: catch it to catch everything that Mayfly raises on purpose."""


class SettingsError(MayflyError):
    """A setting is missing, malformed or unsafe."""


class LogUnavailable(MayflyError):
    """Kafka did not acknowledge in time. What was being appended may or may not be in the log."""


class ReadModelUnavailable(MayflyError):
    """Redis did not answer."""


class BlobsUnavailable(MayflyError):
    """The S3-compatible store did not answer, or refused."""


class BlobNotFound(MayflyError):
    """No object has that key."""


class SecretsUnavailable(MayflyError):
    """What holds the master key of the secrets, AWS KMS, did not answer, or refused."""


class SandboxLost(MayflyError):
    """The sandbox, or the engine under it, went away: the function had no say in it."""


class SandboxUnused(SandboxLost):
    """The sandbox went away while it waited for a task. The function was given nothing: nothing is lost."""


class SandboxesUnavailable(SandboxLost):
    """The engine makes no sandbox at all at the moment: its disk is full, or it removes none."""


class IsolationRefused(MayflyError):
    """This machine cannot isolate as the function asks: trying again changes nothing."""


class FunctionError(MayflyError):
    """A function's folder cannot be deployed. `file` and `line` say where, as far as that is known."""

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.line = line

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return where + str(self.args[0])


class RegistryUnavailable(MayflyError):
    """The registry of functions' images did not answer, or refused."""


class ImageNotThere(MayflyError):
    """The registry has no such image."""


class StackError(MayflyError):
    """A part of the local stack cannot be had. `mend` is the one command that would help."""

    def __init__(self, message: str, *, mend: str | None = None) -> None:
        super().__init__(message)
        self.mend = mend
