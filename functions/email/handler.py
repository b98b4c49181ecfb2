"""Sends an e-mail over SMTP, never without a verified TLS connection."""

import os
import smtplib
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from urllib.parse import unquote, urlsplit

CONNECT_SECONDS = 10


@dataclass
class Mail:
    to: list[str]
    subject: str
    text: str
    html: str | None = None
    reply_to: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def handler(event: Mail, context):
    message = compose(event, sender=os.environ["MAIL_FROM"])
    with connect(os.environ["SMTP_URL"], os.environ["SMTP_CA"]) as server:
        refused = server.send_message(message)
    context.logger.info("sent %s to %d recipients", message["Message-ID"], len(event.to) - len(refused))
    return {
        "messageId": message["Message-ID"],
        "accepted": [address for address in event.to if parseaddr(address)[1] not in refused],
        "refused": {address: answer.decode() for address, (_, answer) in refused.items()},
    }


def compose(mail: Mail, sender: str) -> EmailMessage:
    if not mail.to:
        raise ValueError("to: at least one address is due")
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(mail.to)
    message["Subject"] = mail.subject
    message["Date"] = formatdate()
    # Not the host's name: a sandbox's is random, and nobody's business.
    message["Message-ID"] = make_msgid(domain=parseaddr(sender)[1].rpartition("@")[2])
    if mail.reply_to:
        message["Reply-To"] = mail.reply_to
    for name, value in mail.headers.items():
        message[name] = value
    message.set_content(mail.text)
    if mail.html:
        message.add_alternative(mail.html, subtype="html")
    return message


def connect(url: str, ca: str) -> smtplib.SMTP:
    """A connection that is encrypted, verified and, where the URL has a user, logged in."""
    parts = urlsplit(url)
    trust = ssl.create_default_context(cadata=ca or None)
    if parts.scheme == "smtps":
        server = smtplib.SMTP_SSL(parts.hostname, parts.port or 465, timeout=CONNECT_SECONDS, context=trust)
    elif parts.scheme == "smtp":
        server = smtplib.SMTP(parts.hostname, parts.port or 587, timeout=CONNECT_SECONDS)
        server.starttls(context=trust)  # raises where the server does not offer it: no plain text, ever
    else:
        raise ValueError("SMTP_URL starts with smtp:// or smtps://")
    if parts.username:
        server.login(unquote(parts.username), unquote(parts.password or ""))
    return server
