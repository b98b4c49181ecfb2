"""A mail server for the demo and the tests: it takes mail, keeps it in files, and sends none on.

It listens on this machine's address in the sandboxes' egress network, so that nobody but them and this
machine can reach it, takes mail only after STARTTLS and AUTH, and has a certificate that its client checks.
"""

import asyncio
import logging
import ssl
import time
import uuid
from pathlib import Path
from typing import Final

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from mayfly.errors import StackError
from mayfly.stack.home import Home

HOST: Final = "host.mayfly.internal"
"""The name by which a sandbox with egress finds this machine."""
USER: Final = "mayfly"


class MailSink:
    """`environment` is what a dispatcher needs so that the functions find it."""

    def __init__(self, home: Home, port: int) -> None:
        self._home = home
        self._port = port
        self._password = home.secret("smtp")
        self._authority = trustme.CA()
        self._server: asyncio.Server | None = None
        self.address = ""
        # It warns, for every login, of an attribute that it sets itself.
        logging.getLogger("mail.log").setLevel(logging.ERROR)

    def environment(self) -> dict[str, str]:
        return {
            "MAYFLY_EGRESS_ALLOW": f"{HOST}:{self._port}",
            "MAYFLY_SECRET_SMTP_URL": f"smtp://{USER}:{self._password}@{HOST}:{self._port}",
            "MAYFLY_SECRET_SMTP_CA": self._authority.cert_pem.bytes().decode(),
        }

    async def start(self, address: str) -> None:
        self.address = f"{address}:{self._port}"
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert(HOST).configure_cert(context)
        loop = asyncio.get_running_loop()

        def session() -> SMTP:
            return SMTP(
                self,
                hostname=HOST,
                tls_context=context,
                require_starttls=True,
                authenticator=self._authenticate,
                auth_required=True,
                loop=loop,
            )

        try:
            self._server = await loop.create_server(session, address, self._port)
        except OSError as error:
            raise StackError(f"the mail server cannot listen on {self.address}: {error}") from error

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        right = (USER.encode(), self._password.encode())
        # `handled` off: aiosmtpd itself then tells the client that it was refused.
        return AuthResult(
            success=isinstance(data, LoginPassword) and (data.login, data.password) == right, handled=False
        )

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        name = f"mail/{time.time_ns() // 1_000_000}-{uuid.uuid4().hex[:8]}.eml"
        content = envelope.content
        self._home.write(
            name, content if isinstance(content, str) else (content or b"").decode(errors="replace")
        )
        return "250 Message accepted"


def messages(home: Home) -> list[Path]:
    """What has arrived, oldest first."""
    return sorted(home.directory("mail").glob("*.eml"))
