"""Search spaces by the thousand: written from the grammar of a space, or shipped ones damaged in every way we know.

Each seed gives the same bytes and overrides for ever, so that a finding can be looked at again:

    python -c "from tests.fuzzed_spaces import fuzzed; print(fuzzed(17))"
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from study.space.quantities import Flag, Listed, Name, Number, Numbers, Text
from study.space.schema import HOME, RULES, SECTIONS, TOP_KEYS
from study.space.section import quantities

SHIPPED = tuple(sorted((Path(__file__).parents[1] / "search_spaces").glob("*.yaml")))
ODD_WORDS = (
    *("", "~", "null", "true", "False", "no", "YES", "on", "0", "-0.0", "-1", "1", "2", "1e999", "-1e-999", ".nan"),
    *("-.inf", "1/0", "1/3", "8/255", "0x1F", "0o17", "1_000", "1:30", "9" * 60, "9" * 5000, "1e-4", "1/1e3", "NaN"),
    *("auto", "all", "[]", "{}", "[[]]", "[null]", "{a: 1}", "''", '"\\u0000"', '"\\x07"', '"\\ud800"', "'a\n\n b'"),
    *("*a", "&a 1", "<<: *a", "!!python/object/apply:os.system ['id']", "!!binary aGk=", "!x y", "!!set {a}"),
    *(
        "2026-11-21",
        "| \n  text",
        "> text",
        "@x",
        "`x`",
        "%x",
        "? a",
        "- a",
        "é",
        "\u0430lpha",
        "\uff41lpha",
        "\u202e1",
    ),
    *(
        "١٢",
        "²",
        "½",
        "1 000",
        "x" * 3000,
        "é" * 3000,
        "..",
        "../../etc/passwd",
        "\\",
        "#",
        ": ",
        "a: b: c",
        "=",
        "1.2.3",
    ),
)
"""Values, and pieces of YAML, that readers trip over."""
LETTERS = "\t\x00\x07\x1b\x7f\x85\xa0\u2028\u2029\u200b\ufeff\ufffe\U0001f600\r{}[]:,&*!|>'\"%@`#?-= \n"
"""Letters that mean something to YAML, to a terminal, or to nobody."""


_RULES = {**{key: rule for section in SECTIONS.values() for key, rule in quantities(section).items()}, **RULES}


@dataclass(frozen=True)
class Fuzzed:
    """One case."""

    seed: int
    content: bytes
    overrides: tuple[str, ...]


def fuzzed(seed: int) -> Fuzzed:
    """Return the case of a seed: a third written, two thirds shipped spaces; most damaged, some with overrides."""
    dice = random.Random(seed)
    text = written(dice) if dice.random() < 1 / 3 else _shipped(dice.randrange(len(SHIPPED)))
    for _ in range(dice.choice((0, 0, 1, 1, 1, 2, 3, 8))):
        text = dice.choice(DAMAGES)(text, dice)
    content = text.encode("utf-8", "surrogatepass")
    if dice.random() < 0.15:
        content = dice.choice(BYTE_DAMAGES)(content, dice)
    overrides = [override(dice) for _ in range(dice.choice((0, 0, 0, 0, 1, 1, 2, 5)))]
    return Fuzzed(seed, content, tuple(overrides))


@cache
def _shipped(place: int) -> str:
    return SHIPPED[place].read_text(encoding="utf-8")


# ---------------------------------------------------------------- written from the grammar


def written(dice: random.Random) -> str:
    """Write a space that is valid more often than not."""
    parts = [f"space:\n{_space(dice)}"]
    for name in dice.sample(sorted(SECTIONS), dice.choice((0, 1, 2, 3))):
        parts.append(f"{name}: {_section(name, dice)}")
    if dice.random() < 0.2:
        parts.append(f"teachers: [{', '.join('{arch: resnet20}' for _ in range(dice.randint(1, 3)))}]")
    if dice.random() < 0.1:
        parts.append(f"anchors: [{{{dice.choice(sorted(HOME))}: {dice.choice(ODD_WORDS)}}}]")
    if dice.random() < 0.1:
        parts.append(f"contrast: {{measure: accuracy, factor: {dice.choice(sorted(HOME))}, levels: [1, 2]}}")
    dice.shuffle(parts)
    return "\n".join(parts) + "\n"


_PLAIN = ("alpha", "temperature", "horizon", "solver", "learning_rate", "weight_decay", "batch_size", "epochs", "seed")


def _space(dice: random.Random) -> str:
    usual = dice.random() < 0.7
    names = dice.sample(_PLAIN if usual else sorted(HOME), dice.randint(1, 5 if usual else 3))
    return "\n".join(f"  {name}: {_range(name, dice)}" for name in names)


def _range(name: str, dice: random.Random) -> str:
    rule = RULES.get(name)
    values = list(dict.fromkeys(_value(rule, dice) for _ in range(dice.randint(1, 4))))
    if not isinstance(rule, Number) or dice.random() < 0.4:
        return f"{{choice: [{', '.join(values)}]}}" if dice.random() < 0.8 else values[0]
    low = max(rule.low, 0.01)
    high = min(rule.high, 100 * low + 10)
    kind = "int" if rule.whole else "float"
    ends = (max(1, round(low)), max(2, round(high))) if rule.whole else (low, high)
    more = dice.choice(("", "", ", log: true", ", step: 1", ", when: {solver: [rk4]}", ", when: {method: [kd]}"))
    return f"{{{kind}: [{ends[0]:g}, {ends[1]:g}]{more}}}"


def _section(name: str, dice: random.Random) -> str:
    rules = quantities(SECTIONS[name])
    if not rules:
        return "{accuracy: maximize}"
    keys = dice.sample(sorted(rules), min(len(rules), dice.randint(1, 3)))
    return f"{{{', '.join(f'{key}: {_value(rules[key], dice)}' for key in keys)}}}"


def _value(rule: object, dice: random.Random) -> str:
    """Write a value that its rule takes, now and then one that it may not."""
    if dice.random() < 0.03:
        return dice.choice(ODD_WORDS)
    if isinstance(rule, Number):
        return _number(rule, dice)
    texts: Sequence[str] = ("1", "null", "{epsilon: 1/16}")
    match rule:
        case Name(names=names):
            texts = names
        case Flag():
            texts = ("true", "false")
        case Numbers(each=each):
            texts = (f"[{_value(each, dice)}]",)
        case Listed(example=example):
            texts = (example,)
        case Text():
            texts = ("text", "'a b'", "x/y")
        case _:
            pass
    return dice.choice(texts)


def _number(rule: Number, dice: random.Random) -> str:
    if rule.words and dice.random() < 0.3:
        return dice.choice(rule.words)
    low, high = max(rule.low, -10.0), min(rule.high, 100.0)
    value = low + dice.random() * (high - low)
    return f"{max(low, round(value)):g}" if rule.whole else f"{value:.4g}"


# ---------------------------------------------------------------- damaged


def _lines(damage: Callable[[list[str], random.Random], None]) -> Callable[[str, random.Random], str]:
    def damaged(text: str, dice: random.Random) -> str:
        lines = text.split("\n")
        damage(lines, dice)
        return "\n".join(lines)

    return damaged


def _delete_line(lines: list[str], dice: random.Random) -> None:
    del lines[dice.randrange(len(lines))]


def _double_line(lines: list[str], dice: random.Random) -> None:
    lines.insert(dice.randrange(len(lines) + 1), dice.choice(lines))


def _swap_lines(lines: list[str], dice: random.Random) -> None:
    first, second = dice.randrange(len(lines)), dice.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]


def _indent_line(lines: list[str], dice: random.Random) -> None:
    place = dice.randrange(len(lines))
    lines[place] = dice.choice((" ", "  ", "\t", "- ", "? ", "")) + lines[place].lstrip(dice.choice(("", " ")))


def _add_line(lines: list[str], dice: random.Random) -> None:
    key = dice.choice((*TOP_KEYS, *HOME, "<<", "nonsense", "", "x" * 500))
    lines.insert(dice.randrange(len(lines) + 1), f"{dice.choice(('', '  '))}{key}: {dice.choice(ODD_WORDS)}")


def _replace_value(text: str, dice: random.Random) -> str:
    found = list(re.finditer(r"(?<=[:\[,] )[^\s,\]}#]+", text))
    return _put(text, dice.choice(found) if found else None, dice.choice(ODD_WORDS))


def _redraw_value(text: str, dice: random.Random) -> str:
    """Give a key another value of its own kind, so that what follows from it no longer fits."""
    found = [each for each in re.finditer(r"(\w+): +([\w./-]+)", text) if each.group(1) in _RULES]
    if not found:
        return text
    where = dice.choice(found)
    return text[: where.start(2)] + _value(_RULES[where.group(1)], dice) + text[where.end(2) :]


def _swap_words(text: str, dice: random.Random) -> str:
    words = list(re.finditer(r"[\w./-]+", text))
    if not words:
        return text
    return _put(text, dice.choice(words), dice.choice(words).group())


def _replace_number(text: str, dice: random.Random) -> str:
    found = list(re.finditer(r"(?<=[ \[])[0-9][0-9./e-]*", text))
    numbers = ("0", "1", "-1", "2/3", "1e-300", "1e300", "4294967296", "0.1", "7", "1" + "0" * 30, "1" + "0" * 400)
    return _put(text, dice.choice(found) if found else None, dice.choice(numbers))


def _put(text: str, where: re.Match[str] | None, word: str) -> str:
    return text if where is None else text[: where.start()] + word + text[where.end() :]


def _insert_letters(text: str, dice: random.Random) -> str:
    place = dice.randrange(len(text) + 1)
    return text[:place] + "".join(dice.choices(LETTERS, k=dice.choice((1, 1, 2, 5)))) + text[place:]


def _cut(text: str, dice: random.Random) -> str:
    start = dice.randrange(len(text) + 1)
    return text[:start] + text[start + dice.choice((1, 3, 30, 10**6)) :]


def _nest(text: str, dice: random.Random) -> str:
    depth = dice.choice((3, 15, 25, 400, 20_000))
    opened, closed = dice.choice((("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")))
    return f"{text}\n{dice.choice((*TOP_KEYS, 'x'))}: {opened * depth}{closed * dice.choice((depth, 0, depth - 1))}\n"


def _laugh(text: str, dice: random.Random) -> str:
    """Refer to what refers to what refers ...; written out, it would hold billions of words."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'ha'}]" for n in range(dice.randint(1, 12))]
    merged = dice.choice(("", f"<<: *a{len(levels) - 1}\n", "budget: {<<: *a0}\n"))
    return "\n".join(levels) + "\n" + merged + text


