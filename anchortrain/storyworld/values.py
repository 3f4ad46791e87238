"""The six attributes of a story and how each value shows in the text.

Four attributes appear as their own word, always lower case and after a space, so that a value in an annotation and
in the text has the same tokens. Genre and ending appear as a signature phrase, a clause with two wordings. No value
is a part of another value or of any word that the grammar writes: spotting a word or phrase decides the attribute.
"""

WORD_VALUES: dict[str, tuple[str, ...]] = {
    "hero": tuple(
        "fox badger otter heron rabbit weasel goose magpie hedgehog squirrel beaver lynx wizard knight princess "
        "shepherd sailor tailor blacksmith dragon goblin mermaid pirate orphan".split()
    ),
    "trait": tuple("brave clever greedy gentle lazy proud shy curious stubborn cheerful lonely patient".split()),
    "place": tuple(
        "mill harbour castle forest village meadow mountain island swamp desert market lighthouse tower cave garden "
        "monastery".split()
    ),
    "object": tuple(
        "lantern crown mirror compass flute sword drum kettle feather pearl cloak bell rope coin candle basket".split()
    ),
}

PHRASES: dict[str, dict[str, tuple[str, str]]] = {
    "genre": {
        "comedy": ("everyone laughed until they cried", "all the children laughed for days"),
        "mystery": ("strange signs were found on every door", "things were lost on the way"),
        "romance": ("two young people fell in love", "love songs came from every door"),
        "horror": ("dark shadows moved on the walls", "screams came out of the dark"),
        "adventure": ("a long road led to the north", "travellers set out for a far land"),
        "battle": ("soldiers came over the hills", "an army stood before the gates"),
        "magic": ("stones began to sing", "old spells were heard again"),
        "feud": ("friends became enemies", "brothers fought over the land"),
    },
    "ending": {
        "wedding": ("they were married before the first snow", "the bride danced all day"),
        "exile": ("the gates were closed forever", "there was no way home"),
        "reunion": ("lost brothers found each other", "a mother held her children again"),
        "riches": ("gold was found for everyone", "no one was poor again"),
        "truce": ("both sides shook hands", "old enemies sat down together"),
        "defeat": ("all the hard work was lost", "everything turned to ashes"),
        "escape": ("a small boat carried them away", "they ran and never looked back"),
        "victory": ("flags flew for seven days", "the enemies were beaten at last"),
    },
}

# Attribute -> its values, in the canonical order of tags and of the columns of a latent.
ATTRIBUTES: dict[str, tuple[str, ...]] = WORD_VALUES | {name: tuple(values) for name, values in PHRASES.items()}
