"""The checker "story_parser": the story world's exact parser."""

from collections.abc import Sequence

from anchortrain.annotation import Annotation, from_json
from anchortrain.rehearsal.checker import Row, Verdict, compare
from anchortrain.storyworld.world import World

_FORM = "assistant"


class StoryParser:
    """Keeps responses that the grammar of the world could have written as a whole, in the form of an answer, and in
    which every attribute of the plan is read back (or the share `agreement` of them)."""

    def __init__(self, world: str, agreement: float) -> None:
        self._world, self._agreement = World.load(world), agreement

    def check(self, rows: Sequence[Row]) -> list[Verdict]:
        return [self._verdict(from_json(row["annotation"]), row["response"]) for row in rows]

    def _verdict(self, plan: Annotation, response: str) -> Verdict:
        story = self._world.parse(response)
        if story.form != _FORM:
            return Verdict(False, "not in the form of an answer")
        read = {name: [] if value is None else [value] for name, value in story.attributes.items()}
        # A story has one value for an attribute: a plan with two of them cannot be carried out.
        named = [tag.key for tag in plan]
        twice = {key for key in named if key in read and named.count(key) > 1}
        if twice:
            return Verdict(False, "plan contradicts itself")
        return compare(plan, read, self._agreement, nothing="plan names no attribute")

    def close(self) -> None:
        """Nothing to end."""
