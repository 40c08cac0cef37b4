"""Who may open sessions: tokens. Does no I/O."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from tepdist.errors import SessionError


@dataclass(frozen=True, slots=True)
class Access:
    """Who may open sessions.

    Attributes:
        tokens: Token to the client it belongs to; None to ask for no token.
    """

    tokens: Mapping[str, str] | None = None

    def client_of(self, token: str | None) -> str | None:
        """The client that a token belongs to; None if no token is asked for.

        Raises:
            SessionError: if a token is asked for and this is none.
        """
        if self.tokens is None:
            return None
        for known, client in self.tokens.items():
            if token is not None and secrets.compare_digest(
                known.encode(), token.encode()
            ):
                return client
        raise SessionError(
            "the server wants a token" if token is None else "the token is not known",
            hint="pass token=... of the server's token file",
        )


def read_tokens(text: str) -> Access:
    """Reads a token file: ``client:token`` a line, # for comments.

    Raises:
        SessionError: if a line is not of that form or there is none.

    >>> read_tokens("alice:s3cret").client_of("s3cret")
    'alice'
    """
    tokens: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        client, separator, token = stripped.partition(":")
        if not separator or not client.strip() or not token.strip():
            raise SessionError(
                "a line of the token file is not client:token",
                where=f"line {number}",
                hint="write e.g. alice:s3cret, or start a comment with #",
            )
        tokens[token.strip()] = client.strip()
    if not tokens:
        raise SessionError("the token file holds no token", hint="write client:token")
    return Access(tokens)
