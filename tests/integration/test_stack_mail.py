import asyncio
import smtplib
import ssl
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mayfly.stack.home import Home
from mayfly.stack.mail import HOST, MailSink, messages


class Server:
    def __init__(self, home: Home, sink: MailSink) -> None:
        self.home = home
        environment = sink.environment()
        self.url = urlsplit(environment["MAYFLY_SECRET_SMTP_URL"])
        self.context = ssl.create_default_context(cadata=environment["MAYFLY_SECRET_SMTP_CA"])

    def connect(self) -> smtplib.SMTP:
        assert self.url.port is not None
        client = smtplib.SMTP("127.0.0.1", self.url.port, timeout=30)
        # What STARTTLS checks the certificate against: a sandbox knows the server by this name.
        client._host = HOST  # type: ignore[attr-defined]
        return client


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    home = Home(tmp_path / "stack")
    home.make()
    sink = MailSink(home, home.port("mail", None))
    await sink.start("127.0.0.1")
    yield Server(home, sink)
    await sink.stop()


def message() -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@example.com", "b@example.com", "Grüße"
    mail["Message-ID"] = "<1@example.com>"
    mail.set_content("hällo")
    return mail


async def test_a_message_over_tls_and_with_the_password_is_kept_in_a_file(server: Server) -> None:
    def send() -> None:
        with server.connect() as client:
            client.starttls(context=server.context)
            client.login(server.url.username or "", server.url.password or "")
            client.send_message(message())

    await asyncio.to_thread(send)
    [path] = messages(server.home)
    assert "Message-ID: <1@example.com>" in path.read_text()


async def test_without_tls_no_mail_is_taken(server: Server) -> None:
    def send() -> None:
        with server.connect() as client, pytest.raises(smtplib.SMTPException):
            client.send_message(message())

    await asyncio.to_thread(send)
    assert messages(server.home) == []


async def test_a_wrong_password_and_none_are_refused(server: Server) -> None:
    def send() -> None:
        with server.connect() as client:
            client.starttls(context=server.context)
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login(server.url.username or "", "wrong")
        with server.connect() as client:
            client.starttls(context=server.context)
            with pytest.raises(smtplib.SMTPException):
                client.send_message(message())

    await asyncio.to_thread(send)
    assert messages(server.home) == []