def _lengthen(text: str, dice: random.Random) -> str:
    piece, times = dice.choice((("#" * 70 + "\n", 900), ("a: b\n", 3000), ("a, ", 9000), ("x", 70_000), ("\n", 60_000)))
    place = dice.randrange(len(text) + 1)
    return text[:place] + piece * dice.randint(1, times) + text[place:]


def _documents(text: str, dice: random.Random) -> str:
    return dice.choice((f"---\n{text}...\n", f"{text}---\n{text}", f"%YAML 1.1\n---\n{text}", f"%TAG ! x\n---\n{text}"))


def _empty(text: str, dice: random.Random) -> str:
    return dice.choice(("", "\n", "#", "null", "[]", "{}", "---", "...", "space:", "space: {}", "- a", "x", "\ufeff"))


DAMAGES: Sequence[Callable[[str, random.Random], str]] = (
    *(_lines(each) for each in (_delete_line, _double_line, _swap_lines, _indent_line, _add_line)),
    *(
        _redraw_value,
        _redraw_value,
        _redraw_value,
        _redraw_value,
        _replace_value,
        _swap_words,
        _swap_words,
        _replace_number,
        _replace_number,
        _insert_letters,
    ),
    *(_cut, _nest, _laugh, _lengthen, _documents, _empty),
)


