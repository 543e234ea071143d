"""The words of the sample world. Order matters: random draws index into these lists."""

from __future__ import annotations

PLACES = (
    "kitchen", "living room", "bathroom", "bedroom", "garage", "garden", "office", "hallway",
    "basement", "balcony", "laundry room", "dining room",
)  # fmt: skip

# category -> objects; a question such as "What tool did I wash?" names the category
OBJECTS = {
    "tool": (
        "hammer", "screwdriver", "wrench", "drill", "saw", "clamp", "shovel", "rake", "axe",
        "chisel", "crowbar", "ladder", "trowel", "nail", "screw", "rope", "bolt", "wheelbarrow",
    ),
    "food": (
        "apple", "onion", "carrot", "bread", "cheese", "tomato", "lemon", "banana", "egg",
        "potato", "pepper", "cucumber", "orange", "mushroom", "sausage", "cookie", "melon",
        "pizza",
    ),
    "dish": (
        "plate", "cup", "bowl", "pan", "spoon", "knife", "kettle", "fork", "mug", "jug", "saucer",
        "ladle", "spatula", "teapot", "bottle", "jar", "lid", "whisk",
    ),
    "clothing": (
        "shirt", "sock", "jacket", "towel", "glove", "hat", "scarf", "shoe", "belt", "sweater",
        "dress", "skirt", "coat", "boot", "apron", "blanket", "pillow", "tie",
    ),
    "stationery": (
        "book", "pen", "notebook", "ruler", "envelope", "stapler", "folder", "pencil", "eraser",
        "marker", "magazine", "newspaper", "calendar", "letter", "stamp", "sticker", "crayon",
        "map",
    ),
    "cleaning thing": (
        "sponge", "broom", "brush", "mop", "duster", "soap", "dustpan", "bucket", "rag", "hose",
        "detergent", "vacuum", "napkin", "plunger", "squeegee", "toothbrush", "comb", "tissue",
    ),
    "device": (
        "phone", "laptop", "charger", "camera", "lamp", "radio", "clock", "keyboard", "tablet",
        "printer", "headset", "speaker", "television", "router", "flashlight", "toaster",
        "blender", "fan",
    ),
    "toy": (
        "ball", "doll", "puzzle", "kite", "robot", "balloon", "drum", "whistle", "marble",
        "domino", "frisbee", "racket", "skateboard", "guitar", "flute", "dart", "puppet",
        "scooter",
    ),
}  # fmt: skip
CATEGORY_OF = {name: category for category, names in OBJECTS.items() for name in names}
ALL_OBJECTS = tuple(CATEGORY_OF)

CONTAINERS = (
    "drawer", "fridge", "cabinet", "box", "basket", "bag", "shelf", "sink", "bin", "suitcase",
    "tray", "oven",
)  # fmt: skip

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

PERSONS = (
    "neighbor", "plumber", "teacher", "doctor", "mother", "brother", "gardener", "waiter",
    "policeman", "electrician",
)  # fmt: skip


def plural(name: str) -> str:
    """English plural, as far as these words need it.

    >>> [plural(word) for word in ("knife", "brush", "soap", "cup")]
    ['knives', 'brushes', 'soap', 'cups']
    """
    if name in ("scissors", "clamp", "headphones", "bread", "cheese", "soap"):
        return name
    if name == "knife":
        return "knives"
    return name + ("es" if name.endswith(("sh", "ch", "s", "x", "o")) else "s")
