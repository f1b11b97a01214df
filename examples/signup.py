"""A web application that sends its mails from a queue.

    cairn serve
    python examples/signup.py web        # http://127.0.0.1:8000: a form to sign up
    python examples/signup.py work       # sends the mails; run as many of these as you like

A request only puts a message, so the page answers at once, also while the mail server is slow or down. A worker sends
the mail. If it is killed meanwhile, another worker gets the message when the lease ends; if the mail server refuses the
mail, the message returns to the queue and is tried again later and later.
"""

import html
import os
import smtplib
import sys
from collections.abc import Callable, Iterable
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import make_server

import cairnkv

PORT = int(os.environ.get("PORT", "8000"))
MAIL_HOST = os.environ.get("MAIL_HOST", "127.0.0.1")
MAIL_PORT = int(os.environ.get("MAIL_PORT", "25"))

FORM = '<form method="post">E-mail: <input name="email" type="email"> <button>Sign up</button></form>'

kv = cairnkv.connect()  # the address in CAIRNKV_URL, or a server on this computer
emails = kv.queue("emails")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Show a form, and sign up the person who sends it: any WSGI server can run this."""
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    if environ["REQUEST_METHOD"] != "POST":
        return [FORM.encode()]
    form = parse_qs(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0)).decode())
    address = form.get("email", [""])[0]
    # Two clicks are one mail: for a day, only one message can have this name. So the put is also safe to repeat.
    welcome = emails.put({"to": address}, unique=f"welcome:{address}", unique_for="1d", repeatable=True)
    greeting = "Welcome" if welcome.new else "Welcome back"
    return [f"{greeting}, {html.escape(address)}! We sent you a mail.".encode()]


@emails.worker(threads=4, max_runtime="1m")
def send(job: cairnkv.Job[Any]) -> None:
    """Send the mail of a message. An exception returns the message to the queue."""
    mail = EmailMessage()
    mail["From"] = "hello@example.org"
    mail["To"] = job.body["to"]
    mail["Subject"] = "Welcome"
    mail["Message-ID"] = f"<{job.id}@example.org>"  # equal for each attempt: mail programs show two of them as one
    mail.set_content("It is good to have you here.")
    with smtplib.SMTP(MAIL_HOST, MAIL_PORT, timeout=20) as server:
        server.send_message(mail)
    print(f"sent {job.id} to {mail['To']}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["web"]:
        with make_server("127.0.0.1", PORT, app) as web:
            print(f"http://127.0.0.1:{web.server_port}", flush=True)
            web.serve_forever()
    elif sys.argv[1:] == ["work"]:
        emails.set(attempts=10, backoff="1s", backoff_max="10m")
        send.run()
    else:
        sys.exit("usage: signup.py web|work")