def _flip_bytes(content: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(min(len(damaged), dice.choice((1, 1, 3, 20)))):
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
    return bytes(damaged)


def _encode(content: bytes, dice: random.Random) -> bytes:
    return content.decode("utf-8", "replace").encode(dice.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")), "replace")


def _end_lines(content: bytes, dice: random.Random) -> bytes:
    return content.replace(b"\n", dice.choice((b"\r\n", b"\r", b"\x85", b"\x00", b"\n\n")))


def _noise(content: bytes, dice: random.Random) -> bytes:
    return dice.randbytes(dice.choice((1, 10, 1000, 70_000)))


BYTE_DAMAGES: Sequence[Callable[[bytes, random.Random], bytes]] = (
    _flip_bytes,
    _flip_bytes,
    _encode,
    _end_lines,
    _noise,
)


def override(dice: random.Random) -> str:
    """Write an override that may be laid over a space, or over nothing."""
    if dice.random() < 0.5:
        section = dice.choice([name for name in SECTIONS if quantities(SECTIONS[name])])
        key = dice.choice(sorted(quantities(SECTIONS[section])))
        return f"{dice.choice((section, 'space'))}.{key}={_value(_RULES[key], dice)}"
    section = dice.choice((*SECTIONS, "space", "space", "teachers.0", "anchors.0", "contrast", "nonsense", ""))
    key = dice.choice(sorted({*HOME, *SECTIONS.get(section, SECTIONS["study"]).model_fields}))
    deeper = dice.choice(("", "", "", ".choice", ".float", ".0", ".when.solver", "..", ".x.y", "." * 50))
    value = dice.choice((*ODD_WORDS, *(f"{n}" for n in range(5)), "{choice: [1, 2]}", "{float: [0.1, 1]}", "[1, 2]"))
    text = f"{section}.{key}{deeper}={value}"
    return dice.choice((text, text, text, text, text, f"{key}={value}", value, _insert_letters(text, dice)))
