"""What a mistyped name probably meant."""

import difflib
from collections.abc import Iterable


def suggest(name: str, valid: Iterable[str]) -> str:
    """The mend of an unknown name: `did you mean 'x'?`, or all valid names when none is near."""
    valid = list(valid)
    by_lower = {one.lower(): one for one in valid}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[near[0]]!r}?" if near else f"there are {', '.join(valid) or 'none'}"
