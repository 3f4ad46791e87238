"""The page at `/`: one file without anything from elsewhere, and headers that let it be nothing else."""

import base64
import functools
import hashlib
import importlib.resources
import re


@functools.cache
def page() -> bytes:
    """The page, as UTF-8."""
    return importlib.resources.files("anchortrain.serve").joinpath("playground.html").read_bytes()


@functools.cache
def headers() -> dict[str, str]:
    """A Content-Security-Policy that permits this page's one style and one script, and no others."""
    style, script = (_hash(rb"<%b>(.*?)</%b>" % (tag, tag)) for tag in (b"style", b"script"))
    policy = (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _hash(pattern: bytes) -> str:
    (content,) = re.findall(pattern, page(), re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
