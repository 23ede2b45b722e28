"""The small stock of words that instances are made of: each is one piece of the vocabulary."""

from __future__ import annotations

NAMES = (
    "Ana", "Ben", "Cal", "Dana", "Eli", "Fay", "Gus", "Hana",
    "Ivo", "Jan", "Kim", "Leo", "Mia", "Noa", "Oto", "Pia",
)  # fmt: skip
THINGS = ("apples", "books", "cards", "coins", "cups", "eggs", "nuts", "pens", "shells", "stamps")
OBJECTS = ("ball", "bell", "book", "coin", "cup", "drum", "hat", "key", "lamp", "pen")
SEATS = ("black", "blue", "brown", "green", "pink", "red", "white", "yellow")
OCCASIONS = ("party", "race", "visit", "lesson", "concert", "match", "talk", "walk")
PROJECTS = ("course", "trip", "lease", "show", "job", "camp", "project", "season")

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip

# Kind with its article -> its members.
KINDS: dict[str, tuple[str, ...]] = {
    "an animal": ("cat", "cow", "dog", "duck", "goat", "horse", "lion", "mouse"),
    "a fruit": ("apple", "cherry", "fig", "grape", "lemon", "mango", "pear", "plum"),
    "a colour": SEATS,
    "a tool": ("axe", "drill", "file", "hammer", "pliers", "rake", "saw", "spade"),
    "a garment": ("coat", "dress", "glove", "scarf", "shirt", "shoe", "skirt", "sock"),
    "a vehicle": ("bike", "boat", "bus", "car", "train", "tram", "truck", "van"),
}
