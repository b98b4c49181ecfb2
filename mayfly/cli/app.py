"""The commands, and how an error becomes one or two lines and an exit code.

What a command needs it imports when it runs: `mayfly --help` is to answer at once.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from mayfly import __version__
from mayfly.cli import (
    audit,
    audit_log,
    backup,
    batches,
    deploy,
    deployment,
    dlq,
    doctor,
    events,
    invoke,
    keys,
    login,
    rebuild,
    scaffold,
    secrets,
    stack,
    submit,
    tasks,
    tenants,
    traffic,
    users,
    webhooks,
)
from mayfly.cli.output import FAILED, INTERRUPTED, UNREACHABLE, USAGE, fail
from mayfly.errors import MayflyError

if TYPE_CHECKING:
    from mayfly.client import ClientError

HELP: Final = (
    "Run functions on short-lived containers: one task, one short life.\n\n"
    "The gateway is at --url, else where --profile has it, else at MAYFLY_URL, else where MAYFLY_PROFILE, "
    "the stack of this folder or of one above it, or the profile `default` has it, else at "
    "http://127.0.0.1:8080. Who asks is said by the profile, or by a key in MAYFLY_API_KEY.\n\n"
    "Exit codes: 0 done, 1 failed or refused, 2 the command line is wrong, 3 the gateway cannot be reached "
    "or cannot do it now."
)


class Commands(TyperGroup):
    """Nobody meets a traceback: what goes wrong is said in a line, and what to do in another."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MayflyError as error:
            _explain(error)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise
        except ValueError as error:
            # The client's word for what cannot be asked for.
            if "MAYFLY_DEBUG" in os.environ:
                raise
            fail(str(error), code=USAGE)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            fail(f"{where}{error.strerror or error}", code=FAILED)


def _explain(error: MayflyError) -> NoReturn:
    from mayfly.client import ApiError, ClientError, Forbidden, TooManyRequests, Unauthenticated, Unreachable
    from mayfly.errors import SettingsError, StackError

    match error:
        case Unreachable():
            hint = _doubt(error) or "`mayfly up` starts one on this machine"
            fail(str(error), hint=hint, code=UNREACHABLE)
        case Unauthenticated(code="wrong_password"):
            fail(f"refused: {error}", code=FAILED)
        case Unauthenticated():
            fail(f"not let in: {error} Set MAYFLY_API_KEY to a key, or `mayfly login`.", code=FAILED)
        case Forbidden(code="forbidden"):
            what = "Use a credential that may: `mayfly keys create` makes one, by an admin."
            fail(f"not allowed: {error} {what}", code=FAILED)
        case TooManyRequests(retry_after=seconds):
            when = "later" if seconds is None else f"in {seconds:g} s"
            again = "" if "again in" in error.detail else f" Repeat it {when}."
            fail(f"too many requests: {error}{again}", hint=_doubt(error), code=UNREACHABLE)
        case ApiError(status=503):
            fail(f"not available now: {error}", hint=_doubt(error), code=UNREACHABLE)
        case ApiError(code="unknown_task_type"):
            fail(f"refused: {error}", hint="`mayfly functions` lists those there are", code=FAILED)
        case ApiError(code="idempotency_conflict"):
            fail(f"refused: {error}", hint="another task needs another --key", code=FAILED)
        case ApiError():
            fail(f"refused: {error} ({error.code})", hint=_doubt(error), code=FAILED)
        case ClientError():
            fail(str(error), hint=_doubt(error), code=FAILED)
        case StackError():
            fail(str(error), hint=f"to mend it: {error.mend}" if error.mend else None, code=FAILED)
        case SettingsError():
            fail(str(error), code=USAGE)
        case _:
            fail(str(error), code=FAILED)


def _doubt(error: "ClientError") -> str | None:
    """What to do about a task that may have been accepted."""
    task_id, key = error.task_id, error.idempotency_key
    if task_id:
        again = f", or repeat it with --key {key}" if key else ""
        return f"task {task_id} may have been accepted: look with `mayfly get {task_id}`{again}"
    return f"the task may have been accepted; to have it once, repeat it with --key {key}" if key else None


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mayfly {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    # Rich would draw boxes around the help, and take three times as long to print it.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable="MAYFLY_DEBUG" in os.environ,
)


@app.callback()
def options(
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="NAME", help="Which profile.  [env var: MAYFLY_PROFILE]"),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that come before the command."""
    from mayfly.cli import gateway

    gateway.profile.set(profile)


COMMANDS: Final[tuple[Callable[..., None], ...]] = (
    submit.submit,
    submit.invoke,
    batches.batch,
    tasks.get,
    tasks.logs,
    tasks.ls,
    events.events,
    tasks.cancel,
    submit.rerun,
    deploy.functions,
    deployment.deploy,
    traffic.traffic,
    stack.workers,
    scaffold.new,
    deploy.build,
    invoke.run,
    stack.up,
    stack.down,
    stack.status,
    audit.audit,
    rebuild.rebuild,
    backup.backup,
    backup.restore,
    stack.dispatcher,
    doctor.doctor,
    login.login,
    login.logout,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(dlq.app)
app.add_typer(keys.app)
app.add_typer(users.app)
app.add_typer(secrets.app)
app.add_typer(webhooks.app)
app.add_typer(tenants.app)
app.add_typer(audit_log.app)
