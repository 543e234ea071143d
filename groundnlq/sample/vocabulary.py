"""The words of the sample world; all can be drawn. Order matters: random draws index into these lists."""

PLACES = (
    "kitchen", "living room", "bathroom", "bedroom", "garage", "garden", "office", "hallway", "balcony",
    "laundry room",
)  # fmt: skip

# category -> objects; a question such as "What tool did I wash?" names the category
OBJECTS = {
    "tool": ("hammer", "screwdriver", "wrench", "saw", "axe", "magnet", "ladder", "bolt", "toolbox", "clamp", "hook"),
    "food": ("apple", "onion", "carrot", "bread", "cheese", "tomato", "banana", "egg", "mushroom", "melon", "pizza"),
    "dish": ("plate", "cup", "bowl", "pan", "spoon", "knife", "teapot", "bottle", "jar", "glass", "pot"),
    "clothing": ("shirt", "sock", "jacket", "glove", "hat", "scarf", "shoe", "dress", "boot", "cap", "sandal"),
    "stationery": ("book", "notebook", "ruler", "envelope", "folder", "pencil", "newspaper", "calendar", "map",
        "scissors", "paperclip"),
    "cleaning thing": ("sponge", "broom", "bucket", "soap", "plunger", "toothbrush", "tissue", "detergent", "comb",
        "razor", "duster"),
    "device": ("phone", "laptop", "camera", "lamp", "radio", "clock", "keyboard", "printer", "headset", "television",
        "flashlight"),
    "toy": ("ball", "doll", "puzzle", "kite", "robot", "balloon", "drum", "racket", "skateboard", "guitar", "trumpet"),
}  # fmt: skip
CATEGORY_OF = {name: category for category, names in OBJECTS.items() for name in names}
ALL_OBJECTS = tuple(CATEGORY_OF)

CONTAINERS = ("drawer", "fridge", "oven", "cabinet", "box", "basket", "bag", "bin", "suitcase", "cart")

# verb -> (past, third person, participle); all of them go with every object
VERBS = {
    "put": ("put", "puts", "putting"),
    "take": ("took", "takes", "taking"),
    "wash": ("washed", "washes", "washing"),
    "wipe": ("wiped", "wipes", "wiping"),
    "drop": ("dropped", "drops", "dropping"),
    "shake": ("shook", "shakes", "shaking"),
    "repair": ("repaired", "repairs", "repairing"),
    "paint": ("painted", "paints", "painting"),
    "weigh": ("weighed", "weighs", "weighing"),
    "see": ("saw", "looks at", "looking at"),
    "open": ("opened", "opens", "opening"),
    "close": ("closed", "closes", "closing"),
    "talk": ("talked to", "talks to", "talking to"),
}
OBJECT_VERBS = ("put", "take", "wash", "wipe", "drop", "shake", "repair", "paint", "weigh", "see")
CONTAINER_VERBS = ("open", "close")
NEEDS_CONTAINER = ("put", "take")

PERSONS = ("mother", "grandmother", "boy", "girl", "baby", "policeman", "builder", "uncle")

# the class numbers of EgoClip's file: places in these lists
VERB_CLASSES = tuple(VERBS)
NOUN_CLASSES = (*ALL_OBJECTS, *CONTAINERS, *PERSONS)


def plural(name: str) -> str:
    """English plural, as far as these words need it.

    >>> [plural(word) for word in ("knife", "toothbrush", "soap", "cup")]
    ['knives', 'toothbrushes', 'soap', 'cups']
    """
    if name in ("scissors", "bread", "cheese", "soap"):
        return name
    if name == "knife":
        return "knives"
    return name + ("es" if name.endswith(("sh", "ch", "s", "x", "o")) else "s")
