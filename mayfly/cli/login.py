"""Commands for people: login, logout."""

import os
from typing import Annotated

import typer

from mayfly.cli.options import Json
from mayfly.cli.output import FAILED, USAGE, fail, say, show_json


def login(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="The gateway; the profile's.")] = None,
    username: Annotated[
        str | None, typer.Option("--username", "-u", metavar="NAME", help="Who; who it was last time.")
    ] = None,
    json: Json = False,
) -> None:
    """Log in with a name and a password, and keep the token in the profile.

    The password is asked for, or is the first line of stdin. The profile is that of `mayfly --profile`, else
    of MAYFLY_PROFILE, else `default`.
    """
    from datetime import UTC, datetime, timedelta

    from mayfly.cli.gateway import connect, profile
    from mayfly.cli.password import read_password
    from mayfly.cli.times import shown
    from mayfly.client import Client, profiles
    from mayfly.client.target import same_gateway

    name = profiles.chosen(profile.get()) or profiles.DEFAULT
    profiles.check_name(name)
    known = profiles.find(name)
    who = username or known.username
    if who is None:
        fail("it is not said who logs in", hint="--username NAME", code=USAGE)
    with Client(url) if url else connect(known.url) as client:
        if known.api_key and known.url and not same_gateway(known.url, client.url):
            # Its key would go to the new gateway, once the token is gone.
            fail(
                f"the profile {name} has a key for {known.url}",
                hint="another profile: mayfly --profile NAME login ...",
                code=USAGE,
            )
        token = client.login(who, read_password(f"password of {who}"))
        path = profiles.save(name, url=client.url, username=who, token=token.token)
        ends = datetime.now(UTC) + timedelta(seconds=token.expires_in_seconds)
        say(f"logged in at {client.url} as {who} until {shown(ends)}; the token is in {path}, profile {name}")
        if os.environ.get("MAYFLY_API_KEY") and profile.get() is None:
            say("MAYFLY_API_KEY is set, and counts before it")
        if json:
            told = {"url": client.url, "username": who, "profile": name, "expiresAt": ends.isoformat()}
            show_json(told)


def logout(json: Json = False) -> None:
    """Forget the token of the profile. A key that it has stays."""
    from mayfly.cli.gateway import profile
    from mayfly.client import profiles

    name = profiles.chosen(profile.get()) or profiles.DEFAULT
    known = profiles.find(name)
    if known.token is None:
        fail(f"nobody is logged in with the profile {name}", code=FAILED)
    path = profiles.save(name, token=None)
    say(f"logged out: the token is no longer in {path}")
    if json:
        show_json({"url": known.url, "profile": name})
