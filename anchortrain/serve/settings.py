"""What the server permits. Imports nothing heavy: the command line shows the defaults."""

import dataclasses
import ipaddress
import re

from anchortrain.errors import UserError

API_KEY = "ANCHORTRAIN_API_KEY"  # environment variable
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_NEVER_SENT = (("http", ":80"), ("https", ":443"))  # browsers leave a scheme's own port out


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Limits and addresses. A sample is one choice of a request.

    Attributes:
      name: of the model, as requests must give it.
      places: samples that are drawn together.
      max_tokens: of a response.
      max_annotation_tokens: of an annotation, its closing delimiter included.
      max_prompt_tokens: of a conversation with its control tokens.
      max_n: samples that one request may ask for.
      max_queue: samples that may wait for a place; more are refused with 429.
      max_body: bytes of a request's body.
      timeout_s: seconds from a request's arrival to the end of its answer.
      grace_s: seconds that running requests have after SIGTERM.
      api_key: that requests must show; None for none.
      cors_origins: whose pages may use the server, beside the playground; "*" for all, which takes an API key.
    """

    name: str = "anchortrain"
    host: str = "127.0.0.1"
    port: int = 8000
    places: int = 64
    max_tokens: int = 512
    max_annotation_tokens: int = 128
    max_prompt_tokens: int = 1024
    max_n: int = 64
    max_queue: int = 256
    max_body: int = 1 << 20
    timeout_s: float = 300.0
    grace_s: float = 30.0
    api_key: str | None = None
    no_auth: bool = False
    cors_origins: tuple[str, ...] = ()

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def most_tokens(self) -> int:
        """Of prompt and sample together."""
        return self.max_prompt_tokens + self.max_annotation_tokens + self.max_tokens

    def __post_init__(self) -> None:
        """Raises UserError, naming the option, for values that cannot be used."""
        for name in ("places", "max_tokens", "max_annotation_tokens", "max_prompt_tokens", "max_n", "max_body"):
            if getattr(self, name) < 1:
                raise UserError(f"must be at least 1, got {getattr(self, name)}", where=f"--{name}")
        if self.max_queue < 0:
            raise UserError(f"must be 0 or more, got {self.max_queue}", where="--max_queue")
        if not 0 <= self.port < 1 << 16:
            raise UserError(f"must be from 0 to 65535, got {self.port}", where="--port")
        for name in ("timeout_s", "grace_s"):
            if not 0 < getattr(self, name) < 1e9:
                raise UserError(f"must be a number of seconds above 0, got {getattr(self, name)}", where=f"--{name}")
        if self.max_n > self.places + self.max_queue:
            what = f"{self.max_n} samples never fit into {self.places} places and a queue of {self.max_queue}"
            raise UserError(what, where="--max_n", mend="lower it, or raise --max_queue")
        if not self.name or not self.name.isprintable():
            raise UserError(f"must be printable text, got {self.name!r}", where="--name")
        key = self.api_key
        if key is not None and not (key.strip() and key.isascii() and key.isprintable()):
            raise UserError("must be printable ASCII", where=API_KEY)
        for origin in self.cors_origins:
            self._check_origin(origin)
        if not self.on_loopback and self.api_key is None and not self.no_auth:
            what = "everyone who can reach this address could use the server"
            raise UserError(what, where=f"--host {self.host}", mend=f"set {API_KEY}, or say --no_auth")

    def _check_origin(self, origin: str) -> None:
        """Raises UserError for one that no browser sends: it would never match."""
        if origin == "*":
            if self.api_key is None:
                what = "any page that somebody visits could use the server"
                raise UserError(what, where="--cors_origin *", mend=f"set {API_KEY}, or name the pages' origins")
            return
        read = _ORIGIN.fullmatch(origin)
        if read is None or (read[1], read[3]) in _NEVER_SENT:
            what = f"must be an origin as browsers send it, such as https://page.example:8080, got {origin!r}"
            raise UserError(what, where="--cors_origin")
